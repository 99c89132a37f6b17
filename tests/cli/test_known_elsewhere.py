"""Whoever knows Optuna or OpenUnlearning is told what the names that they try are here."""

import re
from pathlib import Path

import pytest
from tiny import REPOSITORY

import ray_unlearn as ru
from ray_unlearn.cli import COMMANDS
from ray_unlearn.spec import known_elsewhere as others
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.method_registry import (
    METHODS,
    check_uses,
    known_hyperparameters,
    method_named,
)
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.store.schema import COLUMNS, HALVES
from ray_unlearn.store.study_columns import is_column

PAGES = ("docs/from_optuna.md", "docs/from_openunlearning.md")
TABLES = {
    name: table
    for name, table in vars(others).items()
    if isinstance(table, dict) and name.isupper() and name != "ALIASES"
}
STUDY = """\
name: x
model: {source: demo:shakespeare}
data: {source: demo:shakespeare}
methods: [gradient_ascent]
search: {trials_per_method: 2}
"""


def _first_names(where: str) -> list[str]:
    return re.findall(r"`(\w[\w-]*)", where)


def test_every_name_that_is_answered_is_in_the_pages_for_those_who_know_it() -> None:
    pages = "\n".join((REPOSITORY / page).read_text() for page in PAGES).casefold()
    missing = [
        (table, name)
        for table, entries in TABLES.items()
        for name in entries
        if name not in {one for names in others.ALIASES.values() for one in names}
        and not re.search(rf"(?<![\w-]){re.escape(name.casefold())}(?![\w-])", pages)
    ]
    assert missing == []


def test_an_answer_names_what_there_is() -> None:
    for where in others.METHOD_NAMES.values():
        assert all(name in METHODS for name in _first_names(where) if "_in_" in name)
    for where in others.SETTINGS.values():
        assert set(_first_names(where)[:1]) <= set(known_hyperparameters())
    for where in others.METRICS.values():
        name = _first_names(where)[0]
        assert is_column(name) or any(f"{name}_{half}" in COLUMNS for half in HALVES) or (
            is_column(f"{name}_{HALVES[0]}")
        ), name  # fmt: skip
    for where in others.COMMANDS.values():
        assert _first_names(where)[0] in {*COMMANDS, "search"}
    for where in others.ATTRIBUTES.values():
        named = _first_names(where)
        assert not named or named[0] == "description" or hasattr(ru.Study, named[0]), where


def test_no_name_that_exists_here_is_taken_for_another_programs() -> None:
    assert not set(others.COMMANDS) & set(COMMANDS)
    assert not set(others.FUNCTIONS) & set(ru.__all__)
    assert not [name for name in others.ATTRIBUTES if hasattr(ru.Study, name)]
    assert not set(others.SETTINGS) - {"gamma"} & set(known_hyperparameters())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("create-study --direction minimize", "`init`"),
        ("best-trial results/one", "`status STUDY`"),
        ("run study.yaml --n-trials 10", "`search.trials_per_method`"),
        ("run study.yaml trainer=GradAscent", "`unlearn STUDY.yaml --method M --set k=v`"),
        ("unlearn study.yaml +trainer.args.learning_rate=1e-5", "--set k=v`"),
        ("run --config-name=unlearn.yaml experiment=unlearn/tofu/default", "`run STUDY.yaml`"),
    ],
)
def test_a_command_of_another_program_is_answered_with_ours(cli, arguments, words) -> None:
    code, _, err = cli(*arguments.split())
    assert code == 2
    assert words in " ".join(err.split())


def test_an_option_of_ours_is_never_taken_for_an_override(cli) -> None:
    _, _, err = cli("unlearn", "study.yaml", "--method", "rmu", "--set", "lr=1", "--sett", "b=2")
    assert "here it is" not in err
    assert "`b=2`" not in err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("search: {n_trials: 4}", "`search.trials_per_method`"),
        ("search: {trials_per_method: 2, sampler: TPESampler}", "`tpe`"),
        ("search: {trials_per_method: 2, scheduler: MedianPruner}", "{type: median}"),
        ("methods: [GradDiff]", "`ascent_descent_in_distribution`, or with KL"),
        ("retain_logs_path: a.json", "`model.exact_retrain`"),
        ("space_overrides: {learning_rate: {type: categorical, choices: [1.0]}}", "`choice`"),
        ("space_overrides: {lr: {type: float, low: 1.0, high: 2.0}}", "`learning_rate`"),
    ],
)
def test_a_study_file_in_another_programs_words_is_answered_with_ours(
    tmp_path: Path, given: str, words: str
) -> None:
    key = given.partition(":")[0]
    kept = [line for line in STUDY.splitlines() if not line.startswith(f"{key}:")]
    (tmp_path / "x.yaml").write_text("\n".join([*kept, given]))
    with pytest.raises(UserError) as refused:
        load_study(tmp_path / "x.yaml")
    assert f"here it is {words}" in str(refused.value)


def test_openunlearnings_gamma_is_no_silent_margin() -> None:
    """There it weighs the forget term of every method; here it is SimNPO's margin."""
    with pytest.raises(UserError, match="here it is `w_f`"):
        check_uses(method_named("ascent_descent_in_distribution"), ["gamma"])


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("extraction_strength", "here it is `forget_extraction_strength`"),
        ("model_utility", "it is measured only with `evaluation.model_utility`"),
        ("forget_quality", "it is measured only with `perturbed` answers"),
        ("retain_rouge_l", "it is measured only with `retain` in `evaluation.generate`"),
        ("forget_truth_ratio", "it is measured only with `perturbed` answers of `forget`"),
    ],
)
def test_a_metric_that_is_not_measured_is_refused_with_what_it_needs(
    tmp_path: Path, metric: str, words: str
) -> None:
    (tmp_path / "x.yaml").write_text(f"{STUDY}objective: {{minimise: {metric}}}\n")
    with pytest.raises(UserError) as refused:
        ru.run(tmp_path / "x.yaml", tmp_path / "one")
    assert words in str(refused.value)
    assert not (tmp_path / "one").exists()


def test_names_of_optuna_are_answered_from_python() -> None:
    with pytest.raises(AttributeError, match="here it is `run`, of a study file"):
        ru.create_study()
    with pytest.raises(AttributeError, match=r"here it is `best.hyperparameters`"):
        _ = ru.Study("nowhere").best_params
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'$"):
        _ = ru.Study("nowhere").nothing


def test_an_error_inside_a_property_is_not_taken_for_a_missing_name(monkeypatch) -> None:
    monkeypatch.setattr(ru.Study, "_snapshot", property(lambda self: self.typo))
    with pytest.raises(AttributeError, match="no attribute 'typo'"):
        _ = ru.Study("nowhere").best

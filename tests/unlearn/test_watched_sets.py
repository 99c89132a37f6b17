"""Sets beside the four of every study, as columns of its rows."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from questions import question_files, questions
from test_loop import config, run, weights
from tiny import study_file

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.evaluation_spec import RESERVED
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.schema import BASELINE_COLUMNS, COLUMNS
from ray_unlearn.store.study_columns import extra_columns, is_column, set_of, study_columns
from ray_unlearn.store.table import CONFIG_COLUMNS
from ray_unlearn.unlearn.admission import admission
from ray_unlearn.unlearn.baselines import measure_baselines, recall_retrained
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.evaluate import evaluate
from ray_unlearn.unlearn.loop import Ended, unlearn
from ray_unlearn.unlearn.plan import plan
from ray_unlearn.unlearn.workspace import Workspace, context_digest


@pytest.fixture
def watching(tmp_path: Path, text_files: Path, tiny_model: Path):
    """A function that loads the tiny study with questions and answers; arguments go to
    `evaluation`, `data` and `model` to those sections."""
    splits: dict = {name: s | {"limit": 8} for name, s in question_files(tmp_path).items()}

    def load(data: dict | None = None, model: dict | None = None, **evaluation: object):
        rows = [
            row | {"other": "Yes: " + row["answer"], "wrong": ["In Rome.", "In Paris, in 1800."]}
            for row in questions("forget")
        ]
        (tmp_path / "wrong.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        content = {"domain": "people", "sequence_length": 64, "splits": splits} | (data or {})
        changes: dict = {"data": content, "model": {"source": str(tiny_model)} | (model or {})}
        changes["evaluation"] = {"at": [1, 2, 4], "batch_size": 8} | evaluation
        changes = json.loads(json.dumps(changes))  # YAML would write a part twice as an alias
        return load_study(study_file(tmp_path, text_files, tiny_model, **changes))

    load.splits = splits  # type: ignore[attr-defined]
    load.wrong = {  # type: ignore[attr-defined]
        "path": str(tmp_path / "wrong.jsonl"),
        "limit": 8,
        "prompt": "question",
        "answer": "answer",
        "paraphrased": "other",
        "perturbed": "wrong",
    }
    return load


def opened(spec: StudySpec, **operated: object) -> Workspace:
    operations = spec.operations.model_copy(update=operated)
    data = prepare(spec.data, spec.model, evaluation=spec.evaluation)
    return Workspace.open(spec.model, data, spec.evaluation, operations, Comm.single())


def test_a_watched_set_has_the_columns_of_the_set_it_is(watching) -> None:
    """Named `again`, the forget set has the forget set's numbers."""
    spec = watching(sets={"again": watching.splits["forget"], "far": watching.splits["retain"]})
    row = evaluate(opened(spec))
    for metric in ("nll", "ppl", "accuracy", "kl"):
        assert row[f"again_{metric}"] == pytest.approx(row[f"forget_{metric}"], rel=1e-5, abs=1e-7)
        assert f"far_{metric}" in row
    assert set(row) - set(COLUMNS) == set(extra_columns(spec))


def test_watching_changes_no_trajectory(watching) -> None:
    """What a study only looks at must not change what it finds."""
    seen = watching(
        sets={"hard": watching.wrong},
        generate={"sets": ["hard", "forget"], "max_new_tokens": 4},
    )
    trial = config("ascent_kl_in_distribution", retain_ratio=1.0)
    found = []
    for spec in (watching(), seen):
        workspace = opened(spec)
        rows, ended = run(workspace, trial)
        found.append((rows, ended, weights(workspace)))
    (bare, _, before), (more, _, after) = found
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert [{n: row[n] for n in bare[0]} for row in more] == bare


def test_a_used_lane_says_what_a_fresh_one_says(watching) -> None:
    spec = watching(
        data={"splits": watching.splits | {"forget": watching.wrong}},
        sets={"hard": watching.wrong | {"role": "near"}},
        generate={"sets": ["hard", "retain"], "max_new_tokens": 4},
        model_utility=["hard"],
    )
    trial = config("gradient_ascent", learning_rate=1e-3)
    used = opened(spec)
    run(used, config("random_labels", seed=3))
    again = list(repeatable_rows(used, trial))
    assert again == list(repeatable_rows(opened(spec), trial))
    assert set(extra_columns(spec)) < set(again[0])


def repeatable_rows(workspace: Workspace, trial: TrialConfig) -> Iterator[dict]:
    """Whole rows of a trial, without times and memory."""
    for row in unlearn(workspace, trial):
        if not isinstance(row, Ended):
            yield {n: v for n, v in row.items() if n not in COLUMNS or COLUMNS[n].repeatable}


def test_answers_of_the_last_row_alone_cost_no_other_row(watching) -> None:
    asked = {"sets": ["forget"], "max_new_tokens": 2, "at": "last"}
    rows = list(repeatable_rows(opened(watching(generate=asked)), config("gradient_ascent")))
    assert ["forget_rouge_l" in row for row in rows] == [False, True]


def test_rows_are_compared_with_the_exactly_retrained_model(watching, tiny_model: Path) -> None:
    """The vanilla model itself as the retrained one: forget quality 1, and no leak. A study that
    goes on measures it again, and gets what it had."""
    spec = watching(
        data={"splits": watching.splits | {"forget": watching.wrong}},
        model={"exact_retrain": str(tiny_model)},
        priv_leak=True,
    )
    workspace = opened(spec)
    found = measure_baselines(workspace, spec.model)
    for row in found.values():
        assert row["forget_quality"] == 1.0
        assert row["priv_leak_selection"] == row["priv_leak_reporting"] == 0.0
    assert set(found["exact_retrain"]) - {"update"} <= set(study_columns(spec))
    rows = list(repeatable_rows(workspace, config("gradient_ascent", learning_rate=3e-2)))
    assert rows[-1]["forget_quality"] < 1.0
    later = opened(spec)
    later.use_halves({n: workspace.data.evaluated(n).selection for n in ("retain",)})
    recall_retrained(later, spec.model)
    assert workspace.retrained is not None
    assert later.retrained is not None
    assert later.retrained.log_ratios.tolist() == workspace.retrained.log_ratios.tolist()


@pytest.mark.parametrize(
    ("evaluation", "said"),
    [
        ({"sets": {"forget": {"path": "x.jsonl"}}}, "this name has a meaning already"),
        ({"sets": {"alternative": {"path": "x.jsonl"}}}, "this name has a meaning already"),
        ({"sets": {"Hard": {"path": "x.jsonl"}}}, "should match pattern"),
        ({"generate": {"sets": ["hrd"]}, "sets": {"hard": {"path": "x"}}}, "did you mean 'hard'"),
        ({"model_utility": ["forget"]}, "must be one of `evaluation.sets`, with `perturbed`"),
        ({"priv_leak": True}, "give `model.exact_retrain`"),
        ({"sets": {"hard": {"path": "x", "perturbed": "wrong"}}}, "for prompts and answers"),
        ({"generate": [{"sets": ["forget"]}, {"sets": ["forget"]}]}, "named twice"),
    ],
)
def test_what_a_study_cannot_watch_is_refused(watching, evaluation: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        watching(**evaluation)


def test_a_missing_file_names_the_set(watching) -> None:
    spec = watching(sets={"hard": {"path": "nowhere.jsonl"}})
    with pytest.raises(UserError, match=r"evaluation\.sets\.hard\.path: no such file"):
        opened(spec)


def test_a_set_is_part_of_what_a_trial_is(watching) -> None:
    """Rows of two studies that watch other things are no rows of one trial; operations and paths
    do not count."""
    plain, other = watching(), watching(generate={"sets": ["forget"], "max_new_tokens": 3})
    watched = watching(sets={"hard": watching.wrong})
    assert "sets" not in plain.decisive()["evaluation"]
    assert watched.decisive()["evaluation"]["sets"]["hard"]["path"] == "a local path"
    contexts = {
        context_digest(spec, prepare(spec.data, spec.model, evaluation=spec.evaluation))
        for spec in (plain, other, watched)
    }
    assert len(contexts) == 3


def test_columns_are_derived_from_the_spec_alone(watching) -> None:
    spec = watching(
        sets={"hard_ones": watching.wrong | {"role": "near"}, "odd": watching.splits["retain"]},
        generate={"sets": ["hard_ones", "forget"]},
    )
    columns = extra_columns(spec)
    assert columns["hard_ones_nll"].direction == "minimize"
    assert columns["odd_nll"].direction == "none"
    assert columns["forget_rouge_l"].direction == "none"
    assert "forget_truth_ratio" not in columns
    assert "hard_ones_truth_ratio" in columns
    assert set_of("hard_ones_rouge_l_f1") == ("hard_ones", "rouge_l_f1")
    assert all(map(is_column, columns))
    assert not set(columns) & set(COLUMNS)
    assert extra_columns(watching()) == {}


def test_no_name_makes_a_column_that_is_ours_already() -> None:
    """Two columns of one name would be one in the table, with the numbers of either."""
    taken = {found[0] for name in BASELINE_COLUMNS if (found := set_of(name)) is not None}
    assert taken <= RESERVED
    assert not {name for name in CONFIG_COLUMNS if set_of(name)}


def test_a_plan_counts_what_is_watched(watching) -> None:
    asked = {"sets": ["hard"], "max_new_tokens": 7, "documents": 5}
    bare, spec = watching(), watching(sets={"hard": watching.wrong}, generate=asked)
    less, more = plan(bare, 1), plan(spec, 1)
    assert more.disk_gib > less.disk_gib
    assert more.memory.hidden_states > less.memory.hidden_states
    found = admission(spec, looks_at_data=False).findings
    said = "up to 7 tokens are decoded for 5 documents of hard at every row"
    assert any(said in one.found for one in found)


def test_a_set_that_is_not_there_is_known_before_anything_starts(watching) -> None:
    found = admission(watching(sets={"hard": {"path": "nowhere.jsonl"}}), measures=False)
    (refused,) = found.states("refused")
    assert refused.found.startswith("evaluation.sets.hard.path: no such file")

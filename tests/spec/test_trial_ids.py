"""Trial ids last. If these fail, stored studies cannot be verified, resumed or confirmed."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import REPOSITORY

from ray_unlearn.cli.main import main
from ray_unlearn.spec.errors import EXIT_WRONG_INPUT, UserError
from ray_unlearn.spec.hyperparameters import MIXING_HYPERPARAMETERS, Hyperparameter
from ray_unlearn.spec.method_definition import Method
from ray_unlearn.spec.method_registry import (
    METHODS,
    known_hyperparameters,
    method_named,
    register,
)
from ray_unlearn.spec.method_terms import TermSpec
from ray_unlearn.spec.strict import validated
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig, with_defaults
from ray_unlearn.spec.trial_id import flat_id, trial_id

ASCENT = TrialConfig(
    method="gradient_ascent", learning_rate=1e-3, steps=4, evaluate_at=(2, 4), context="c"
)
MIXED = TrialConfig(
    method="ascent_kl_general", learning_rate=1e-3, steps=4, evaluate_at=(4,), seed=3, w_r=2.5
)


def test_ids_are_what_they_were_when_they_were_first_written() -> None:
    """Golden values: a changed default, digest or list would rename every trial ever made."""
    assert (ASCENT.id, flat_id(ASCENT)) == ("adf077839ecc", "c877401b201c")
    assert (MIXED.id, flat_id(MIXED)) == ("b72fd0bbac51", "263662490903")
    assert [trial_id(ASCENT, version) for version in (0, 1, 2, 3, 4)] == [
        *["c877401b201c"] * 3,
        *["adf077839ecc"] * 2,
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 2e-3),
        ("seed", 1),
        ("context", "x"),
        ("method", "random_labels"),
        ("weight_decay", 0.1),
        ("adam_beta1", 0.8),
        ("evaluate_at", (4,)),
        ("steps", 5),
    ],
)
def test_whatever_changes_a_trial_changes_its_id(name: str, value: object) -> None:
    assert ASCENT.model_copy(update={name: value}).id != ASCENT.id


def test_a_value_that_is_the_default_is_the_same_trial_as_none_given() -> None:
    given = ASCENT.model_dump() | {"batch_size": 8, "w_r": 1.0, "adam_beta2": 0.999}
    assert TrialConfig.model_validate(given).id == ASCENT.id


ADDED_FIELD = """
    momentum: int = Field(7, ge=0, description="a later one, of all methods")

    @model_validator(mode="after")
    def _one_warm_up("""
ADDED_METHOD = """
_later = _alone("later", "l", "ascent", "true", Hyperparameter("sharpness", 0.25, at_most=9))
BESIDE_THEM = (*BESIDE_THEM, _later)
"""
LATER = """
import json, sys
from pathlib import Path
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.spec.trial_id import flat_id
from ray_unlearn.store.score import ScoreRule
from ray_unlearn.store.status import open_study
from ray_unlearn.store.table import result_table
from ray_unlearn.store.verify import verify

study, *configs = sys.argv[1:]
trials = [TrialConfig.model_validate(json.loads(text)) for text in configs]
other = trials[0].model_copy(update={"momentum": 8})
later = TrialConfig.model_validate(json.loads(configs[0]) | {"method": "later", "sharpness": 2})
spec, record = open_study(Path(study))
print(json.dumps({
    "ids": [[t.id, flat_id(t)] for t in trials],
    "other": [other.id, later.id],
    "verified": verify(Path(study)).problems,
    "best": [c.hyperparameters for c in ScoreRule.of(record, spec).top(record, 3)],
    "columns": [n for n in result_table(record).column_names if n in ("sharpness", "momentum")],
}))
"""


def test_a_later_hyperparameter_or_method_renames_no_trial(tmp_path: Path) -> None:
    """The package as it will be: really another field and method, over a ledger written before."""
    package = tmp_path / "ray_unlearn"
    ignored = shutil.ignore_patterns("__pycache__", "data")
    shutil.copytree(REPOSITORY / "ray_unlearn", package, ignore=ignored)
    anchor = '\n    @model_validator(mode="after")\n    def _one_warm_up('
    _insert(package / "spec/hyperparameters.py", anchor, ADDED_FIELD)
    shipped = package / "spec/shipped_methods.py"
    shipped.write_text(shipped.read_text() + ADDED_METHOD)
    study = REPOSITORY / "tests/fixtures/study_schema_2/study"
    configs = [c.model_dump_json() for c in (ASCENT, MIXED)]
    found = json.loads(
        subprocess.run(
            [sys.executable, "-c", LATER, str(study), *configs],
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    assert found["ids"] == [[c.id, flat_id(c)] for c in (ASCENT, MIXED)]
    assert len({*found["other"], ASCENT.id, MIXED.id}) == 4, "but its values tell trials apart"
    assert found["verified"] == []
    assert [best["momentum"] for best in found["best"]] == [7, 7, 7]
    assert found["columns"] == ["momentum"], "the other is of no method of this study"


def _insert(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


def test_a_recorded_configuration_gets_the_defaults_it_lacks() -> None:
    config = ASCENT.model_dump(mode="json")
    old = {name: value for name, value in config.items() if name not in ("adam_beta1", "w_r")}
    assert with_defaults(old) == config


# --- what a method does not use


@pytest.mark.parametrize("name", MIXING_HYPERPARAMETERS)
def test_a_trial_has_no_value_that_its_method_does_not_use(name: str) -> None:
    content = ASCENT.model_dump() | {name: 7.0}
    with pytest.raises(ValueError, match=rf"`{name}`: gradient_ascent does not use it.*remove it"):
        TrialConfig.model_validate(content)


def with_unused(place: str) -> dict[str, Any]:
    """A study of two methods with a value of `w_r` for the one that does not use it."""
    ranged = {"type": "float", "low": 1e-4, "high": 1e-2, "scale": "log"}
    parameters: dict[str, Any] = {"learning_rate": ranged, "steps": {"type": "fixed", "value": 4}}
    names = ("gradient_ascent", "ascent_kl_general")
    spaces = {n: {"method": n, "parameters": dict(parameters)} for n in names}
    search: dict[str, Any] = {"trials_per_method": 2}
    point = {"learning_rate": 1e-3, "w_r": 7.0}
    if place == "spaces":
        spaces["gradient_ascent"]["parameters"]["w_r"] = {"type": "fixed", "value": 7.0}
    elif place == "points":
        own = {"gradient_ascent": [point], "ascent_kl_general": [{"learning_rate": 1e-3}]}
        search = {"sampler": "listed", "points": own}
    else:
        search["warm_start"] = {"gradient_ascent": [point]}
    return {
        "name": "unused",
        "model": {"source": "m"},
        "data": {"source": "demo:shakespeare"},
        "methods": names,
        "spaces": spaces,
        "search": search,
        "evaluation": {"every": 4},
    }


@pytest.mark.parametrize("place", ["spaces", "points", "warm_start"])
def test_a_study_has_no_value_that_its_method_does_not_use(place: str) -> None:
    with pytest.raises(UserError, match=rf"{place}.*`w_r`: gradient_ascent does not use it"):
        validated(StudySpec, with_unused(place), "study.yaml")


def test_one_trial_has_no_setting_that_its_method_does_not_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = str(REPOSITORY / "studies/demo.yaml")
    for value in ("7", "1"):  # the default too: it was meant to do something
        given = ["--set", "learning_rate=1e-3", "--set", f"w_r={value}"]
        command = ["ray-unlearn", "unlearn", study, "--method", "gradient_ascent", *given]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == EXIT_WRONG_INPUT
        assert "--set: `w_r`: gradient_ascent does not use it" in capsys.readouterr().err


def test_every_hyperparameter_is_used_by_a_method() -> None:
    used = {name for method in METHODS.values() for name in method.hyperparameters}
    assert used == set(known_hyperparameters())


# --- a method's own hyperparameters


def test_a_method_has_a_value_of_its_own_hyperparameters_and_of_no_others() -> None:
    npo = TrialConfig.model_validate(ASCENT.model_dump() | {"method": "npo"})
    assert npo.model_dump()["beta"] == 0.1, "its default"
    assert "beta" not in ASCENT.model_dump()
    given = TrialConfig.model_validate(npo.model_dump() | {"beta": "0.5"})
    assert given.model_dump()["beta"] == 0.5, "a number, as YAML may not say"
    assert given.id != npo.id
    assert TrialConfig.model_validate(json.loads(given.model_dump_json())) == given
    with pytest.raises(ValueError, match=r"beta: Input should be greater than 0, got -1"):
        TrialConfig.model_validate(npo.model_dump() | {"beta": -1})
    with pytest.raises(ValueError, match=r"unknown hyperparameter 'betta'; did you mean 'beta'"):
        TrialConfig.model_validate(npo.model_dump() | {"betta": 1})
    with pytest.raises(ValueError, match=r"`beta`: gradient_ascent does not use it"):
        TrialConfig.model_validate(ASCENT.model_dump() | {"beta": 0.5})


def test_a_record_with_other_methods_defaults_is_the_same_trial() -> None:
    """For some weeks every trial had a value of each hyperparameter of any method."""
    recorded = ASCENT.model_dump() | {"beta": 0.1, "gamma": 0.0, "logit_penalty": 10.0}
    assert TrialConfig.model_validate(recorded).id == ASCENT.id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "w_r"}, "'w_r': the name is taken"),
        ({"name": "seed"}, "'seed': the name is taken"),
        ({"name": "My!"}, "'My!': a name is up to 64 lower-case letters"),
        ({"default": -1.0}, r"'mine': default -1\.0: .*greater than 0"),
    ],
)
def test_a_hyperparameter_that_cannot_be_is_refused(changes: dict, message: str) -> None:
    content = {"name": "mine", "default": 1.0, "above": 0} | changes
    with pytest.raises(UserError, match=message):
        Hyperparameter(**content)


def test_one_name_has_values_of_one_type_in_all_methods() -> None:
    mine = Method("mine", "l", (FORGET,), own=(Hyperparameter("beta", 1),))
    with pytest.raises(UserError, match=r"`beta` are of type int, and float in another method"):
        register(mine)


def test_betas_of_adamw_are_none_of_another_optimizer() -> None:
    with pytest.raises(ValueError, match=r"`adam_beta1` has no effect with `optimizer: sgd`"):
        TrialConfig.model_validate(ASCENT.model_dump() | {"optimizer": "sgd", "adam_beta1": 0.8})


# --- the registry

FORGET = TermSpec("forget", "forget", "ascent")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "gradient_ascent"}, "method 'gradient_ascent': already registered"),
        ({"name": "Mine!"}, "method 'Mine!': a name is up to 64 lower-case letters"),
        ({"terms": (FORGET, FORGET)}, "two terms are named 'forget'"),
        ({"terms": ()}, "no term is named 'forget'"),
        ({"terms": (replace(FORGET, weight="w_f"),)}, "`w_f` of the forget term is none of its"),
        ({"common": ("learning_rate", "stepz")}, "'stepz'; did you mean 'steps'"),
        ({"common": ("learning_rate",)}, "every method uses `steps`"),
        ({"common": ("learning_rate", "steps", "steps")}, "'steps' is named twice"),
    ],
)
def test_a_method_that_cannot_be_is_not_registered(changes: dict, message: str) -> None:
    content = {"name": "mine", "loss": "l", "terms": (FORGET,)} | changes
    before = dict(METHODS)
    with pytest.raises(UserError, match=message):
        register(Method(**content))
    assert dict(METHODS) == before


def test_a_registered_method_is_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray_unlearn.spec import method_registry

    registered = dict(METHODS)
    monkeypatch.setattr(method_registry, "_registered", registered)
    monkeypatch.setattr(method_registry, "METHODS", registered)
    mine = register(Method("mine", "l", (FORGET,)))
    assert method_named("mine") is mine
    assert TrialConfig.model_validate(ASCENT.model_dump() | {"method": "mine"}).definition is mine

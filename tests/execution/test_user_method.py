"""A user's own method is one file of theirs: searched, tabled, reported, checked on resume."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from running import StudyFile, cli

from ray_unlearn.spec import method_registry
from ray_unlearn.spec.errors import EXIT_WRONG_INPUT, UserError
from ray_unlearn.spec.method_modules import ENVIRONMENT, load_user_methods
from ray_unlearn.spec.method_registry import METHODS, method_named
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.spec.user_methods import method
from ray_unlearn.unlearn.methods import terms
from ray_unlearn.unlearn.methods.losses import Given

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_methods.py"
NAME = "bounded_ascent"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example as a user's module; what it registers is forgotten after the test."""
    path = tmp_path / "my_methods.py"
    shutil.copy(EXAMPLE, path)
    monkeypatch.setenv(ENVIRONMENT, "my_methods")
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(method_registry._registered)
    yield path
    method_registry._registered.clear()
    method_registry._registered.update(before)
    sys.modules.pop("my_methods", None)


def test_a_method_that_is_not_known_is_looked_for_in_the_named_modules(module: Path) -> None:
    assert NAME not in METHODS
    found = method_named(NAME)
    assert found.loss.startswith("w_f mean tanh(a log P)")
    chosen = TrialConfig(
        learning_rate=1e-3, steps=2, method=NAME, sharpness=0.5, w_r=3.0, evaluate_at=(2,)
    )
    forget, retain = terms(chosen)
    assert (retain.split, retain.weight) == ("retain", 3.0)
    given = Given(torch.tensor([-2.0, 0.0]), 2, 1, torch.tensor([0, 0]))
    # (tanh(-1) + tanh(0)) / 0.5 / 2
    assert forget.loss.function(given, chosen).item() == pytest.approx(-0.7615942)


def test_a_study_of_it_is_searched_tabled_reported_and_checked(
    module: Path, study_of: StudyFile, tmp_path: Path
) -> None:
    study = study_of(2, steps=6)
    study.write_text(study.read_text().replace("- ascent_kl_in_distribution", f"- {NAME}"))
    folder = str(tmp_path / "study")
    path = {"PYTHONPATH": str(tmp_path), ENVIRONMENT: "my_methods"}
    run = cli("run", str(study), "--storage", folder, "--quiet", **path)
    said = run.communicate()[0]
    assert run.returncode == 0, said
    table = pq.read_table(tmp_path / "study/ledger/rows.parquet").to_pandas()
    own = table[table["method"] == NAME]
    assert set(own["status"]) == {"complete"}
    assert own["sharpness"].nunique() == 2
    assert own["sharpness"].between(0.05, 2.0).all()
    assert own["retain_loss"].notna().all()
    report = cli("report", folder, "-o", str(tmp_path / "page"), "--json", **path)
    said = report.communicate()[0]
    assert report.returncode == 0, said
    claims = json.loads((tmp_path / "page/guidelines.json").read_text())["guidelines"]
    assert f"range/{NAME}/sharpness" in {claim["id"] for claim in claims}
    module.write_text(module.read_text().replace("tanh", "sin"))
    again = cli("resume", folder, "--trials", "1", **path)
    said = again.communicate()[0]
    assert again.returncode == EXIT_WRONG_INPUT
    assert f"the source of method '{NAME}' has changed since the study began" in said


def test_the_tutorial_is_the_example() -> None:
    text = (EXAMPLE.parents[1] / "docs/methods.md").read_text()
    tutorial = text.partition("## A method of your own")[2].partition("```python\n")[2]
    code = EXAMPLE.read_text().partition("\n\n")[2]
    assert tutorial.partition("```")[0] == code


THREE_TERMS = '''
import ray_unlearn as ru

CALM = ru.Hyperparameter("w_calm", 0.5, "weight of the squares", at_least=0)


def squares(given, chosen):
    return given.values.square().sum() / given.targets


@ru.method(
    terms=[ru.TermSpec("calm", "general_retain", ru.Loss(squares, "logprobs"), weight="w_calm")],
    hyperparameters=[CALM],
    retain="kl",
)
def calm_ascent(given, chosen):
    """w_f log P on U + w_r KL on R + w_calm (log P)^2 on G"""
    return given.values.sum() / given.targets
'''


def test_a_users_method_has_terms_of_any_name(module: Path) -> None:
    module.write_text(module.read_text() + THREE_TERMS)
    chosen = TrialConfig(
        learning_rate=1e-3, steps=2, method=method_named("calm_ascent").name, evaluate_at=(2,)
    )
    calm = terms(chosen)[2]
    assert (calm.name, calm.split, calm.weight) == ("calm", "general_retain", 0.5)
    given = Given(torch.tensor([-2.0, 0.0]), 2, 1, torch.tensor([0, 0]))
    assert calm.loss.function(given, chosen).item() == 2.0


def test_a_module_that_cannot_be_imported_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(ENVIRONMENT, "no_such_module")
    with pytest.raises(UserError, match=r"no_such_module cannot be imported.*on each node\?"):
        load_user_methods()
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_methods.py").write_text("1 / 0")
    monkeypatch.setenv(ENVIRONMENT, "broken_methods")
    with pytest.raises(UserError, match="ZeroDivisionError"):
        load_user_methods()


def test_a_method_of_a_script_is_refused_since_no_worker_could_import_it() -> None:
    def mine(given, chosen):
        return given.values.sum()

    mine.__module__ = "__main__"
    with pytest.raises(UserError, match=r"defined in a script.*put it into a module"):
        method()(mine)

"""The tabular benchmark is built: balanced, the same after a kill, each row under its number.

The studies run in one process with stand-in rows; recorder, ledger, search and resume are the real
ones, and so are the files of the table.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from in_process import InProcess, Session

import ray_unlearn as ru
from ray_unlearn.execution.ray_runtime import RayNotStarted
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.attack_file import AttackedModel, AttackOutcome, write_attacks
from ray_unlearn.tabular import MethodTable, load_facts, load_table

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import tabular_benchmark as benchmark
from tabular_benchmark import arguments, build, passes, run_study

METHODS = ["gradient_ascent", "ascent_kl_in_distribution"]
METHOD = METHODS[1]
SMALL = {"FIRST_PIECE": 2, "PART": 2, "PART_FROM": 4, "listed_methods": lambda which: METHODS}
"""Two configurations at a time instead of 16, a part of two instead of 8, two methods."""
SEARCHED = ["learning_rate", "w_r"]
KEYS = ["domain", "trained_model", "method", "configuration", "seed", "update", "strength"]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(benchmark, name, value)


def asked(out: Path, *more: str) -> argparse.Namespace:
    given = ["--out", str(out), "--configurations", "4", "--domains", "shakespeare", "latex"]
    return arguments([*given, "--models", "0", "1", "--lanes", "1", *more])


def in_process(
    happens: Callable[[StudySpec], Callable[[Session], None] | None] = lambda spec: None,
) -> Callable[[StudySpec, Path], ru.Study]:
    def run(spec: StudySpec, place: Path) -> ru.Study:
        session = InProcess(place, spec).session(happens(spec))
        if session.driver.killed:
            raise Killed
        return ru.open(place)

    return run


class Killed(Exception):
    """The process that builds the table is gone."""


def hit(study: ru.Study, say: Any) -> None:
    """What attacks would have left, on the scored row of each trial with seed 1."""
    trials = study.trials[study.trials["seed"] == 1].dropna(subset="score_selection")
    write_attacks(Path(study.location), [attacked(line) for _, line in trials.iterrows()])


def attacked(line: pd.Series) -> AttackedModel:
    before, nll = {"trial": 3.0, "vanilla": 1.0}, {"trial": 2.5, "vanilla": 1.1}
    outcomes = tuple(
        AttackOutcome(attack, "", "", amount, before, nll)
        for attack, amount in (("relearn", 5.0), ("relearn", 20.0), ("quantise", 4.0))
    )
    about = (line["method"], line["number"], line["trial_id"], line["seed"])
    return AttackedModel(*about, int(line["update"]), line["strength"], outcomes=outcomes)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of four configurations in two domains with two models each."""
    out = tmp_path_factory.mktemp("table")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in SMALL.items():
            patched.setattr(benchmark, name, value)
        build(asked(out), lambda text: None, in_process(), hit)
    return out


def test_a_killed_build_goes_on_to_the_table_of_an_undisturbed_one(
    built: Path, tmp_path: Path
) -> None:
    def kill(session: Session) -> None:
        session.until(session.at(5, 12))
        session.driver.kill()

    def in_the_second_world(spec: StudySpec) -> Callable[[Session], None] | None:
        return kill if spec.name == "table-latex-0" else None

    with pytest.raises(Killed):
        build(asked(tmp_path), lambda text: None, in_process(in_the_second_world), hit)
    build(asked(tmp_path), lambda text: None, in_process(), hit)
    pd.testing.assert_frame_equal(load_table(tmp_path / "table"), load_table(built / "table"))


def test_a_table_grows_and_what_was_there_stays(built: Path, tmp_path: Path) -> None:
    build(asked(tmp_path, "--configurations", "2", "--no-part"), lambda text: None, in_process())
    early, late = (load_table(place / "table").set_index(KEYS) for place in (tmp_path, built))
    columns = ["learning_rate", "forget_nll", "score_selection"]
    pd.testing.assert_frame_equal(early[columns], late.loc[early.index, columns])
    assert early.index.get_level_values("configuration").max() == 1


def test_a_build_that_is_stopped_is_balanced() -> None:
    assert list(passes(16)) == [2, 4, 8, 16]
    assert list(passes(3)) == [2, 3]
    assert list(passes(1)) == [1]


def test_a_configuration_is_the_same_in_every_world_and_with_every_seed(built: Path) -> None:
    rows = load_table(built / "table")
    apart = rows.groupby(["method", "configuration"], observed=True)[SEARCHED].nunique()
    assert (apart["learning_rate"] == 1).all()
    worlds = rows.groupby(["method", "configuration"], observed=True)["trained_model"].nunique()
    assert (worlds == 2).all()


def test_the_part_has_more_seeds_strengths_and_attacks(built: Path) -> None:
    rows = load_table(built / "table")
    part = rows[rows["seed"] > 0]
    assert sorted(part["seed"].unique()) == [1, 2]
    assert sorted(part["configuration"].unique()) == [0, 1]
    assert (rows.loc[rows["seed"] == 0, "strength"] == 1).all()
    assert (part["strength"] != 1).any()
    hit_rows = rows[rows["relearn_20_nll"].notna()]
    trials = hit_rows.groupby(KEYS[:5], observed=True).size()
    assert (trials == 1).all()
    assert len(trials) > len(METHODS)
    assert set(hit_rows["seed"]) == {1}
    np.testing.assert_allclose(hit_rows["quantise_4_undone"], 0.25)  # (3 - 2.5) / (3 - 1)


def test_rows_are_those_of_the_studies(built: Path) -> None:
    study = ru.open(built / "studies" / "latex-1")
    own = study.rows[study.rows["method"] == METHOD]
    rows = load_table(built / "table", "latex")
    chosen = (rows["method"] == METHOD) & (rows["trained_model"] == 1) & (rows["seed"] == 0)
    found = rows[chosen & (rows["update"] > 0)]
    expected = own[own["update"].notna()].sort_values(["number", "update"])
    assert len(found) == len(expected)
    np.testing.assert_array_equal(found["learning_rate"], expected["learning_rate"])
    np.testing.assert_allclose(found["forget_nll"], expected["forget_nll"], rtol=1e-6)
    np.testing.assert_allclose(found["score_selection"], expected["score_selection"], rtol=1e-6)


def test_a_diverged_trial_is_in_the_table_and_infinitely_bad(built: Path) -> None:
    """Left out, its region would look unexplored to a searcher."""
    rows = load_table(built / "table", "shakespeare")
    diverged = rows[(rows["status"] == "diverged") & (rows["seed"] == 0)]
    assert len(diverged)
    line = diverged.iloc[-1]
    table = MethodTable(built / "table", "shakespeare", line["method"], line["trained_model"])
    curve = table.curve(line["configuration"])
    assert np.isinf(curve["score_selection"].iloc[-1])
    assert curve.loc[line["update"], "score_selection"] == line["score_selection"]


def test_facts_say_what_is_in_each_file(built: Path) -> None:
    facts = load_facts(built / "table")
    assert set(facts["files"]) == {"shakespeare", "latex"}
    latex = facts["files"]["latex"]
    assert latex["configurations"] == 4
    assert latex["trials"] == 2 * len(METHODS) * (4 + 2 * 2)
    assert latex["models"]["1"]["source"] == "demo:latex#1"
    assert latex["models"]["1"]["baselines"]["vanilla"]["forget_nll"] == 0.5
    assert latex["methods"][METHOD]["space"]["w_r"] == {
        "type": "float", "low": 0.5, "high": 8.0, "scale": "log",
    }  # fmt: skip
    assert latex["methods"][METHOD]["fixed"]["batch_size"] == 4
    assert latex["updates"][-1] == 32
    assert "median" in latex["nearest"][METHOD]


def test_a_ray_that_does_not_start_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build of two days starts it for every study of every pass, beside other work."""
    starts, pauses = iter([True, True, False]), []

    def run(spec: StudySpec, place: Path, resume: bool) -> ru.Study:
        if next(starts):
            raise RayNotStarted("overloaded")
        study = in_process()(spec, place)
        study.last_run = argparse.Namespace(interrupted=False)
        return study

    monkeypatch.setattr(benchmark.ru, "run", run)
    monkeypatch.setattr(benchmark.time, "sleep", pauses.append)
    spec = benchmark.world_study(benchmark.World("latex", 0), tmp_path / "files", 1)
    assert len(run_study(spec, tmp_path / "study").trials) == len(METHODS)
    assert pauses == [60, 300]

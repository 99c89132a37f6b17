"""`report --next K`: the study file it writes runs as it is, and its trials join the others."""

import csv
from pathlib import Path

import pytest
from specs import run, space, study

import ray_unlearn as ru
from ray_unlearn.spec.next_study import study_of_configurations
from ray_unlearn.spec.study_file import load_study


def test_configurations_run_in_their_order_once_each_as_close_as_the_space_has_them() -> None:
    sizes = {"type": "choice", "choices": [2, 4]}
    rate = {"type": "float", "low": 1e-6, "high": 1e-3, "scale": "log"}
    spec = study(space(learning_rate=rate, batch_size=sizes))
    wanted = [
        {"learning_rate": 1e-4, "batch_size": "2"},  # a table names choices
        {"learning_rate": 9.99e-7},
        {"learning_rate": 1e-4, "batch_size": 2.0},
    ]
    following = study_of_configurations(spec, {"gradient_ascent": wanted})
    trials = run(following, lambda config: 1.0)
    found = [(t.config["learning_rate"], t.config["batch_size"]) for t in trials]
    assert found == [(1e-4, 2), (1e-6, 4)], "the middle choice is the second of two"
    assert following.name.endswith("-next")
    assert following.model == spec.model
    assert following.data == spec.data


@pytest.mark.slow
def test_the_next_trials_of_a_study_run_and_join_its_report(
    undisturbed: Path, tmp_path: Path
) -> None:
    """Two trials make no surface, so the next ones fill the space."""
    ru.report(undisturbed, out=tmp_path / "report", next_trials=3)
    spec = load_study(tmp_path / "report" / "next.yaml")
    points = [(m, one["learning_rate"]) for m, own in spec.search.points.items() for one in own]
    with open(tmp_path / "report" / "next.csv", newline="") as file:
        listed = [(one["method"], float(one["learning_rate"])) for one in csv.DictReader(file)]
    assert sorted(listed) == sorted(points)
    assert len(points) == 3
    study = ru.run(tmp_path / "report" / "next.yaml", tmp_path / "next", quiet=True)
    assert study.last_run.counts == {"complete": 3}
    trials = study.trials
    found = zip(trials["method"], trials["learning_rate"], strict=True)
    assert sorted(found) == sorted(points)
    assert set(trials["sampled_by"]) == {"listed"}
    before = len(ru.open(undisturbed).trials)
    guide = ru.guidelines(undisturbed, study)
    assert sum(one.n_trials for one in guide.recommendations) == before + 3

"""The next trials must settle more than others would, and be ones that a study can run."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from surfaces import RATE, TOLERANCE, WEIGHT, planted, valley

from ray_unlearn.analysis.guidelines.claims import guidelines_of
from ray_unlearn.analysis.guidelines.findings import find
from ray_unlearn.analysis.guidelines.next_trials import next_trials
from ray_unlearn.analysis.statistics.next_points import _greedy, _variance, filling_points
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.guideline_file import Guideline
from ray_unlearn.surfaces.axes import Axis


def of(table, count, seed=0):
    findings = find(table, seed)
    return next_trials(findings, guidelines_of(findings), count)


@pytest.mark.parametrize(("limit", "known"), [(0.3, 0.4), (-1.2, 0.7), (0.0, 0.0), (2.0, 0.99)])
def test_the_variance_to_come_is_that_of_two_correlated_normals(limit, known):
    both = multivariate_normal([0, 0], [[1, known], [known, 1]]).cdf([limit, limit])
    assert _variance(np.array([limit]), np.array([known]))[0] == pytest.approx(
        norm.cdf(limit) - both, abs=1e-4
    )
    assert _variance(np.array([limit]), np.array([1.0]))[0] == pytest.approx(0, abs=1e-9)


def test_two_trials_that_tell_the_same_are_not_both_chosen():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 4000))
    regret = TOLERANCE + np.column_stack([first, second]) * 0.1
    told = np.column_stack([first, first + 0.01 * second, 0.8 * second]) * 0.1
    chosen, gains = _greedy(regret, told, np.full(3, 1e-4), np.ones(2), TOLERANCE, 2)
    assert set(chosen) in ({0, 2}, {1, 2})
    assert gains[0] > gains[1] > 0.1, "each answers one question of variance 0.25"


def test_the_next_trials_are_where_good_values_end_not_where_all_is_bad():
    found = of(planted({"a": valley()}, trials=30), 6)
    logs = np.log10([trial.values["learning_rate"] for trial in found])
    assert np.all(np.abs(logs + 4.5) < 0.7), "good within 0.29 of -4.5, of -6 to -3"
    gains = [trial.gain for trial in found]
    assert gains[0] > 0
    assert gains == sorted(gains, reverse=True)


def test_without_a_surface_the_space_is_filled():
    table = planted({"a": valley(), "b": valley()}, trials=5)
    found = of(table, 6)
    assert [trial.gain for trial in found] == [None] * 6
    assert [trial.method for trial in found] == ["a", "b"] * 3


@pytest.mark.parametrize("scores", [True, False])
def test_a_group_among_others_is_filled_up_to_five_trials(scores):
    """Alone it would take eight; with scores or without, three are there."""
    table = planted({"a": valley()}, trials=12, groups=("books", "code"))
    frame = table.trials
    few = frame[(frame["group"] == "books") | (frame.groupby("group").cumcount() < 3)].copy()
    if not scores:
        few.loc[few["group"] == "code", ["score", "score_selection"]] = np.nan
        few.loc[few["group"] == "code", "infeasible"] = True
    found = of(replace(table, trials=few), 8)
    assert [(trial.group, trial.gain) for trial in found[:2]] == [("code", None)] * 2
    assert None not in {trial.gain for trial in found[2:]}
    assert {trial.group for trial in found[2:]} == {"books"}


def test_points_that_fill_a_space_keep_away_from_trials_and_each_other():
    kinds = Axis("kind", "categorical", choices=("x", "y"))
    trials = np.array([[0.5, 0.5, 0.0]])
    found = filling_points(trials, (RATE, WEIGHT, kinds), 0, 5)
    assert set(found[:, 2]) <= {0.0, 1.0}
    everything = np.concatenate([trials, found])
    gaps = np.abs(everything[:, None] - everything[None]).max(2) + np.eye(6)
    assert gaps.min() > 0.3
    assert len(filling_points(trials, (RATE, WEIGHT, kinds), 0, 300)) == 300


def test_where_nothing_is_open_there_is_no_next_trial():
    table = planted({"a": valley()}, trials=10)
    findings = find(table)
    content = guidelines_of(findings)[0].model_dump()
    settled = {"status": "claimed", "grade": "C", "withheld_because": (), "probability": None}
    claim = Guideline.model_validate(content | settled)
    with pytest.raises(UserError, match="no range is open"):
        next_trials(findings, [claim], 3)

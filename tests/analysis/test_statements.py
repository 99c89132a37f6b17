"""What is said of a hyperparameter short of a claim must be worth what it says."""

import numpy as np
import pytest
from surfaces import RATE, WEIGHT, cliff, contradictions, planted, ridge, valley

from ray_unlearn.analysis.guidelines.claims import guidelines_of
from ray_unlearn.analysis.guidelines.findings import find
from ray_unlearn.analysis.statistics.likely_values import (
    likely_values,
    most_agree,
    trials_to_settle,
)
from ray_unlearn.surfaces.axes import Axis


def ranges(table):
    return {g.param: g for g in guidelines_of(find(table)) if g.kind == "range"}


def test_the_likely_range_is_the_widest_one_that_is_good_enough():
    p_good = np.array([0.1, 0.5, 0.7, 0.9, 1.0, 0.8, 0.4, 0.6])
    found = likely_values(p_good, 4)
    assert (found.first, found.last) == (2, 5), "0.5 more would leave a mean of 0.78"
    assert np.isclose(found.probability, 0.85)


def test_a_range_is_said_with_less_where_no_value_is_good_with_more():
    found = likely_values(np.array([0.3, 0.65, 0.72, 0.5]), 2)
    assert (found.first, found.last) == (2, 2)
    assert found.probability == 0.72
    assert likely_values(np.array([0.3, 0.55, 0.2]), 1) is None


def test_trials_that_would_settle_a_range_grow_with_what_is_open():
    assert trials_to_settle(np.array([0.95, 0.9]), 5) == 1
    assert trials_to_settle(np.array([0.7, 0.8]), 5) < trials_to_settle(np.array([0.6, 0.7]), 5)
    assert trials_to_settle(np.array([0.5, 0.5]), 5) is None


def test_groups_are_counted_where_most_agree():
    good, bad, open_ = [0.95, 0.95, 0.0], [0.0, 0.01, 0.95], [0.5, 0.5, 0.5]
    found = most_agree(np.array([good, bad, good, open_]), 0.9, 0.025)
    assert (found.first, found.last, found.good, found.bad) == (0, 1, (0, 2), (1,))
    assert most_agree(np.array([good, good]), 0.9, 0.05) is None
    assert most_agree(np.empty((0, 0)), 0.9, 0.05) is None


def test_a_study_of_10_trials_says_where_it_is_likely_good_and_what_would_settle_it():
    found = ranges(planted({"a": valley()}, trials=10, noise=0.1))["learning_rate"]
    assert found.status == "likely"
    assert found.search_space.low < 10**-4.5 < found.search_space.high
    assert 0.6 <= found.probability < 1
    assert found.settled_by.trials >= 1
    assert "good with probability" in found.text
    assert "would settle it" in found.text


def test_what_costs_less_than_the_tolerance_everywhere_is_left_alone():
    found = ranges(planted({"a": valley()}, trials=100, seed=3))
    assert found["w_r"].status == "leave_alone"
    assert found["learning_rate"].status == "claimed"


def test_what_costs_half_again_the_tolerance_is_not_left_alone():
    span = np.log10(WEIGHT.high / WEIGHT.low)

    def tilted(logs, rng):
        tilt = (logs["w_r"].to_numpy() - np.log10(WEIGHT.low)) / span
        return valley()(logs, rng) + 0.15 * tilt

    for seed in range(4):
        found = ranges(planted({"a": tilted}, trials=60, seed=seed, axes=(RATE, WEIGHT)))
        assert found["w_r"].status != "leave_alone"


def test_a_method_without_a_surface_is_not_known():
    found = ranges(planted({"a": valley()}, trials=5))
    assert {g.status for g in found.values()} == {"not_known"}
    assert "5 trials in books, 8 needed" in found["learning_rate"].why


UPDATES = Axis("steps", "log", 4, 64, whole=True)


@pytest.mark.parametrize(
    ("score", "axes", "design"),
    [
        (valley(), (RATE, WEIGHT), {"trials": 20}),
        (cliff(), (RATE, WEIGHT), {"trials": 110}),
        (ridge(best=-3.3), (RATE, UPDATES, WEIGHT), {"trials": 40, "groups": ("x", "y", "z")}),
        (cliff(), (RATE, WEIGHT), {"trials": 40, "groups": ("x", "y", "z"), "seed": 70_003}),
    ],
)
def test_no_two_statements_about_a_hyperparameter_exclude_each_other(score, axes, design):
    """The setting to use of the ridge lay outside the likely range of w_r, and with three domains a
    likely range could be a single value."""
    assert contradictions(planted({"a": score}, axes=axes, noise=0.1, **design)) == []

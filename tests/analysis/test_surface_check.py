"""A surface that does not predict trials left out must not be believed, and an axis that does
nothing must not be said to matter."""

import numpy as np
import pytest
from surfaces import RATE, TOLERANCE, WEIGHT, flat, planted, valley

from ray_unlearn.analysis.statistics.axis_effect import effects_over_groups
from ray_unlearn.analysis.statistics.fitted_groups import FittedGroup, fit_groups
from ray_unlearn.analysis.statistics.surface_check import (
    SurfaceCheck,
    check_surface,
    checks_together,
)
from ray_unlearn.surfaces.group_points import GroupPoints

AXES = (RATE, WEIGHT)


def fitted(score, trials: int, seed: int, noise: float = TOLERANCE) -> FittedGroup:
    frame = planted({"a": score}, trials=trials, noise=noise, seed=seed).trials
    points = np.column_stack([axis.to_unit(frame[axis.name]) for axis in AXES])
    scores = frame["score"].to_numpy(dtype=float)
    part = GroupPoints("x", points, scores, np.zeros(trials, bool))
    return fit_groups([part], AXES, TOLERANCE, 0)[0]


def test_each_trial_is_left_out_once() -> None:
    measured, seen = np.arange(23.0), []

    def predict(left):
        seen.extend(left)
        return np.stack([measured[left] - 1, measured[left] + 1, measured[left] + 0.6])

    check = check_surface(measured, predict, 0)
    assert sorted(seen) == list(range(23))
    assert (check.n, check.held, check.coverage) == (23, 23, 1.0)
    assert check.squared_error == pytest.approx(23 * 0.2**2)
    assert check.explained > 0.99


def test_any_kind_of_surface_is_checked_by_what_it_predicts() -> None:
    """A surface that always says the mean, with intervals that are too narrow."""
    measured = np.random.default_rng(0).normal(size=200)

    def predict(left):
        draws = np.random.default_rng(1).normal(size=(400, len(left)))
        return np.delete(measured, left).mean() + 0.5 * draws

    check = check_surface(measured, predict, 0)
    assert check.explained == pytest.approx(0, abs=0.01)
    assert 0.5 < check.coverage < 0.7  # 0.82 SDs to each side hold 59 %


def test_groups_are_checked_together_each_against_its_own_mean() -> None:
    both = checks_together([SurfaceCheck(10, 9, 1.0, 4.0), SurfaceCheck(30, 27, 1.0, 4.0)])
    assert (both.n, both.held, both.explained) == (40, 36, 0.75)


def test_a_valley_is_predicted_and_pure_noise_is_not() -> None:
    valleys = [fitted(valley(), 30, seed).check for seed in range(3)]
    assert all(check.explained > 0.7 and check.coverage > 0.75 for check in valleys)
    noise = checks_together([fitted(flat, 30, seed).check for seed in range(4)])
    assert noise.explained < 0.1
    assert noise.coverage > 0.75


def test_an_axis_that_does_nothing_is_not_said_to_matter_at_twenty_trials() -> None:
    found = [fitted(valley(), 20, seed).effects for seed in range(6)]
    p_values = np.array(
        [[effect.p for effect in effects_over_groups([effects])] for effects in found]
    )
    assert (p_values[:, 0] <= 0.05).sum() >= 5
    assert (p_values[:, 1] <= 0.05).sum() <= 1


def test_groups_add_up_to_evidence_that_none_has_alone() -> None:
    def weak(logs, rng):
        return 0.2 + 0.15 * np.abs(logs["learning_rate"].to_numpy() + 4.5)

    found = [fitted(weak, 20, seed, noise=0.15).effects for seed in range(4)]
    alone = [effects_over_groups([effects])[0].p for effects in found]
    assert effects_over_groups(found)[0].p < np.median(alone)

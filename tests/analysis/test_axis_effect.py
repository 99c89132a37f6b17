"""Whether a hyperparameter matters at all: planted truth at few trials, in several groups, with
configurations tried again, and with trials that an adaptive sampler chose."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ray_unlearn.analysis.statistics.axis_effect import (
    AxisEffect,
    axis_effects,
    effects_over_groups,
)
from ray_unlearn.surfaces.axes import Axis

Floats = NDArray[np.float64]

FOUR = tuple(Axis(f"x{j}", "log", 1e-6, 1e-2) for j in range(4))
TWO = FOUR[:2]
TAU = 0.1


def judged(
    points: Floats,
    scores: Floats,
    axes: tuple[Axis, ...],
    groups: Floats | None = None,
    infeasible: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> tuple[AxisEffect, ...]:
    groups = np.zeros(len(scores)) if groups is None else groups
    bad = np.zeros(len(scores), dtype=bool) if infeasible is None else infeasible
    return effects_over_groups(
        [
            axis_effects(
                points[groups == g], scores[groups == g], bad[groups == g], axes, TAU,
                1000 * seed + i,
            )
            for i, g in enumerate(np.unique(groups))
        ]
    )  # fmt: skip


def named(effects: tuple[AxisEffect, ...]) -> set[int]:
    return {j for j, effect in enumerate(effects) if effect.p <= 0.05}


def valley(unit: Floats, rng: np.random.Generator, noise: float = 0.5) -> Floats:
    """A U that explains 36 % of the variance of the score at noise 0.5."""
    return 4 * (unit - 0.4) ** 2 + rng.normal(0, noise, len(unit))


def claims_on_noise(n: int, groups: int, repeats: int) -> float:
    found = 0
    for repeat in range(repeats):
        rng = np.random.default_rng([n, groups, repeat])
        some = np.arange(n) % groups
        scores = 0.5 + 0.05 * rng.standard_normal(n)
        found += bool(named(judged(rng.random((n, 2)), scores, TWO, some, seed=repeat)))
    return found / repeats


@pytest.mark.parametrize(("n", "groups"), [(20, 1), (27, 3)])
def test_noise_is_not_claimed(n: int, groups: int) -> None:
    assert claims_on_noise(n, groups, 60) <= 0.117  # 5 % and 2.4 standard errors


@pytest.mark.slow
@pytest.mark.parametrize(("n", "groups"), [(20, 1), (42, 3), (84, 9)])
def test_noise_is_not_claimed_in_many_repeats(n: int, groups: int) -> None:
    rate = claims_on_noise(n, groups, 600)
    print(f"{n} trials in {groups} groups: claimed {rate:.3f}")
    assert rate <= 0.068  # two standard errors


def claims_beside_a_real_axis(n: int, repeats: int) -> tuple[float, float]:
    """Power for the first axis, and the share of studies that claim any of three null ones."""
    real = null = 0
    for repeat in range(repeats):
        rng = np.random.default_rng([n, 1, repeat])
        points = rng.random((n, 4))
        names = named(judged(points, valley(points[:, 0], rng), FOUR, seed=repeat))
        real += 0 in names
        null += bool(names - {0})
    return real / repeats, null / repeats


def test_a_real_axis_is_found_and_null_ones_are_not() -> None:
    power, false = claims_beside_a_real_axis(60, 30)
    assert power >= 0.9
    assert false <= 0.15


def repeated_configurations(by: str, repeats: int) -> tuple[float, float]:
    """25 configurations in 4 domains, or with 4 seeds; only the first axis matters."""
    real = null = 0
    for repeat in range(repeats):
        rng = np.random.default_rng([3, repeat])
        points = np.repeat(rng.random((25, 4)), 4, axis=0)
        groups = np.tile(np.arange(4.0), 25) if by == "domain" else None
        scores = valley(points[:, 0], rng, noise=0.05)
        names = named(judged(points, scores, FOUR, groups, seed=repeat))
        real += 0 in names
        null += bool(names - {0})
    return real / repeats, null / repeats


@pytest.mark.parametrize("by", ["domain", "seed"])
def test_repeated_configurations_are_not_independent_evidence(by: str) -> None:
    power, false = repeated_configurations(by, 25)
    assert power >= 0.9
    assert false <= 0.16

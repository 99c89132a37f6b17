"""Pareto front and hypervolume: a wrong area ranks methods wrongly, and unequal numbers of trials
must not."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from optuna._hypervolume import compute_hypervolume

from ray_unlearn.analysis.statistics.pareto import front, rarefied_hypervolume
from ray_unlearn.spec.errors import UserError

REFERENCE = (1.6, 1.4)


def random_points(n: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(1.0, 0.6, size=(n, 2))


def merged(trials: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros((0, 2)), *trials])


def hypervolume(points: ArrayLike, reference: tuple[float, float]) -> float:
    """Area [1] that the points [n, 2] dominate within the reference point, one strip at a time."""
    rows = np.asarray(points, dtype=float).reshape(-1, 2)
    edge = rows[front(rows)]
    edge = edge[(edge < reference).all(axis=1)]
    right = np.append(edge[1:, 0], reference[0])
    return float(np.sum((right - edge[:, 0]) * (reference[1] - edge[:, 1])))


def test_front_by_hand() -> None:
    """Equal points once, dominated ones never, and a model that diverged (inf, NaN) is in no
    front."""
    points = [
        (2, 2),
        (1, 3),
        (3, 1),
        (2, 2),
        (2, 3),
        (1, 4),
        (math.nan, 0),
        (0, math.inf),
        (0, math.nan),
    ]
    assert front(points).tolist() == [1, 0, 2]
    assert front([]).tolist() == []
    assert front([(math.inf, math.inf)]).tolist() == []


def test_front_is_what_no_point_dominates() -> None:
    points = np.round(random_points(200), 1)
    dominated = [any((q <= p).all() and (q < p).any() for q in points) for p in points]
    expected = {tuple(p) for p, bad in zip(points.tolist(), dominated, strict=True) if not bad}
    found = [tuple(p) for p in points[front(points)].tolist()]
    assert set(found) == expected
    assert len(found) == len(expected)


def test_hypervolume_by_hand() -> None:
    """Squares below (4, 4): from (1, 3) 3 x 1, from (2, 2) 2 x 1 more, from (3, 1) 1 x 1 more."""
    points = [(1, 3), (2, 2), (3, 1), (3, 3)]
    assert hypervolume(points, (4, 4)) == 6.0
    assert hypervolume([*points, (0, 4), (5, -9), (math.nan, 0)], (4, 4)) == 6.0
    assert hypervolume([], (4, 4)) == 0.0
    assert hypervolume([(4, 0)], (4, 4)) == 0.0


def test_hypervolume_against_optuna_and_monte_carlo() -> None:
    points = random_points(60)
    inside = points[(points < REFERENCE).all(axis=1)]
    assert hypervolume(points, REFERENCE) == pytest.approx(
        compute_hypervolume(inside, np.array(REFERENCE))
    )
    corner = points.min(axis=0)
    box = np.random.default_rng(1).uniform(corner, REFERENCE, size=(40_000, 2))
    hit = (points[:, None, :] <= box[None]).all(axis=2).any(axis=0).mean()
    area = float(np.prod(np.array(REFERENCE) - corner))
    assert hypervolume(points, REFERENCE) == pytest.approx(hit * area, abs=4 * area * 0.5 / 200)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_rarefied_hypervolume_is_the_mean_over_all_subsets(size: int) -> None:
    """Eight trials of none to four checkpoints; the standard error by leaving each trial out."""
    trials = [
        random_points(rows, seed=rows + 10 * i) for i, rows in enumerate((1, 4, 0, 2, 1, 3, 0, 2))
    ]

    def expected(kept: list[NDArray[np.float64]]) -> float:
        subsets = itertools.combinations(kept, size)
        return float(np.mean([hypervolume(merged(list(subset)), REFERENCE) for subset in subsets]))

    found = rarefied_hypervolume(trials, REFERENCE, size)
    without = [expected(trials[:i] + trials[i + 1 :]) for i in range(8)]
    assert found.expected == pytest.approx(expected(trials))
    assert found.standard_error == pytest.approx(math.sqrt(7 * np.var(without)))
    assert found.low <= found.expected <= found.high
    shuffled = [trials[i][::-1] for i in np.random.default_rng(0).permutation(8)]
    assert rarefied_hypervolume(shuffled, REFERENCE, size).expected == pytest.approx(found.expected)


def test_more_trials_of_the_same_method_do_not_look_better() -> None:
    few, many = ([point[None] for point in random_points(n, seed=3)] for n in (40, 800))
    plain = [hypervolume(merged(trials), REFERENCE) for trials in (few, many)]
    rarefied = [rarefied_hypervolume(trials, REFERENCE, 20) for trials in (few, many)]
    assert plain[1] > 1.3 * plain[0]
    assert rarefied[0].low <= rarefied[1].expected <= rarefied[0].high
    assert rarefied[1].standard_error < rarefied[0].standard_error / 2


def test_repeated_points_and_no_points() -> None:
    """Two equal trials and two that diverged, by hand: two of four random ones have the point with
    probability 5/6."""
    found = rarefied_hypervolume([[(1, 1)], [(1, 1)], [], [(9, 9)]], (2, 2), 2)
    assert found.expected == pytest.approx(5 / 6)
    assert rarefied_hypervolume([[], []], (2, 2), 1).high == 0.0
    with pytest.raises(UserError, match=r"3 of 4 trials: the size is 1 \.\.\. 2"):
        rarefied_hypervolume([[(1, 1)]] * 4, (2, 2), 3)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "size", "least"), [(36, 9, 0.85), (36, 18, 0.82), (100, 25, 0.86)])
def test_interval_of_the_rarefied_hypervolume_covers(n: int, size: int, least: float) -> None:
    """Nominal 0.90; it falls short where the size is near half of the trials."""
    rng = np.random.default_rng(n + size)
    truth = np.mean([hypervolume(rng.lognormal(size=(size, 2)), (2, 2)) for _ in range(10_000)])
    covered = 0
    for _ in range(500):
        found = rarefied_hypervolume([p[None] for p in rng.lognormal(size=(n, 2))], (2, 2), size)
        covered += found.low <= truth <= found.high
    assert covered / 500 >= least

"""Forgetting against utility: the Pareto front, and the area it dominates up to a reference point.

Points are [n, 2], forget gap and utility loss, both minimised. The reference point is given by the
caller, from the baselines (such as the vanilla model's forget gap, and the utility loss at which a
model is no longer of use), and never taken from the points: that would move it with the trials
compared.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

from ray_unlearn.spec.errors import UserError

Floats = NDArray[np.float64]
Reference = tuple[float, float]

BAND = 0.90


@dataclass(frozen=True)
class RarefiedHypervolume:
    """Expected hypervolume of `trials` of `n` random trials, with a 90 % interval over trials."""

    expected: float
    standard_error: float
    low: float
    high: float
    trials: int
    n: int


def front(points: ArrayLike) -> NDArray[np.int64]:
    """Indices of the points that no other dominates, rising in the first objective.

    Of equal points only the first one.

    Points that are not finite are in no front.
    """
    rows = _points(points)
    order = np.lexsort((np.arange(len(rows)), rows[:, 1], rows[:, 0]))
    order = order[np.isfinite(rows[order]).all(axis=1)]
    second = rows[order, 1]
    best_before = np.minimum.accumulate(np.append(np.inf, second))[:-1]
    return np.asarray(order[second < best_before])


def rarefied_hypervolume(
    trials: Sequence[ArrayLike], reference: Reference, size: int
) -> RarefiedHypervolume:
    """Expected hypervolume of `size` random trials of each method.

    It does not grow with the number of trials, so methods with unequal numbers can be compared.

    Args:
        trials: the points [rows, 2] of each; a trial brings all its checkpoints or none, an
            infeasible one has no points.
        reference: what bounds the area.
        size: number of random trials.

    A point z of the plane that d of the n trials dominate is dominated by a random subset with
    probability 1 - C(n-d, size) / C(n, size). The expected hypervolume is the integral of that:
    exact, no subset is drawn. So is the jackknife standard error, since leaving a trial out lowers
    d by one exactly where it dominates. The sweep goes over the first objective, and holds d at
    every height of the second: O(N n) for N points of n trials.

    Raises:
        UserError: size is not in 1 ... n/2: beyond that the estimate hangs on the one or two best
        trials.
    """
    n = len(trials)
    if not 1 <= size <= n // 2:
        raise UserError(
            f"a hypervolume of {size} of {n} trials: the size is 1 ... {n // 2} (half of them)"
        )
    steps = _steps(trials, reference)
    covered, left_out_covered = _covered(n, size), _covered(n - 1, size)
    # Leaving out one of the d trials that dominate a point, or one of the n - d that do not.
    loss = np.append(0.0, left_out_covered[1:] - left_out_covered[:-1])
    loss = np.append(loss, 1 - left_out_covered[-1])
    left_out_covered = np.append(left_out_covered, 1.0)

    heights = np.unique(np.append(steps[:, 1], reference[1]))
    spans = np.append(np.diff(heights), 0.0)
    owners, bins = steps[:, 2].astype(np.int64), np.searchsorted(heights, steps[:, 1])
    widths = np.diff(np.append(steps[:, 0], reference[0]))
    level = np.full(n, len(heights) - 1)
    depth = np.zeros(len(heights), dtype=np.int64)
    expected, without, losses = 0.0, 0.0, np.zeros(n)
    for owner, height, width in zip(owners, bins, widths, strict=True):
        depth[height : level[owner]] += 1
        level[owner] = height
        if width == 0:
            continue
        areas = width * spans
        expected += float(areas @ covered[depth])
        without += float(areas @ left_out_covered[depth])
        losses += np.cumsum((areas * loss[depth])[::-1])[::-1][level]
    left_out = without - losses
    error = math.sqrt((n - 1) / n * float(np.sum((left_out - left_out.mean()) ** 2)))
    margin = float(t.ppf((1 + BAND) / 2, n - 1)) * error
    return RarefiedHypervolume(
        expected, error, max(0.0, expected - margin), expected + margin, size, n
    )


def _covered(n: int, size: int) -> Floats:
    """P(a random subset of `size` of n trials has one of d given trials), d = 0 ... n: [n + 1]."""
    d = np.arange(n - size + 1)
    ratios = np.log1p(-size / (n - d[:-1])) if len(d) > 1 else np.zeros(0)
    return np.concatenate([-np.expm1(np.append(0.0, np.cumsum(ratios))), np.ones(size)])


def _steps(trials: Sequence[ArrayLike], reference: Reference) -> Floats:
    """Corners of every trial's own front within the reference, rising in the first objective.

    Columns [corners, 3]: first, second, trial.
    """
    corners = [np.zeros((0, 3))]
    for number, points in enumerate(trials):
        rows = _points(points)
        edge = rows[front(rows)]
        edge = edge[(edge < reference).all(axis=1)]
        corners.append(np.column_stack([edge, np.full(len(edge), number)]))
    steps = np.concatenate(corners)
    return np.asarray(steps[np.lexsort((steps[:, 1], steps[:, 0]))])


def _points(points: ArrayLike) -> Floats:
    rows = np.asarray(points, dtype=float)
    if rows.size == 0:
        return np.zeros((0, 2))
    assert rows.ndim == 2
    assert rows.shape[1] == 2, "points are pairs of (forget gap, utility loss)"
    return rows

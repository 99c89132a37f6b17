"""The setting to use, with what choosing it may still cost.

The recommended point has the lowest expected score on the response surface, averaged over groups.
It need not be a trial. Its regret is its score less the best that the method could reach, both from
the same joint posterior draw. So is the regret of the best trial so far, which says how much there
is still to gain.

Draws are rougher than the truth where trials are few, and their minimum is lower. Regrets are
therefore too large and probabilities too small, never the other way: they are bounds, and are named
so. Measured on planted truth in docs/analysis.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.analysis.statistics.fitted_groups import FittedGroup
from ray_unlearn.analysis.statistics.score_surface import ReorderedSurface, ScoreSurface
from ray_unlearn.surfaces.axes import Axis
from ray_unlearn.surfaces.group_points import (
    LEAST_WITH_CURVES,
    too_little,
)
from ray_unlearn.surfaces.searched_points import settable, spread_points

Array = NDArray[np.float64]

DRAWS = 512
SPREAD = 1024
PROMISING = 1024
"""Candidates, by expected score, among which a draw has its least value."""
BEST, NEIGHBOURS, ROUNDS = 16, 16, 3
BOUND = 0.95
SUREST = 0.95
"""Probability above which none is said: of what was said with 0.95 or more on planted curves, 20 of
21 were so (decision 19), and with a finite number of draws 1 is no probability."""
FEW, SUREST_OF_FEW = 12, 0.75
"""With fewer trials than that in some group no more is said: of what real trials said with 0.8 or
more, three quarters were so (`python benchmarks/few_trials.py`)."""


@dataclass(frozen=True)
class RegretBound:
    """What a point costs at most against the best that could be reached, in units of the score.

    expected: upper bound of the expected regret, averaged over groups.
    high: the regret, averaged over groups, is below it with a probability of 95 % or more.
    p_good: lower bound of the probability that it is within the tolerance, the least over groups.
    """

    expected: float
    high: float
    p_good: float


@dataclass(frozen=True)
class RecommendedPoint:
    """The setting to use, and what it and the best trial so far may cost.

    point: unit coordinates [d], in the order of the axes; a code where the axis is categorical.
    score: expected score there, averaged over groups.
    regret: of the recommended point.
    best_regret: of the best trial of each group, known by its selection score.
    n_trials: that the surfaces rest on.
    """

    point: Array
    score: float
    regret: RegretBound
    best_regret: RegretBound
    n_trials: int


def recommended_point(
    fits: Sequence[FittedGroup],
    best: Sequence[Array],
    axes: Sequence[Axis],
    tolerance: float,
    seed: int,
    limits: Mapping[int, tuple[float, float]] | None = None,
    floor: float = -math.inf,
) -> RecommendedPoint | None:
    """The point with the lowest expected score, averaged over groups, within limits.

    Neither the order nor the names of groups and axes matter. Adaptive trials may be among them: a
    regression does not need its inputs drawn at random.

    Args:
        fits: of one method, one per group.
        best: coordinates [d] of each group's best trial.
        axes: hyperparameters, in the order of the coordinates.
        tolerance: tau > 0, in units of the score.
        seed: of draws.
        limits: by index of an axis, the coordinates that it should have; they are left where no
            candidate has them all.
        floor: no score is lower.

    Returns:
        None where the surface of some group says nothing (`group_points.too_little`).
    """
    if not axes or any(fit.surface is None or _too_few(fit) for fit in fits):
        return None
    order = sorted(range(len(axes)), key=lambda j: axes[j].name)
    ordered = [axes[j] for j in order]
    places = tuple(int(j) for j in np.argsort(order))
    surfaces = [ReorderedSurface(fit.surface, places) for fit in fits if fit.surface is not None]
    everywhere = np.concatenate([fit.part.points[:, order] for fit in fits])
    candidates, means = _candidates(surfaces, everywhere, ordered, seed)
    first = _first_within(candidates, {order.index(j): at for j, at in (limits or {}).items()})
    chosen = candidates[first]
    regrets, best_regrets = [], []
    for surface, fit, trial in zip(surfaces, fits, best, strict=True):
        at = np.concatenate([[chosen, trial[order]], candidates[:PROMISING]])
        draws = np.maximum(surface.draws(at, fit.seed + 1, DRAWS), floor)
        least = draws.min(1)
        regrets.append(draws[:, 0] - least)
        best_regrets.append(draws[:, 1] - least)
    point = np.empty(len(axes))
    point[order] = chosen
    fewest = min(len(fit.part.scores) for fit in fits)
    sure = SUREST_OF_FEW if fewest < FEW else SUREST
    return RecommendedPoint(
        point,
        float(means[first]),
        _bound(regrets, tolerance, sure),
        _bound(best_regrets, tolerance, sure),
        sum(len(fit.part.scores) for fit in fits),
    )


def _first_within(candidates: Array, limits: Mapping[int, tuple[float, float]]) -> int:
    """Index of the first candidate within the limits; 0 where none is."""
    inside = np.ones(len(candidates), dtype=bool)
    for j, (low, high) in limits.items():
        inside &= (candidates[:, j] >= low) & (candidates[:, j] <= high)
    return int(np.argmax(inside))


def _too_few(fit: FittedGroup) -> bool:
    if fit.part.trajectories is None:
        return fit.reason is not None
    return too_little(fit.part, LEAST_WITH_CURVES) is not None


def _candidates(
    surfaces: Sequence[ScoreSurface], trials: Array, axes: Sequence[Axis], seed: int
) -> tuple[Array, Array]:
    """Points [m, d] that cover the space, best expected score first, and those scores [m].

    The trials (at most `SPREAD`), a quasi-random spread, and neighbours of the best found so far,
    closer each round.
    """
    rng = np.random.default_rng([seed, 3])
    if len(trials) > SPREAD:  # joint draws take memory for each point
        evenly = np.linspace(0, len(trials) - 1, SPREAD).astype(int)
        trials = trials[np.lexsort(trials.T)[evenly]]
    spread = spread_points(axes, SPREAD, seed)
    points = settable(np.concatenate([trials, spread]), axes)
    means = _mean(surfaces, points)
    numeric = np.array([axis.scale != "categorical" for axis in axes])
    for k in range(ROUNDS):
        best = points[np.argsort(means, kind="stable")[:BEST]]
        moved = np.repeat(best, NEIGHBOURS, axis=0)
        moved += rng.standard_normal(moved.shape) * numeric * 0.1 / 2**k
        moved = settable(moved, axes)
        points = np.concatenate([points, moved])
        means = np.concatenate([means, _mean(surfaces, moved)])
    order = np.argsort(means, kind="stable")
    return points[order], means[order]


def _mean(surfaces: Sequence[ScoreSurface], points: Array) -> Array:
    return np.asarray(np.mean([surface.mean(points) for surface in surfaces], axis=0))


def _bound(draws: Sequence[Array], tolerance: float, sure: float) -> RegretBound:
    average = np.mean(draws, axis=0)
    p_good = min(sure, *(float((draw <= tolerance).mean()) for draw in draws))
    return RegretBound(float(average.mean()), float(np.quantile(average, BOUND)), p_good)

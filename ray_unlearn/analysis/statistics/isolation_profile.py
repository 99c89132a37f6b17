"""Isolation profiles of the trials of one group: the best score over all other hyperparameters.

The isolation profile of a hyperparameter (Tuning Playbook, "isolation plot") is taken from each
joint posterior draw of the response surface, less the same draw's profile around the value that the
surface holds for best. Neither the best observed score nor the draw's own minimum is a fair level:
the first is lucky, the second too low, since a draw is rougher than the truth where trials are few.
From either of them truly good values look bad.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.analysis.statistics.score_surface import ScoreSurface
from ray_unlearn.surfaces.axes import Axis
from ray_unlearn.surfaces.searched_points import moved, spread_points

Array = NDArray[np.float64]

DRAWS = 256

GRID = 41

BETWEEN = 9
"""Values between the neighbours of the best grid value."""

PROMISING = 16

SPREAD = 1024
"""Points of the space that its good share is counted on."""


def profile_grid(axis: Axis) -> Array:
    """Unit coordinates [g] at which the profile is taken.

    Codes of choices, whole values, or even steps from bound to bound.
    """
    if axis.scale == "categorical":
        return np.arange(len(axis.choices), dtype=float)
    even = np.linspace(0, 1, GRID)
    return np.unique(axis.to_unit(np.round(axis.from_unit(even)))) if axis.whole else even


def settings_of_others(
    surface: ScoreSurface, points: Array, axes: Sequence[Axis], seed: int
) -> tuple[Array, int]:
    """Points [m, d] whose coordinates, less the one under study, the minimum is taken over.

    Quasi-random points over the whole space, and the trials that the surface holds for best. Where
    one axis is the product of two others, these are there twice, and the first of them (their
    number comes with the points) are to move along the product: a ridge leads through the space,
    and what is good elsewhere on it must be looked for there.
    """
    if len(axes) == 1:
        return points[:1], 0
    count = 16 * 2 ** min(len(axes), 4)
    order = np.lexsort((*points.T, surface.mean(points)))
    best = points[order[: count // 4]]
    along = [best] if any(axis.factors for axis in axes) else []
    spread = spread_points(axes, count, seed)
    return np.concatenate([*along, best, spread]), len(best) if along else 0


def regret_draws(
    surface: ScoreSurface, others: tuple[Array, int], axes: Sequence[Axis], j: int, seed: int
) -> Array:
    """Draws [DRAWS, g] of the isolation profile of axis j less its level where its mean is least.

    `others` are `settings_of_others`. The level is the least value of the draw between the
    neighbours of that grid value. Where a kink is, is known to a fraction of a grid step, and its
    own grid value is too high: every edge would be too far out.
    """
    grid = profile_grid(axes[j])
    profile = _profile(surface, others, axes, j, grid, seed)
    best = int(np.argmin(profile.mean(0)))
    level = profile[:, [best]]
    if len(grid) == GRID and not axes[j].whole:
        near = grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)]
        between = np.linspace(*near, BETWEEN + 2)[1:-1]
        finer = _profile(surface, others, axes, j, between, seed)
        level = np.minimum(level, finer.min(1, keepdims=True))
    return np.asarray(profile - level)


def _profile(
    surface: ScoreSurface,
    others: tuple[Array, int],
    axes: Sequence[Axis],
    j: int,
    grid: Array,
    seed: int,
) -> Array:
    """Draws [DRAWS, g] of the isolation profile of axis j at coordinates [g].

    At each value of the axis the minimum is over its promising settings of the others (by posterior
    mean) and a spread of the rest.
    """
    at = moved(others[0], axes, j, grid, others[1])
    g, m, d = at.shape
    if m > 2 * PROMISING:
        expected = surface.rough_mean(at.reshape(-1, d)).reshape(g, m)
        expected[:, -PROMISING:] = np.inf
        kept = np.argsort(expected, axis=1, kind="stable")[:, :PROMISING]
        kept = np.concatenate([kept, np.tile(np.arange(m - PROMISING, m), (g, 1))], axis=1)
        at = np.take_along_axis(at, kept[:, :, None], axis=1)
        m = at.shape[1]
    draws = surface.draws(at.reshape(-1, d), seed, DRAWS).reshape(DRAWS, g, m)
    return np.asarray(draws.min(2))


def profile_points(
    surface: ScoreSurface, points: Array, axes: Sequence[Axis], j: int, seed: int
) -> Array:
    """Points [g, d] of the isolation profile of axis j: the best expected one at each value."""
    others, along = settings_of_others(surface, points, axes, seed)
    at = moved(others, axes, j, profile_grid(axes[j]), along)
    g, m, d = at.shape
    least = surface.rough_mean(at.reshape(-1, d)).reshape(g, m).argmin(1)
    return np.asarray(at[np.arange(g), least])


def surface_best(surface: ScoreSurface, points: Array, axes: Sequence[Axis], seed: int) -> Array:
    """The point [1, d] with the least posterior mean among trials [n, d] and a spread."""
    candidates = np.concatenate([points, spread_points(axes, SPREAD, seed)])
    return candidates[np.lexsort((*candidates.T, surface.mean(candidates)))[:1]]


def greatest_cost(
    surface: ScoreSurface, best: Array, axes: Sequence[Axis], j: int, seed: int
) -> Array:
    """Draws [DRAWS] of the greatest score along axis j through the best point, less the best's.

    The others stay where they are at the best point. On an isolation profile they are set anew for
    each value, so that on a ridge either hyperparameter would look as if it could be left alone.
    """
    along = moved(best, axes, j, profile_grid(axes[j])).reshape(-1, len(axes))
    draws = surface.draws(np.concatenate([best, along]), seed, DRAWS)
    return np.asarray(draws[:, 1:].max(1) - draws[:, 0])


def good_share_draws(
    surface: ScoreSurface, best: Array, spread: Array, tolerance: float, seed: int
) -> Array:
    """Draws [DRAWS] of the share of the space within the tolerance of the surface's best point.

    `spread` [m, d] covers the space. The share of *trials* measured near the best of them is no
    estimate of this: the best of many noisy scores is lucky, and all others carry noise (Efron
    2011, "Tweedie's formula and selection bias").
    """
    draws = surface.draws(np.concatenate([best, spread]), seed, DRAWS)
    return np.asarray((draws[:, 1:] <= draws[:, :1] + tolerance).mean(1))

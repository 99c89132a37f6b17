"""The points of a space that promise the largest gain over all points tried.

Expected improvement under noise (Letham et al. 2019, "Constrained Bayesian optimization with noisy
experiments"): in each joint draw of the surface, by how much a candidate is below the best point
tried, averaged over draws. The best observed score is no part of it, since it is lucky. Points
whose results are pending count as tried: in each draw they have the value that it gives them, so a
batch spreads by itself and no result has to be invented.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.surfaces.axes import Axis
from ray_unlearn.surfaces.component_surface import ComponentSurface
from ray_unlearn.surfaces.searched_points import spread_points

Array = NDArray[np.float64]

SPREAD, BEST, NEIGHBOURS, ROUNDS = 512, 16, 8, 3
"""Quasi-random candidates; the best of them get as many neighbours each, closer every round."""
LOOKED_AT = 96
"""Candidates by expected score, and as many of the spread, whose draws are made."""
MOST_TRIED = 48
"""Points tried, by expected score, among which a draw has its best."""
DRAWS = 256


def promising_points(
    surface: ComponentSurface,
    tried: Array,
    axes: Sequence[Axis],
    settled: Callable[[Array], Array],
    seed: int,
    count: int,
    belief: Callable[[Array], Array] | None = None,
) -> tuple[Array, Array]:
    """The most promising points [count, d], best first, and their expected improvements [count].

    Args:
        surface: of the score.
        tried: points [n, d] that have results, or wait for them.
        axes: in the order of the coordinates.
        settled: moves points [m, d] to values that can be set.
        seed: of candidates and draws.
        count: points wanted; fewer where the space has fewer.
        belief: weights (0, 1] of the gains at points [m, d], from what was known before; None: all
            are alike (Hvarfner et al. 2022, arXiv 2204.11051).
    """
    candidates = _candidates(surface, axes, settled, seed)
    known = np.unique(tried, axis=0)
    known = known[np.argsort(surface.rough_mean(known), kind="stable")[:MOST_TRIED]]
    draws = surface.draws(np.concatenate([known, candidates]), seed, DRAWS)
    best = draws[:, : len(known)].min(1, keepdims=True)
    gains = np.maximum(best - draws[:, len(known) :], 0).mean(0)
    if belief is not None:
        gains = gains * belief(candidates)
    first = np.argsort(-gains, kind="stable")[:count]
    return candidates[first], gains[first]


def _candidates(
    surface: ComponentSurface,
    axes: Sequence[Axis],
    settled: Callable[[Array], Array],
    seed: int,
) -> Array:
    """Candidates [m, d]: a spread over the space, and points around those of the best score."""
    rng = np.random.default_rng([seed, 6])
    spread = settled(spread_points(axes, SPREAD, seed))
    points, means = spread, surface.rough_mean(spread)
    numeric = np.array([axis.scale != "categorical" for axis in axes])
    for k in range(ROUNDS):
        best = points[np.argsort(means, kind="stable")[:BEST]]
        near = np.repeat(best, NEIGHBOURS, axis=0)
        near = settled(near + rng.standard_normal(near.shape) * numeric * 0.1 / 2**k)
        points = np.concatenate([points, near])
        means = np.concatenate([means, surface.rough_mean(near)])
    best = points[np.argsort(means, kind="stable")[:LOOKED_AT]]
    return np.unique(np.concatenate([best, spread[:LOOKED_AT]]).round(9), axis=0)

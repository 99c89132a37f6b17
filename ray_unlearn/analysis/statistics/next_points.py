"""The points whose results would settle most of what is open about a surface.

The question at each value of a hyperparameter is whether it is good: whether its best score over
the others is within the tolerance of the surface's best. What is unknown is the variance of that
answer, p (1 - p) for P(good) = p, averaged over the values. A trial at a point will move p by an
amount whose distribution is known beforehand, since the posterior covariance of a Gaussian process
does not depend on the scores to come. Points are chosen one by one for the least expected variance
after all of them (greedy; each choice conditions the covariance on those before). Bect et al. 2012,
"Sequential design of computer experiments for the estimation of a probability of failure", choose
by the same variance.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import owens_t

from ray_unlearn.analysis.statistics.isolation_profile import profile_points, surface_best
from ray_unlearn.analysis.statistics.score_surface import ScoreSurface
from ray_unlearn.surfaces.axes import Axis
from ray_unlearn.surfaces.group_points import GroupPoints, seed_of
from ray_unlearn.surfaces.searched_points import settable, spread_points

Array = NDArray[np.float64]

CANDIDATES = 256
DRAWS = 512


def informative_points(
    surface: ScoreSurface,
    part: GroupPoints,
    axes: Sequence[Axis],
    asked: Sequence[int],
    tolerance: float,
    seed: int,
    count: int,
) -> tuple[Array, Array]:
    """The points that tell most about the axes asked for, most telling first.

    Args:
        surface: of the group's score.
        part: its trials.
        axes: in the order of the coordinates.
        asked: indices of the axes whose good values are open.
        tolerance: tau > 0, in units of the score.
        seed: of draws.
        count: points wanted.

    Returns:
        Points [count, d], and by how much each lowers the expected variance [count], summed over
        the axes asked for; 0.25 is what is unknown of an axis of which nothing is known.
    """
    own_seed = seed_of([part], seed)
    best = surface_best(surface, part.points, axes, own_seed)
    targets = [profile_points(surface, part.points, axes, j, own_seed) for j in asked]
    candidates = np.concatenate([*targets, spread_points(axes, CANDIDATES, own_seed)])
    candidates = np.unique(settable(candidates, axes).round(9), axis=0)
    draws = surface.draws(np.concatenate([best, *targets, candidates]), own_seed, DRAWS)
    asked_for = len(draws.T) - 1 - len(candidates)
    regret = draws[:, 1 : 1 + asked_for] - draws[:, :1]
    told = draws[:, 1 + asked_for :]
    noise = surface.predicted(candidates, own_seed, DRAWS).var(0) - told.var(0)
    noise = np.full(len(candidates), max(float(np.median(noise)), (0.01 * tolerance) ** 2))
    weights = np.concatenate([np.full(len(at), 1 / len(at)) for at in targets])
    chosen, gains = _greedy(regret, told, noise, weights, tolerance, min(count, len(candidates)))
    return candidates[chosen], gains


def _greedy(
    regret: Array, told: Array, noise: Array, weights: Array, tolerance: float, count: int
) -> tuple[list[int], Array]:
    """Indices of the candidates chosen, and what each gains.

    Args:
        regret: draws [DRAWS, q] of what each value asked about costs.
        told: draws [DRAWS, m] of the score at each candidate.
        noise: variance [m] of a new trial's score about it.
        weights: of the values [q].
        tolerance: tau.
        count: to choose.
    """
    left, right = (x - x.mean(0) for x in (regret, told))
    cross, own = left.T @ right / len(left), right.T @ right / len(right)
    before = left.var(0)
    spread = np.sqrt(before)
    sure = spread < 1e-9 * tolerance
    limits = (tolerance - regret.mean(0)) / np.where(sure, 1.0, spread)
    weights = np.where(sure, 0.0, weights)
    known = np.zeros(len(before))
    unknown = float(weights @ _variance(limits, known))
    chosen: list[int] = []
    gains = []
    for _ in range(count):
        tells = cross**2 / (own.diagonal() + noise) / np.where(sure, 1.0, before)[:, None]
        after = weights @ _variance(limits[:, None], known[:, None] + tells)
        after[chosen] = np.inf
        k = int(np.argmin(after))
        chosen.append(k)
        gains.append(unknown - float(after[k]))
        unknown = float(after[k])
        known = known + tells[:, k]
        scale = own[k, k] + noise[k]
        cross = cross - np.outer(cross[:, k], own[k]) / scale
        own = own - np.outer(own[:, k], own[k]) / scale
    return chosen, np.array(gains)


def _variance(limits: Array, known: Array) -> Array:
    """Expected p (1 - p) once a share `known` of a regret's variance is known.

    With a = (tau - mean) / SD, p is now Phi(a). E[p^2] later is the probability that two standard
    normals of correlation `known` are both below a, so E[p (1 - p)] is 2 T(a, sqrt((1 - known) /
    (1 + known))), with Owen's T.
    """
    share = np.clip(known, 0.0, 1.0)
    return np.asarray(2 * owens_t(limits, np.sqrt((1 - share) / (1 + share))))


def filling_points(points: Array, axes: Sequence[Axis], seed: int, count: int) -> Array:
    """Quasi-random points [count, d], each as far as can be from all before it.

    Args:
        points: trials [n, d] that there are.
        axes: in the order of the coordinates.
        seed: of the quasi-random points.
        count: points wanted.
    """
    size = max(CANDIDATES, 2 ** math.ceil(math.log2(count)))
    candidates = settable(spread_points(axes, size, seed), axes)
    scale = np.array([max(1, len(axis.choices) - 1) for axis in axes])
    taken = np.concatenate([points, np.full((1, len(axes)), np.inf)])
    away = np.min([np.abs((candidates - one) / scale).max(1) for one in taken], axis=0)
    chosen = []
    for _ in range(count):
        k = int(np.argmax(away))
        chosen.append(k)
        away = np.minimum(away, np.abs((candidates - candidates[k]) / scale).max(1))
    return candidates[chosen]

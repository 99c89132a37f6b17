"""Whether a score depends on a hyperparameter at all, at any number of trials.

Score test of a variance component (Liu, Lin & Ghosh 2007, "Semiparametric regression of
multidimensional genetic pathway data", the statistic of SKAT): a Gaussian process without the
hyperparameter is fitted, and what it leaves unexplained is compared with a kernel of that
hyperparameter alone. The null is the same with the hyperparameter's values shuffled among the
trials. Where they were drawn at random and do nothing, they are independent of all else, so the
test is exact whatever the fit made of the others; of adaptive trials that holds nearly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.analysis.statistics.response_surface import as_seen
from ray_unlearn.surfaces.axes import Axis
from ray_unlearn.surfaces.embedding import embedded
from ray_unlearn.surfaces.kernel_posterior import KernelPosterior, matern

Array = NDArray[np.float64]

PERMUTATIONS = 999
MOST_TESTED = 150
"""Trials of a group that the test rests on at most."""
WIDTH = 0.3
"""Length scale of the alternative, in the unit coordinate."""


@dataclass(frozen=True)
class AxisEffect:
    """Evidence that the score depends on one hyperparameter, from all trials of a method.

    statistic: how much better the score follows it than its shuffled values, in SDs of these.
    null_95: what the greatest statistic of a method's shuffled hyperparameters exceeds in 5 %.
    p: family-wise over the method's hyperparameters.
    """

    statistic: float
    null_95: float
    p: float


def axis_effects(
    points: Array,
    scores: Array,
    infeasible: NDArray[np.bool_],
    axes: Sequence[Axis],
    tolerance: float,
    seed: int,
) -> Array:
    """Standardised statistics [1 + PERMUTATIONS, d] of each axis: observed, then of shuffles.

    Args:
        points: of the trials of one group [n, d], in unit coordinates.
        scores: [n]; ignored where infeasible, and winsorised.
        infeasible: [n]; such trials are the worst.
        axes: in the order of the coordinates.
        tolerance: tau, in units of the score.
        seed: of the shuffles and of the trials chosen where there are many.
    """
    rng = np.random.default_rng([seed, 4])
    values, capped = as_seen(scores, infeasible, tolerance)
    points, values, capped = _by_configuration(points, values, capped, axes)
    some = np.lexsort((*points.T, values))
    some = some[np.sort(rng.permutation(len(some))[:MOST_TESTED])]
    shuffles = np.argsort(rng.random((PERMUTATIONS, len(some))), axis=1)
    shuffles = np.concatenate([np.arange(len(some))[None], shuffles])
    targets = (values[some] - values[some].mean()) / (values[some].std() or 1.0)
    return np.column_stack(
        [_effect(points[some], targets, capped[some], axes, j, shuffles) for j in range(len(axes))]
    )


def effects_over_groups(groups: Sequence[Array]) -> tuple[AxisEffect, ...]:
    """Each axis's effect, the groups' statistics [1 + PERMUTATIONS, d] added.

    p-values are family-wise over the axes: single-step max-T (Westfall & Young 1993).
    """
    total = np.sum(groups, axis=0) / np.sqrt(len(groups))
    greatest = total[1:].max(axis=1)
    limit = float(np.quantile(greatest, 0.95))
    # The slack keeps rounding from breaking a tie.
    p_values = (1 + (greatest[:, None] >= total[0] - 1e-9).sum(0)) / (1 + len(greatest))
    return tuple(
        AxisEffect(float(statistic), limit, float(p))
        for statistic, p in zip(total[0], p_values, strict=True)
    )


def _by_configuration(
    points: Array, values: Array, capped: NDArray[np.bool_], axes: Sequence[Axis]
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Points, mean values and whether all of these are at the limit, one for each configuration.

    Trials that repeat configurations, with several seeds say, are no independent evidence: the
    others of its hyperparameters tell each configuration, and would explain what one of them does.
    In a grid, or among a few choices, they do not, and every trial counts.
    """
    found, which = np.unique(points, axis=0, return_inverse=True)
    most = max(len(np.unique(column)) for column in points.T)
    if len(axes) == 1 or len(found) == len(points) or 2 * most <= len(found):
        return points, values, capped
    counts = np.bincount(which.reshape(-1))
    means = np.bincount(which.reshape(-1), weights=values) / counts
    return found, means, np.bincount(which.reshape(-1), weights=capped) == counts


def _effect(
    points: Array,
    targets: Array,
    capped: NDArray[np.bool_],
    axes: Sequence[Axis],
    j: int,
    shuffles: NDArray[np.int_],
) -> Array:
    """The statistic [1 + PERMUTATIONS] of one axis, less its null mean, over its null SD."""
    categorical = tuple(len(axis.choices) if axis.scale == "categorical" else 0 for axis in axes)
    inputs = embedded(points, categorical)
    own, rest = _columns(categorical, axes, j)
    unexplained = _unexplained(inputs[:, rest[0]], rest[1], targets, capped)
    gaps = inputs[:, own][:, None] - inputs[:, own][None]
    component = matern((gaps**2).sum(-1) / WIDTH**2, 1.0)
    component -= component.mean(0)
    component -= component.mean(1)[:, None]
    # Shuffling these among the trials is shuffling the axis's values.
    shuffled = unexplained[shuffles]
    values = np.einsum("pi,pi->p", shuffled @ component, shuffled)
    centre, scale = values[1:].mean(), values[1:].std()
    return np.asarray((values - centre) / (scale if scale > 0 else 1.0))


def _columns(
    categorical: tuple[int, ...], axes: Sequence[Axis], j: int
) -> tuple[NDArray[np.int_], tuple[NDArray[np.int_], NDArray[np.int_]]]:
    """Columns of axis j, and those of the model without it with the axis that each belongs to.

    A product goes with its factors and a factor with its product, for each stands for the other.
    """
    widths = [max(k, 1) for k in categorical]
    owner = np.repeat(np.arange(len(axes)), widths)
    name, factors = axes[j].name, axes[j].factors
    gone = [axis.name == name or axis.name in factors or name in axis.factors for axis in axes]
    rest = np.flatnonzero(~np.array(gone)[owner])
    kinds = np.unique(owner[rest], return_inverse=True)[1]
    return np.flatnonzero(owner == j), (rest, kinds)


def _unexplained(
    inputs: Array, lengths: NDArray[np.int_], targets: Array, capped: NDArray[np.bool_]
) -> Array:
    """Targets [n] times the inverse covariance of the model without the axis.

    Without any other axis that model is noise alone.
    """
    if not inputs.shape[1]:
        return targets
    posterior = KernelPosterior(inputs, targets, capped, lengths)
    covariance = posterior.covariance(posterior.mode())[0]
    return np.asarray(np.linalg.solve(covariance, targets))

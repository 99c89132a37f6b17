"""Whether a score depends on a hyperparameter at all, at any number of trials.

Score test of a variance component (Liu, Lin & Ghosh 2007, "Semiparametric regression of
multidimensional genetic pathway data", the statistic of SKAT): a Gaussian process without the
hyperparameter is fitted, and its whitened residuals are compared with a kernel of that
hyperparameter alone. They are exchangeable where it does nothing, so that shuffles of them are the
null. PED-ANOVA asks the same of the best quarter of the trials and needs 32 of them; this uses
every trial, and adaptive ones too, since it conditions on where they were.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack, solve_triangular

from ray_unlearn.analysis.axes import Axis
from ray_unlearn.analysis.statistics.embedding import embedded
from ray_unlearn.analysis.statistics.kernel_posterior import KernelPosterior, matern
from ray_unlearn.analysis.statistics.response_surface import as_seen

Array = NDArray[np.float64]

PERMUTATIONS = 999
MOST_TESTED = 150
"""Trials of a group that the test rests on at most."""
WIDTH = 0.3
"""Length scale of the alternative, in the unit coordinate."""


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
    some = np.lexsort((*points.T, values))
    some = some[np.sort(rng.permutation(len(some))[:MOST_TESTED])]
    shuffles = np.argsort(rng.random((PERMUTATIONS, len(some))), axis=1)
    shuffles = np.concatenate([np.arange(len(some))[None], shuffles])
    targets = (values[some] - values[some].mean()) / (values[some].std() or 1.0)
    return np.column_stack(
        [_effect(points[some], targets, capped[some], axes, j, shuffles) for j in range(len(axes))]
    )


def effect_p_values(groups: Sequence[Array]) -> Array:
    """Family-wise p-values [d] over the axes, the groups' statistics [1 + PERMUTATIONS, d] added.

    Single-step max-T (Westfall & Young 1993).
    """
    total = np.sum(groups, axis=0)
    greatest = total[1:].max(axis=1)
    return np.asarray(
        (1 + (greatest[:, None] >= total[0] - 1e-9).sum(0)) / (1 + len(greatest)), dtype=float
    )


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
    whitened, root = _whitened(inputs[:, rest[0]], rest[1], targets, capped)
    gaps = inputs[:, own][:, None] - inputs[:, own][None]
    component = matern((gaps**2).sum(-1) / WIDTH**2, 1.0)
    component -= component.mean(0)
    component -= component.mean(1)[:, None]
    inner = root.T @ component @ root
    shuffled = whitened[shuffles]
    values = np.einsum("pi,pi->p", shuffled @ inner, shuffled)
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


def _whitened(
    inputs: Array, lengths: NDArray[np.int_], targets: Array, capped: NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Residuals [n] of the model without the axis, whitened, and the whitening matrix, transposed.

    Without any other axis that model is noise alone.
    """
    if not inputs.shape[1]:
        return targets, np.eye(len(targets))
    posterior = KernelPosterior(inputs, targets, capped, lengths)
    covariance = posterior.covariance(posterior.mode())[0]
    cholesky = lapack.dpotrf(covariance, lower=1)[0]
    root = solve_triangular(cholesky, np.eye(len(targets)), lower=True)
    return root @ targets, root.T

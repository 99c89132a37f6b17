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
from ray_unlearn.analysis.statistics.kernel_posterior import KernelPosterior, matern
from ray_unlearn.analysis.statistics.response_surface import ResponseSurface

Array = NDArray[np.float64]

PERMUTATIONS = 999
MOST_TESTED = 150
"""Trials of a group that the test rests on at most."""
WIDTH = 0.3
"""Length scale of the alternative, in the unit coordinate."""


def axis_effects(surface: ResponseSurface, axes: Sequence[Axis], seed: int) -> Array:
    """Standardised statistics [1 + PERMUTATIONS, d] of each axis: observed, then of shuffles.

    Args:
        surface: fitted to the trials of one group.
        axes: in the order of its coordinates.
        seed: of the shuffles and of the trials chosen where there are many.
    """
    rng = np.random.default_rng([seed, 4])
    n = len(surface.targets)
    some = np.sort(rng.permutation(n)[:MOST_TESTED])
    shuffles = np.argsort(rng.random((PERMUTATIONS, len(some))), axis=1)
    shuffles = np.concatenate([np.arange(len(some))[None], shuffles])
    columns = [_effect(surface, axes, j, some, shuffles) for j in range(len(axes))]
    return np.column_stack(columns)


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
    surface: ResponseSurface,
    axes: Sequence[Axis],
    j: int,
    some: NDArray[np.int_],
    shuffles: NDArray[np.int_],
) -> Array:
    """The statistic [1 + PERMUTATIONS] of one axis, less its null mean, over its null SD."""
    own, rest = _columns(surface, axes, j)
    inputs, targets = surface.inputs[some], surface.targets[some]
    whitened, root = _whitened(inputs[:, rest[0]], rest[1], targets, surface.capped[some])
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
    surface: ResponseSurface, axes: Sequence[Axis], j: int
) -> tuple[NDArray[np.int_], tuple[NDArray[np.int_], NDArray[np.int_]]]:
    """Columns of axis j, and those of the model without it with the axis that each belongs to.

    A product goes with its factors and a factor with its product, for each stands for the other.
    """
    widths = [max(k, 1) for k in surface.categorical]
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

"""Points of a search space of which one axis may be the product of two others.

A product is no free coordinate: whoever moves a factor moves the product, and the product moves
only with a factor.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from ray_unlearn.surfaces.axes import Axis

Array = NDArray[np.float64]


def spread_points(axes: Sequence[Axis], count: int, seed: int) -> Array:
    """Quasi-random points [count, d] over the whole space; count is a power of two."""
    points = qmc.Sobol(len(axes), seed=np.random.default_rng(seed)).random(count)
    for j, axis in enumerate(axes):
        if axis.scale == "categorical":
            points[:, j] = np.floor(points[:, j] * len(axis.choices))
    return completed(points, axes)


def completed(points: Array, axes: Sequence[Axis]) -> Array:
    """The points [..., d] with the coordinate of each product made from its factors."""
    for j, axis in enumerate(axes):
        if axis.factors:
            one, other = (_natural(points, axes, name) for name in axis.factors)
            points[..., j] = axis.to_unit(one * other)
    return points


def settable(points: Array, axes: Sequence[Axis]) -> Array:
    """The points [m, d] moved to values that can be set: within bounds, whole where needed."""
    columns = []
    for column, axis in zip(points.T, axes, strict=True):
        if axis.scale == "categorical":
            columns.append(column)
            continue
        inside = np.clip(column, 0, 1)
        if axis.whole:
            whole = np.round(axis.from_unit(inside))
            inside = axis.to_unit(np.clip(whole, np.ceil(axis.low), np.floor(axis.high)))
        columns.append(inside)
    return completed(np.column_stack(columns), axes)


def moved(points: Array, axes: Sequence[Axis], j: int, grid: Array, along: int = 0) -> Array:
    """Points [m, d] moved to each value of axis j: [g, m, d].

    Args:
        points: where the other axes are.
        axes: of the coordinates.
        j: the axis to move on.
        grid: coordinates [g] on it.
        along: of the points, the first that keep the product and move its other factor with this
            one, as far as the space goes.
    """
    at = np.repeat(points[None], len(grid), axis=0)
    at[:, :, j] = grid[:, None]
    if axes[j].factors:
        first, second = axes[j].factors
        _keep_product(at, axes, j, first, second)
        _keep_product(at, axes, j, second, first)
    for k, axis in enumerate(axes):
        if axes[j].name in axis.factors:
            (other,) = (name for name in axis.factors if name != axes[j].name)
            _keep_product(at[:, :along], axes, k, other, axes[j].name)
    return completed(at, axes)


def _keep_product(at: Array, axes: Sequence[Axis], j: int, moving: str, fixed: str) -> None:
    """Move one factor so that the product on axis j is what its coordinate says, within bounds."""
    k = [axis.name for axis in axes].index(moving)
    wanted = axes[j].from_unit(at[..., j]) / _natural(at, axes, fixed)
    at[..., k] = np.clip(axes[k].to_unit(wanted), 0, 1)


def _natural(points: Array, axes: Sequence[Axis], name: str) -> Array:
    """Values [...] of an axis at points [..., d]."""
    k = [axis.name for axis in axes].index(name)
    return axes[k].from_unit(points[..., k])

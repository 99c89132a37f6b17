"""Points of a search space as inputs of a kernel: choices and groups have no order."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def embedded(points: Array, categorical: tuple[int, ...]) -> Array:
    """Numeric axes as they are, categorical ones one-hot over sqrt(2).

    Any two choices have distance 1.
    """
    columns = [
        column[:, None] if not k else (column[:, None] == np.arange(k)) / math.sqrt(2)
        for column, k in zip(points.T, categorical, strict=True)
    ]
    return np.concatenate([np.empty((len(points), 0)), *columns], axis=1).astype(float)


def of_group(points: Array, categorical: tuple[int, ...], group: int, groups: int) -> Array:
    """Points [m, d] of a group, embedded; of several groups it is one more categorical axis."""
    if groups == 1:
        return embedded(points, categorical)
    codes = np.full((len(points), 1), float(group))
    return embedded(np.concatenate([points, codes], axis=1), (*categorical, groups))


def axis_of_columns(categorical: tuple[int, ...], groups: int) -> NDArray[np.int_]:
    """The axis of each embedded column."""
    widths = [*(max(k, 1) for k in categorical), *([groups] if groups else [])]
    return np.repeat(np.arange(len(widths)), widths)

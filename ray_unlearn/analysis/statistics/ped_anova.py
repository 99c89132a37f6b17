"""PED-ANOVA for many top sets at once, so that a permutation null is affordable.

The statistic is that of Optuna 5, vectorised.

Watanabe, Bansal, Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
Subspaces" (IJCAI 2023, arXiv 2304.10255); what a hyperparameter absent from some trials means is
Algorithm 1 of conditional PED-ANOVA (arXiv 2601.20800). Grid, bandwidth and prior are those of
`optuna.importance._ped_anova`.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.special import ndtr

from ray_unlearn.analysis.axes import Axis

Floats = NDArray[np.float64]

GRID = 50
"""Cells of a continuous axis."""

LEAST_SIGMA = 0.5 / 1.64
"""Least width of a kernel, in cells: 90 % of its mass is within its own cell."""

FLOOR = 1e-12
"""Added to both densities, as Optuna does, so that empty cells divide."""


def n_cells(axis: Axis) -> int:
    """Grid cells of an axis: one per choice or whole number, `GRID` at most.

    1 where nothing varies.
    """
    if axis.scale == "categorical":
        return len(axis.choices)
    if axis.low == axis.high:
        return 1
    if not axis.whole:
        return GRID
    levels = round(axis.high - axis.low) + 1
    return min(math.ceil(math.log2(levels)) + 1 if axis.scale == "log" else levels, GRID)


def memberships(axis: Axis, coordinates: Floats) -> NDArray[np.float32]:
    """The cell that each trial is in, one-hot [trials, cells].

    All zero where the trial lacks the hyperparameter (NaN).

    Coordinates outside [0, 1] count in the outermost cell.
    """
    cells = n_cells(axis)
    present = np.isfinite(coordinates)
    place = coordinates[present]
    if axis.scale != "categorical":
        # Midpoints go to the lower cell, whatever the rounding.
        place = np.ceil(place * (cells - 1) - 0.5 - 1e-9)
    one_hot = np.zeros((len(coordinates), cells), dtype=np.float32)
    one_hot[np.flatnonzero(present), np.clip(place, 0, cells - 1).astype(int)] = 1
    return one_hot


def ped(axis: Axis, top: Floats, region: Floats, n_top: int, n_region: int) -> Floats:
    """PED-ANOVA importances [sets], unnormalised.

    Args:
        axis: the hyperparameter.
        top: trials by cell of each top set [sets, cells].
        region: trials by cell of all trials [cells], fractional where trials carry weights.
        n_top: size of a top set, trials that lack the hyperparameter included.
        n_region: all trials, those that lack it included.
    """
    if n_cells(axis) < 2 or region.sum() < 2:
        return np.zeros(len(top))
    has = top.sum(axis=1)
    density = _density(axis, top) + FLOOR
    reference = _density(axis, region[None]) + FLOOR
    divergence = (reference * (density / reference - 1) ** 2).sum(axis=1)
    weight = (n_top / n_region) ** 2 * (has / n_top) ** 2 / (region.sum() / n_region)
    return np.where(has > 0, weight * divergence, 0.0)


def _density(axis: Axis, counts: Floats) -> Floats:
    """Parzen estimates [sets, cells] from trials by cell.

    One pseudo-trial is spread over the whole axis.
    """
    return _categorical(counts) if axis.scale == "categorical" else _numeric(counts)


def _categorical(counts: Floats) -> Floats:
    n, choices = counts.sum(axis=1, keepdims=True), counts.shape[1]
    # One kernel per choice seen, and the prior's.
    smoothing = 1 / ((counts > 0).sum(axis=1, keepdims=True) + 1)
    return ((counts + n * smoothing) / (1 + choices * smoothing) + 1 / choices) / (n + 1)


def _numeric(counts: Floats) -> Floats:
    """Gaussian kernels with Scott's bandwidth, integrated over cells.

    They are cut at the ends of the axis.
    """
    cells = counts.shape[1]
    grid = np.arange(cells, dtype=float)
    n = np.maximum(counts.sum(axis=1), 1.0)
    mean = counts @ grid / n
    spread = np.sqrt((counts * (grid - mean[:, None]) ** 2).sum(axis=1) / np.maximum(n - 1, 1))
    reached = np.cumsum(counts, axis=1)
    first = (reached >= np.maximum(n // 4, 1e-9)[:, None]).argmax(axis=1)
    third = (reached > (n * 3 // 4)[:, None]).argmax(axis=1)
    sigma = np.maximum(1.059 * np.minimum((third - first) / 1.34, spread) * n**-0.2, LEAST_SIGMA)

    # Masses depend on the distance between cell and kernel alone: 2 x cells values of the normal
    # cdf serve all pairs.
    cdf = ndtr((np.arange(-cells, cells) + 0.5) / sigma[:, None])
    inside = (cdf[:, cells:] - cdf[:, :cells])[:, ::-1]
    weights = counts / inside / (n + 1)[:, None]
    # [sets, cells, cells], a view.
    by_distance = sliding_window_view(np.diff(cdf, axis=1), cells, axis=1)
    kernels = np.einsum("sij,sj->si", by_distance, weights[:, ::-1])

    edges = ndtr((np.arange(cells + 1) - cells / 2) / cells)
    prior = np.diff(edges) / (edges[-1] - edges[0])
    return kernels + prior / (n + 1)[:, None]

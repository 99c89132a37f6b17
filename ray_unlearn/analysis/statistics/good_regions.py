"""Where a hyperparameter is good, whatever the others are set to.

The isolation profile of a hyperparameter is the best score over all others at each of its values
(Tuning Playbook, "isolation plot"); its good region is {x: profile(x) <= min + tolerance}. Both are
taken per joint posterior draw of the surface, so that the best and the profile belong to the same
possible truth. The best is the value that the surface holds for it (see `isolation_profile`).

Each group (domain, model) has a surface of its own, and a value is good when it is good in all of
them. That is claimed where each group says so by itself (intersection-union test, Berger 1982: no
correction is needed), and refuted where one group does at a level divided by their number. The
obvious alternative, the largest regret over the groups of independent draws, takes the maximum of
errors for a difference between groups: with three groups of 36 trials and the same truth its 90 %
intervals held the edges in 2 and 16 % of repeats.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.analysis.statistics.fitted_groups import FittedGroup, fit_groups
from ray_unlearn.analysis.statistics.isolation_profile import Array, profile_grid
from ray_unlearn.surfaces.axes import Axis
from ray_unlearn.surfaces.group_points import GroupPoints

CORE, EXCLUDED = 0.9, 0.1
INTERVAL = (0.05, 0.95)
EDGE = (0.025, 0.975)
"""Quantiles of an edge's draws that are called its 90 % interval. Draws do not know that a kernel
rounds off what is sharp: their 90 % held 79 to 84 % of the edges of cliffs and sharp bottoms, these
82 to 93 % (docs/findings.md)."""


@dataclass(frozen=True)
class Region:
    """What is known of the good values of one hyperparameter, in its own units.

    grid: values [g] at which the rest is known.
    profile: posterior median of the regret [g] (0 is best); low, high: its 90 % band [g].
    p_good: posterior probability [g] that the regret is within the tolerance. Profile, band and
        p_good are those of the group where they are worst.
    core: the run of values with p_good >= 0.9 that holds the best; None if there is none (`reason`
        says why).
    low_edge, high_edge: 90 % intervals of where the good region ends; None where no end is shown.
    low_censored, high_censored: no end is shown on that side (say "<=" or ">="). The core reaches
        the bound of what was searched, or ends before it because trials are too few, with nothing
        excluded beyond. With a core each side has an edge or is censored; a core censored on both
        sides (`bounded` is false) claims nothing.
    excluded: runs of values with p_good <= 0.1 over the number of groups.
    best: the value with the highest p_good, the least regret among equals.

    A categorical axis has codes for values, no core and no edges; see `choices_good`.
    """

    axis: Axis
    grid: Array
    profile: Array
    low: Array
    high: Array
    p_good: Array
    core: tuple[float, float] | None
    low_edge: tuple[float, float] | None
    high_edge: tuple[float, float] | None
    low_censored: bool
    high_censored: bool
    excluded: tuple[tuple[float, float], ...]
    best: float
    n_trials: int
    reason: str | None = None
    n_used: int = 0
    """Trials the fits rest on: at most `MOST_POINTS` of each group."""
    groups: tuple[str, ...] = ()
    p_by_group: Array = field(default_factory=lambda: np.empty((0, 0)))
    """P(good) in each group [G, g]."""
    p_harmless: float = 0.0
    """Probability that no value costs more than the tolerance, the least over groups."""

    @property
    def bounded(self) -> bool:
        """Whether an end of the good region is shown: only then is there a range to claim."""
        return self.low_edge is not None or self.high_edge is not None

    @property
    def span(self) -> float:
        """Part of the axis that the core takes, 0 without one."""
        return 0.0 if self.core is None else float(np.ptp(self.axis.to_unit(np.array(self.core))))

    @property
    def low_at_bound(self) -> bool:
        """Whether the core reaches the low bound of what was searched."""
        return self.core is not None and math.isclose(self.core[0], self.axis.low)

    @property
    def high_at_bound(self) -> bool:
        """Whether the core reaches the high bound of what was searched."""
        return self.core is not None and math.isclose(self.core[1], self.axis.high)

    @property
    def choices_good(self) -> tuple[str, ...]:
        """Choices of a categorical axis with p_good >= 0.9."""
        return tuple(
            choice for choice, p in zip(self.axis.choices, self.p_good, strict=False) if p >= CORE
        )

    @property
    def choices_excluded(self) -> tuple[str, ...]:
        """Choices of a categorical axis that are excluded."""
        return (
            tuple(self.axis.choices[int(code)] for code, _ in self.excluded)
            if self.axis.choices
            else ()
        )


def good_regions(
    parts: Sequence[GroupPoints] | Sequence[FittedGroup],
    axes: Sequence[Axis],
    tolerance: float,
    seed: int = 0,
) -> tuple[Region, ...]:
    """The good region of each axis, from the trials of one method in all its groups.

    Neither the order nor the names of trials, groups and axes matter. A group with too few trials
    leaves the whole method without regions: some groups cannot say what is good in all.

    Args:
        parts: one per group; groups that are fitted already are not fitted again.
        axes: hyperparameters, in the order of the coordinates.
        tolerance: tau > 0, in units of the score.
        seed: of the groups that are not fitted yet.

    Returns:
        One region per axis, in their order.
    """
    assert parts
    given = [part for part in parts if isinstance(part, GroupPoints)]
    fits = [part for part in parts if isinstance(part, FittedGroup)]
    fits += fit_groups(given, axes, tolerance, seed) if given else ()
    trials = sum(len(fit.part.scores) for fit in fits), sum(fit.n_used for fit in fits)
    reasons = sorted(fit.reason for fit in fits if fit.reason is not None)
    if reasons:
        return tuple(_unknown(axis, trials, reasons[0]) for axis in axes)
    return tuple(
        replace(
            _region(axis, [fit.regrets[j] for fit in fits], tolerance, trials),
            groups=tuple(fit.part.group for fit in fits),
            p_by_group=np.stack([(fit.regrets[j] <= tolerance).mean(0) for fit in fits]),
            p_harmless=min(float((fit.costs[j] <= tolerance).mean()) for fit in fits),
        )
        for j, axis in enumerate(axes)
    )


def _unknown(axis: Axis, trials: tuple[int, int], reason: str) -> Region:
    nothing = np.empty(0)
    none = (None, None, None, False, False, ())
    return Region(
        axis,
        nothing,
        nothing,
        nothing,
        nothing,
        nothing,
        *none,
        float("nan"),
        trials[0],
        reason,
        trials[1],
    )


def _region(
    axis: Axis, regrets: Sequence[Array], tolerance: float, trials: tuple[int, int]
) -> Region:
    """The good region of an axis from draws of its regret, one array per group."""
    grid = profile_grid(axis)
    p_good = np.min([(regret <= tolerance).mean(0) for regret in regrets], axis=0)
    excluded = p_good <= EXCLUDED / len(regrets)
    low, profile, high = np.max(
        [np.quantile(r, [INTERVAL[0], 0.5, INTERVAL[1]], axis=0) for r in regrets], axis=0
    )
    best = int(np.lexsort((np.max([regret.mean(0) for regret in regrets], axis=0), -p_good))[0])
    categorical = axis.scale == "categorical"
    natural = grid if categorical else np.clip(axis.from_unit(grid), axis.low, axis.high)

    def region(
        core: tuple[int, int] | None, edges: tuple[Array | None, Array | None], reason: str | None
    ) -> Region:
        shown = [None if e is None else (float(e[0]), float(e[1])) for e in edges]
        return Region(
            axis,
            natural,
            profile,
            low,
            high,
            p_good,
            None if core is None else _core(axis, grid, p_good, core),
            shown[0],
            shown[1],
            core is not None and edges[0] is None,
            core is not None and edges[1] is None,
            tuple((float(natural[a]), float(natural[b])) for a, b in _runs(excluded, categorical)),
            float(natural[best]),
            trials[0],
            reason,
            trials[1],
        )

    if categorical:
        return region(None, (None, None), "categorical: choices, not a range")
    core = next((run for run in _runs(p_good >= CORE) if run[0] <= best <= run[1]), None)
    if core is None:
        return region(None, (None, None), f"no value is good with probability {CORE}")
    edges: list[Array | None] = []
    for side in (-1, 1):
        beyond = excluded[: core[0]] if side < 0 else excluded[core[1] + 1 :]
        ends = (
            [_ends(grid, regret, tolerance, best, side) for regret in regrets]
            if beyond.any()
            else []
        )
        edges.append(axis.from_unit(_nearest(ends, side)) if ends else None)
    return region(core, (edges[0], edges[1]), None)


def _core(axis: Axis, grid: Array, p_good: Array, run: tuple[int, int]) -> tuple[float, float]:
    """The run's ends, where p_good falls to 0.9 between two grid values.

    So a run of one grid value is an interval.
    """

    def end(inside: int, outside: int) -> float:
        if not 0 <= outside < len(grid):
            return float(grid[inside])
        along = (p_good[inside] - CORE) / (p_good[inside] - p_good[outside])
        return float(grid[inside] + along * (grid[outside] - grid[inside]))

    low, high = axis.from_unit([end(run[0], run[0] - 1), end(run[1], run[1] + 1)])
    return float(np.clip(low, axis.low, axis.high)), float(np.clip(high, axis.low, axis.high))


def _runs(yes: NDArray[np.bool_], single: bool = False) -> list[tuple[int, int]]:
    """First and last index of each run of True; with `single`, each True alone."""
    if single:
        return [(int(i), int(i)) for i in np.flatnonzero(yes)]
    steps = np.diff(np.concatenate([[0], yes.astype(int), [0]]))
    return [
        (int(a), int(b) - 1)
        for a, b in zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True)
    ]


def _ends(grid: Array, regret: Array, tolerance: float, start: int, side: int) -> Array:
    """Where each draw's good run around `start` ends on one side.

    Unit coordinates, interpolated between grid values.

    Draws in which `start` is not good have no such run and are left out (at most a tenth of them).
    """
    walk = np.arange(start, -1, -1) if side < 0 else np.arange(start, len(grid))
    path, values = regret[:, walk], grid[walk]
    ends = []
    for row in path[path[:, 0] <= tolerance]:
        outside = np.flatnonzero(row > tolerance)
        if not len(outside):
            ends.append(values[-1])
            continue
        k = outside[0]
        along = (tolerance - row[k - 1]) / (row[k] - row[k - 1])
        ends.append(values[k - 1] + along * (values[k] - values[k - 1]))
    return np.array(ends)


def _nearest(ends: Sequence[Array], side: int) -> Array:
    """90 % interval of the nearest of the groups' ends, from draws of each [G arrays].

    The nearest is no nearer than the near limit of the one group it belongs to, whichever that is;
    but it is no farther than the end of any group, so that the far limit of the apparently nearest
    has to allow for the choice (Bonferroni).
    """
    near = max(float(np.quantile(-side * e, EDGE[1])) for e in ends)
    nearest = max(ends, key=lambda e: float(np.median(-side * e)))
    far = float(np.quantile(-side * nearest, EDGE[0] / len(ends)))
    return np.sort(-side * np.array([near, far]))

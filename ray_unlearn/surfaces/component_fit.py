"""The Gaussian processes of what a score is made of, fitted to all evaluations of all trials.

A change y enters as asinh(y / 0.05 nats): linear where it is small, logarithmic where a model falls
apart. The rows of one trial share what its seed did. Where trials of several groups (domains,
models) are fitted together, the group is one more input with a length scale of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, lapack

from ray_unlearn.surfaces.axes import Axis
from ray_unlearn.surfaces.embedding import axis_of_columns, embedded, of_group
from ray_unlearn.surfaces.group_points import GroupPoints
from ray_unlearn.surfaces.growth import Growth, fit_growth
from ray_unlearn.surfaces.kernel_posterior import CHANGE, KernelSetting
from ray_unlearn.surfaces.kernel_settings import kernel_settings
from ray_unlearn.surfaces.searched_points import spread_points
from ray_unlearn.surfaces.trajectories import MOST_CHANGE, RUINED, thinned_rows

Array = NDArray[np.float64]

MOST_TRIALS, MOST_ROWS, MOST_ROWS_OF_GROUPS = 60, 160, 320
"""Trials and rows that the fit to one group rests on, and rows of several groups together."""
SETTINGS = 4
UNIT = 0.05
"""Nats/token below which a change enters linearly."""
ANCHORS, ANCHORS_OF_GROUPS = 16, 4
"""Points of a group, alone or among others, at which nothing was done: the change is 0 there."""
BELOW = 1.0
"""Decades below the least sum of learning rates of the space where that is so."""
FEW_TRIALS = 8
"""Of n trials, variances are known too badly by a factor of 1 + 8 / n, and of fewer than 8 by
1 + (8 / n)^2; measured on planted curves (`benchmarks/component_surfaces.py`, `claim_rates.py`)."""


@dataclass(frozen=True)
class Component:
    """The surface of one change about its power law, and settings.

    growth: the power law.
    targets: observations [r] transformed, less the power law, standardised.
    trials: code [r] of each observation's trial; a ruined model's row has one of its own, since how
        it fell apart says nothing of the rows before.
    stretch: factor >= 1 of all standard deviations, by which left-out trials missed more than the
        settings say, times `few`.
    few: factor >= 1 for what so few trials do not tell, of what a seed does too.
    """

    growth: Growth
    targets: Array
    trials: NDArray[np.int_]
    centre: float
    scale: float
    settings: tuple[KernelSetting, ...]
    stretch: float
    few: float

    def without(self, kept: NDArray[np.bool_], inputs: Array) -> "Component":
        """The component with the kept observations alone, at inputs [kept, k]."""
        trials, targets = self.trials[kept], self.targets[kept]
        shared = np.equal.outer(trials, trials)
        settings = []
        for one in self.settings:
            noises = one.noises[kept]
            covariance = one.covariances(inputs, inputs) + one.trial * shared + np.diag(noises)
            cholesky = lapack.dpotrf(covariance, lower=1)[0]
            weights = cho_solve((cholesky, True), targets)
            settings.append(replace(one, noises=noises, cholesky=cholesky, weights=weights))
        return replace(self, targets=targets, trials=trials, settings=tuple(settings))

    def about(self, at: Array, values: Array) -> Array:
        """Transformed changes from standardised ones [..., n] at inputs [..., k]."""
        middle = self.centre + self.growth.at(at)
        return self.scale * values + middle.reshape(
            *middle.shape, *[1] * (values.ndim - middle.ndim)
        )

    def trial_sd(self, i: int) -> float:
        """SD of what the rows of a trial share under setting i, transformed."""
        return self.few * self.scale * float(np.sqrt(self.settings[i].trial))


@dataclass(frozen=True)
class ComponentFit:
    """What the surfaces of all groups that were fitted together share.

    effort: its least and greatest value in the space, log10.
    inputs: of the evaluations [r, k] that the fit rests on.
    numbers: index [r] of each evaluation's trial among the points of its group; -1 where nothing
        was done.
    groups: code [r] of each evaluation's group.
    components: the three changes.
    """

    effort: tuple[float, float]
    inputs: Array
    numbers: NDArray[np.int_]
    groups: NDArray[np.int_]
    components: tuple[Component, ...]

    def inputs_at(self, points: Array, efforts: Array, axes: tuple[Axis, ...], group: int) -> Array:
        """Inputs [m, t, k] of points [m, d] of a group after efforts [m, t]."""
        return _inputs(points, efforts, axes, self.effort, (group, int(self.groups.max()) + 1))

    def without(self, left: NDArray[np.int_], group: int) -> "ComponentFit":
        """The fit without the evaluations of some of a group's trials, settings as they are.

        These rest on hundreds of rows, which a fifth of the trials hardly moves.
        """
        kept = ~(np.isin(self.numbers, left) & (self.groups == group))
        return replace(
            self,
            inputs=self.inputs[kept],
            numbers=self.numbers[kept],
            groups=self.groups[kept],
            components=tuple(one.without(kept, self.inputs[kept]) for one in self.components),
        )


def fit_components(parts: Sequence[GroupPoints], axes: tuple[Axis, ...], seed: int) -> ComponentFit:
    """Fit the three changes to the trials of one method in all groups given.

    Args:
        parts: one per group, with their evaluations; infeasible trials are ruined one evaluation
            after their last one.
        axes: in the order of the coordinates.
        seed: of thinning and of the kernel settings.
    """
    curves = [part.trajectories for part in parts if part.trajectories is not None]
    assert len(curves) == len(parts)
    ends = np.array([own.range_of_effort(axes) for own in curves])
    space = float(ends[:, 0].min()), float(ends[:, 1].max())
    count = len(parts)
    found = [_evaluations(part, axes, space[0], count, seed + i) for i, part in enumerate(parts)]
    inputs = np.concatenate(
        [
            _inputs(own.points, own.effort[:, None], axes, space, (i, count))[:, 0]
            for i, own in enumerate(found)
        ]
    )
    numbers = np.concatenate([own.trial for own in found])
    groups = np.repeat(np.arange(count), [len(own.trial) for own in found])
    lengths = axis_of_columns((*choices_of(_free(axes)), 0), count if count > 1 else 0)
    components = tuple(
        _fit_one(
            *(inputs, change, lengths, numbers, groups, space[1] - space[0]),
            np.random.default_rng([seed, 5, k]),
        )
        for k, change in enumerate(np.concatenate([own.changes for own in found]).T)
    )
    return ComponentFit(space, inputs, numbers, groups, components)


@dataclass(frozen=True)
class _Evaluations:
    """Those of one group: trial [r] (-1: nothing done), point [r, d], effort, changes [r, 3]."""

    trial: NDArray[np.int_]
    points: Array
    effort: Array
    changes: Array


def _evaluations(
    part: GroupPoints, axes: tuple[Axis, ...], least: float, groups: int, seed: int
) -> _Evaluations:
    """Those of a group's trials, thinned where there are many, and anchors below the least effort.

    Of groups that are fitted together no trial is left out.
    """
    rng = np.random.default_rng([seed, 4])
    trial, effort, changes = _with_ruins(part, axes)
    if groups == 1 and len(part.points) > MOST_TRIALS:
        some = np.isin(trial, rng.permutation(len(part.points))[:MOST_TRIALS])
        trial, effort, changes = trial[some], effort[some], changes[some]
    order = np.lexsort((effort, *part.points[trial].T))
    trial, effort, changes = trial[order], effort[order], changes[order]
    ruined = np.asarray(~np.isfinite(changes).all(1) | (np.abs(changes) >= RUINED).any(1))
    most = MOST_ROWS if groups == 1 else MOST_ROWS_OF_GROUPS // groups
    kept = thinned_rows(trial, ruined, most)
    anchors = spread_points(axes, ANCHORS if groups == 1 else ANCHORS_OF_GROUPS, seed)
    still = len(anchors)
    return _Evaluations(
        np.concatenate([trial[kept], np.full(still, -1)]),
        np.concatenate([part.points[trial[kept]], anchors]),
        np.concatenate([effort[kept], np.full(still, least - BELOW)]),
        np.concatenate([changes[kept], np.zeros((still, 3))]),
    )


def _fit_one(
    inputs: Array,
    change: Array,
    lengths: NDArray[np.int_],
    numbers: NDArray[np.int_],
    groups: NDArray[np.int_],
    decades: float,
    rng: np.random.Generator,
) -> Component:
    ruined = ~(np.abs(change) < RUINED)
    single = ruined | (numbers < 0)
    trials = groups * (numbers.max() + 1) + numbers
    trials = np.where(single, trials.max() + 1 + np.arange(len(trials)), trials)
    values = np.arcsinh(_clipped(change) / UNIT)
    columns = int(groups.max()) + 1 if groups.any() else 0
    effort = inputs.shape[1] - columns - 1
    growth = fit_growth(inputs[~ruined], values[~ruined], effort, decades)
    scale = float(values.std()) or 1.0
    values = values - growth.at(inputs)
    centre = float(values.mean())
    targets = (values - centre) / scale
    settings = kernel_settings(
        *(inputs, targets, ruined, lengths, rng, SETTINGS, CHANGE, trials), groups=columns
    )
    missed = float(np.mean([_missed(one, targets, trials, ~single) for one in settings]))
    alive = len(np.unique(trials[~single]))
    lacking = FEW_TRIALS / max(1, alive)
    few = float(np.sqrt(1 + max(lacking, lacking**2)))
    stretch = float(np.sqrt(max(1.0, missed))) * few
    return Component(growth, targets, trials, centre, scale, settings, stretch, few)


def _missed(
    setting: KernelSetting, targets: Array, trials: NDArray[np.int_], counted: NDArray[np.bool_]
) -> float:
    """Mean squared error of each trial predicted from all others, in units of its variance.

    In closed form (Rasmussen & Williams 2006, 5.4.2, for blocks): with P the precision of all
    observations, the residual of block i is P_ii^-1 (P y)_i and its covariance P_ii^-1.
    """
    precision = cho_solve((setting.cholesky, True), np.eye(len(targets)))
    squares = []
    for number in np.unique(trials[counted]):
        own = np.flatnonzero((trials == number) & counted)
        covariance = np.linalg.inv(precision[np.ix_(own, own)])
        residual = covariance @ setting.weights[own]
        # Of the trial as a whole: its rows move together.
        squares.append(residual.mean() ** 2 / covariance.mean())
    return float(np.mean(squares)) if squares else 1.0


def _with_ruins(part: GroupPoints, axes: tuple[Axis, ...]) -> tuple[NDArray[np.int_], Array, Array]:
    """Trial [r], effort [r] and changes [r, 3], with what diverged trials did not live to show."""
    trajectories = part.trajectories
    assert trajectories is not None
    bad = np.flatnonzero(part.infeasible)
    efforts = trajectories.efforts(part.points[bad], axes)
    trial, effort, changes = trajectories.trial, trajectories.effort, trajectories.changes
    ends, places = [], []
    for number, planned in zip(bad, efforts, strict=True):
        own = trial == number
        if own.any() and not np.isfinite(changes[own]).all():
            continue
        last = effort[own].max(initial=-np.inf)
        later = planned[planned > last + 1e-9]
        ends.append(later.min() if len(later) else planned.max())
        places.append(number)
    return (
        np.concatenate([trial, np.array(places, dtype=int)]),
        np.concatenate([effort, np.array(ends, dtype=float)]),
        np.concatenate([changes, np.full((len(places), 3), np.nan)]),
    )


def _clipped(change: Array) -> Array:
    finite = np.where(np.isnan(change), np.inf, change)
    return np.clip(finite, -MOST_CHANGE, MOST_CHANGE)


def _free(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """Axes that are inputs: effort stands for steps, and for their product with the rate."""
    return tuple(axis for axis in axes if not axis.factors and axis.name != "steps")


def choices_of(axes: Sequence[Axis]) -> tuple[int, ...]:
    """Choices of each axis that holds codes, 0 for a numeric axis."""
    return tuple(len(axis.choices) if axis.scale == "categorical" else 0 for axis in axes)


def _inputs(
    points: Array,
    efforts: Array,
    axes: tuple[Axis, ...],
    space: tuple[float, float],
    group: tuple[int, int],
) -> Array:
    """Inputs [m, t, k]: the free axes, embedded, effort in units of the space's range, group.

    group: code, and how many there are; a single one is no input.
    """
    free = _free(axes)
    m, t = efforts.shape
    fixed = embedded(points[:, [axes.index(axis) for axis in free]], choices_of(free))
    place = (efforts - space[0]) / max(space[1] - space[0], 0.1)
    own = of_group(np.empty((m, 0)), (), *group)
    return np.concatenate(
        [np.repeat(fixed[:, None], t, 1), place[:, :, None], np.repeat(own[:, None], t, 1)], axis=2
    )

"""A score from smooth surfaces of what it is made of, fitted to all evaluations of all trials.

A score is an absolute value of the forget gap, plus rises of the NLL of other text, at one update
of a trial that has ten. Each of these changes is smooth in the hyperparameters and in the sum of
learning rates, and every evaluation tells about it. So each has a Gaussian process of its own, and
the score is computed from their joint draws; the absolute value and the choice of the update come
last.

A change y enters as asinh(y / 0.05 nats): linear where it is small, logarithmic where a model falls
apart. The rows of one trial share what its seed did.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, lapack

from ray_unlearn.analysis.axes import Axis
from ray_unlearn.analysis.statistics.growth import Growth, fit_growth
from ray_unlearn.analysis.statistics.kernel_posterior import (
    CHANGE,
    KernelSetting,
    blocks_of,
)
from ray_unlearn.analysis.statistics.kernel_settings import kernel_settings
from ray_unlearn.analysis.statistics.response_surface import (
    embedded,
    posterior_paths,
)
from ray_unlearn.analysis.statistics.searched_points import spread_points
from ray_unlearn.analysis.statistics.trajectories import (
    COMPONENTS,
    MOST_CHANGE,
    RUINED,
    ScoreOfChanges,
    Trajectories,
    thinned_rows,
)

Array = NDArray[np.float64]

MOST_ROWS = 160
MOST_TRIALS = 60
SETTINGS = 4
UNIT = 0.05
"""Nats/token below which a change enters linearly."""
ANCHORS = 16
"""Points at which nothing was done: the change is known to be 0 there."""
BELOW = 1.0
"""Decades below the least sum of learning rates of the space where that is so."""
POINTS = 64
"""Points whose draws are made at a time, so that they stay in the processor's cache."""
LARGEST = 30.0
"""Transformed; beyond any change that is told apart."""
NEAR = 1
"""Updates on either side of the one that the means choose among which a draw may choose."""
MEAN_DRAWS = 64
FEW_TRIALS = 8
"""Of n trials, variances are known too badly by a factor of 1 + 8 / n, and of fewer than 8 by
1 + (8 / n)^2; measured on planted curves (`benchmarks/component_surfaces.py`, `claim_rates.py`)."""
INNER, OUTER = 0.3247, 1.2711
"""Mean of each quarter of a standard normal distribution, but for the sign."""
LEVELS = ((-OUTER, -INNER, INNER, OUTER), (-1.0, 1.0), (-1.0, 1.0))
"""What a seed may do to the three components, in standard deviations. The forget gap has a kink
where it is least: by means of quarters the expectation of an absolute value is exact there, by one
standard deviation up and down it is a quarter too large, and edges lie too far in."""
RUNS = {
    (1.0, 1.0): (-OUTER, OUTER),
    (-1.0, -1.0): (-OUTER, OUTER),
    (1.0, -1.0): (-INNER, INNER),
    (-1.0, 1.0): (-INNER, INNER),
}
"""Levels of retain and general, and those of forget that meet them: no two are correlated."""


@dataclass(frozen=True)
class _Component:
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

    def without(self, kept: NDArray[np.bool_], inputs: Array) -> "_Component":
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
class ComponentSurface:
    """The fitted surfaces of one method in one group, as a surface of the score.

    axes: in the order of the coordinates of points.
    inputs: of the evaluations [r, k] that the fits rest on.
    numbers: index [r] of each evaluation's trial among the points; greater where nothing was done.
    n_used: trials that the fits rest on.
    """

    axes: tuple[Axis, ...]
    trajectories: Trajectories
    inputs: Array
    numbers: NDArray[np.int_]
    components: tuple[_Component, ...]
    n_used: int

    @property
    def categorical(self) -> tuple[int, ...]:
        """Choices of each axis that holds codes, 0 for a numeric axis."""
        return _choices(self.axes)

    def mean(self, points: Array) -> Array:
        """Expected score [m] at points [m, d], without the luck of a seed."""
        return np.asarray(self.draws(points, 0, MEAN_DRAWS).mean(0))

    def rough_mean(self, points: Array) -> Array:
        """The score [m] of the expected changes, under one setting of each kernel."""
        return self._score.deployed(self._expected(self._inputs(points)))

    def draws(self, points: Array, seed: int, count: int) -> Array:
        """Joint posterior draws [count, m] of the expected score at points [m, d].

        Expected over seeds: a seed moves a trial's curves, and the choice of the update follows.
        """
        drawers = [self._curves(k, seed, count) for k in range(len(COMPONENTS))]
        scores = np.zeros((len(points), count))
        for block in blocks_of(len(points), POINTS):
            at = self._near_the_choice(points[block])
            forget, retain, general = (
                _moved(curves(at), sd, levels)
                for (curves, sd), levels in zip(drawers, LEVELS, strict=True)
            )
            gaps = {level: self._score.gaps(change) for level, change in forget.items()}
            for signs, levels in RUNS.items():
                losses = self._score.losses(retain[signs[0]], general[signs[1]])
                for level in levels:
                    scores[block] += self._score.deployed_of(gaps[level], losses, axis=1)
        return np.asarray(scores.T / sum(map(len, RUNS.values())))

    def predicted(self, points: Array, seed: int, count: int) -> Array:
        """Draws [count, m] of the score that a new trial at each point would be given."""
        at = self._near_the_choice(points)
        rng = np.random.default_rng([seed, 9])
        changes = []
        for k, component in enumerate(self.components):
            drawn, sd = self._curves(k, seed, count)
            curves = drawn(at)
            noise = component.scale * np.sqrt(np.mean([s.noise for s in component.settings]))
            noise *= component.stretch
            shared = (
                component.stretch
                / component.few
                * sd
                * rng.standard_normal((len(points), 1, count))
            )
            changes.append(_changes(curves + shared + noise * rng.standard_normal(curves.shape)))
        return self._score.deployed(np.stack(changes), axis=1).T

    def without(self, left: NDArray[np.int_]) -> "ComponentSurface":
        """The surface without the evaluations of some trials, under the same settings.

        Settings rest on hundreds of rows, which a fifth of the trials hardly moves.
        """
        kept = ~np.isin(self.numbers, left)
        components = tuple(one.without(kept, self.inputs[kept]) for one in self.components)
        return replace(
            self, inputs=self.inputs[kept], numbers=self.numbers[kept], components=components
        )

    @property
    def _score(self) -> ScoreOfChanges:
        return self.trajectories.score

    def _inputs(self, points: Array) -> Array:
        """Inputs [m, t, k] of the curves at points [m, d], after each update."""
        efforts = self.trajectories.efforts(points, self.axes)
        low, high = self.trajectories.range_of_effort(self.axes)
        return _inputs(points, efforts, self.axes, low, high)

    def _expected(self, at: Array) -> Array:
        """Expected changes [3, m, t] at inputs [m, t, k], under one setting of each kernel."""
        m, t, k = at.shape
        changes = []
        for component in self.components:
            expected = component.settings[0].expected(at.reshape(-1, k), self.inputs)
            curve = component.about(at.reshape(-1, k), expected)
            changes.append(_changes(curve).reshape(m, t))
        return np.stack(changes)

    def _near_the_choice(self, points: Array) -> Array:
        """Inputs [m, t', k] of the updates that may be chosen at each point.

        Those beside the one that the expected changes choose: a draw's choice is among them, and
        the rest would cost most of the time.
        """
        at = self._inputs(points)
        t = at.shape[1]
        if t <= 2 * NEAR + 1:
            return at
        scores = self._score.of(self._expected(at), self._score.chosen_by)
        middle = np.clip(scores.argmin(1), NEAR, t - 1 - NEAR)
        near = middle[:, None] + np.arange(-NEAR, NEAR + 1)
        return np.take_along_axis(at, near[:, :, None], axis=1)

    def _curves(self, k: int, seed: int, count: int) -> tuple[Callable[[Array], Array], Array]:
        """Draws of a transformed change, and the SD [count] that a seed adds to each.

        The draws are a function: of inputs [m, t, k] their values [m, t, count] there.
        """
        component = self.components[k]
        parts_of = np.array_split(np.arange(count), len(component.settings))
        # Which settings of the three components meet in a draw is left to chance.
        places = np.argsort(np.random.default_rng([seed, k]).permutation(count))
        deviations = np.empty(count)
        parts = []
        for i, (setting, part) in enumerate(zip(component.settings, parts_of, strict=True)):
            rng = np.random.default_rng([seed, k, i])
            paths = posterior_paths(
                setting,
                self.inputs,
                component.targets,
                rng,
                len(part),
                component.trials,
                component.stretch,
            )
            parts.append((places[part], paths))
            deviations[places[part]] = component.trial_sd(i)

        def drawn(at: Array) -> Array:
            m, t, width = at.shape
            values = np.empty((m * t, count))
            for place, paths in parts:
                values[:, place] = paths(at.reshape(-1, width))
            return component.about(at, values.reshape(m, t, count))

        return drawn, deviations


def fit_component_surface(
    points: Array,
    infeasible: NDArray[np.bool_],
    trajectories: Trajectories,
    axes: Sequence[Axis],
    seed: int,
) -> ComponentSurface:
    """Fit the surfaces of the three changes.

    Args:
        points: coordinates [n, d] of the trials, finite.
        infeasible: [n]; such trials are ruined one evaluation after their last one.
        trajectories: evaluations of these trials.
        axes: in the order of the coordinates.
        seed: of thinning and of the kernel settings.
    """
    axes = tuple(axes)
    low, high = trajectories.range_of_effort(axes)
    trial, effort, changes = _with_ruins(points, infeasible, trajectories, axes)
    rng = np.random.default_rng([seed, 4])
    if len(points) > MOST_TRIALS:
        some = np.isin(trial, rng.permutation(len(points))[:MOST_TRIALS])
        trial, effort, changes = trial[some], effort[some], changes[some]
    order = np.lexsort((effort, *points[trial].T))
    trial, effort, changes = trial[order], effort[order], changes[order]
    ruined = ~np.isfinite(changes).all(1) | (np.abs(changes) >= RUINED).any(1)
    kept = thinned_rows(trial, np.asarray(ruined), MOST_ROWS)
    trial, effort, changes = trial[kept], effort[kept], changes[kept]

    anchors = spread_points(axes, ANCHORS, seed)
    numbers = np.concatenate([trial, len(points) + np.arange(ANCHORS)])
    everywhere = np.concatenate([points[trial], anchors])
    efforts = np.concatenate([effort, np.full(ANCHORS, low - BELOW)])
    inputs = _inputs(everywhere, efforts[:, None], axes, low, high)[:, 0]
    lengths = np.concatenate(
        [np.full(max(k, 1), i) for i, k in enumerate((*_choices(_free(axes)), 0))]
    )
    return ComponentSurface(
        axes,
        trajectories,
        inputs,
        numbers,
        tuple(
            _fit_one(
                inputs,
                np.concatenate([change, np.zeros(ANCHORS)]),
                lengths,
                numbers,
                high - low,
                np.random.default_rng([seed, 5, k]),
            )
            for k, change in enumerate(changes.T)
        ),
        len(np.unique(trial)),
    )


def _fit_one(
    inputs: Array,
    change: Array,
    lengths: NDArray[np.int_],
    trials: NDArray[np.int_],
    decades: float,
    rng: np.random.Generator,
) -> _Component:
    ruined = ~(np.abs(change) < RUINED)
    trials = np.where(ruined, trials.max() + 1 + np.arange(len(trials)), trials)
    values = np.arcsinh(_clipped(change) / UNIT)
    growth = fit_growth(inputs[~ruined], values[~ruined], decades)
    scale = float(values.std()) or 1.0
    values = values - growth.at(inputs)
    centre = float(values.mean())
    targets = (values - centre) / scale
    settings = kernel_settings(inputs, targets, ruined, lengths, rng, SETTINGS, CHANGE, trials)
    missed = float(np.mean([_missed(one, targets, trials, ruined) for one in settings]))
    alive = len(np.unique(trials[~ruined])) - ANCHORS
    lacking = FEW_TRIALS / max(1, alive)
    few = float(np.sqrt(1 + max(lacking, lacking**2)))
    stretch = float(np.sqrt(max(1.0, missed))) * few
    return _Component(growth, targets, trials, centre, scale, settings, stretch, few)


def _missed(
    setting: KernelSetting, targets: Array, trials: NDArray[np.int_], ruined: NDArray[np.bool_]
) -> float:
    """Mean squared error of each trial predicted from all others, in units of its variance.

    In closed form (Rasmussen & Williams 2006, 5.4.2, for blocks): with P the precision of all
    observations, the residual of block i is P_ii^-1 (P y)_i and its covariance P_ii^-1.
    """
    precision = cho_solve((setting.cholesky, True), np.eye(len(targets)))
    squares = []
    for number in np.unique(trials[:-ANCHORS][~ruined[:-ANCHORS]]):
        own = np.flatnonzero((trials == number) & ~ruined)
        covariance = np.linalg.inv(precision[np.ix_(own, own)])
        residual = covariance @ setting.weights[own]
        # Of the trial as a whole: its rows move together.
        squares.append(residual.mean() ** 2 / covariance.mean())
    return float(np.mean(squares)) if squares else 1.0


def _with_ruins(
    points: Array,
    infeasible: NDArray[np.bool_],
    trajectories: Trajectories,
    axes: tuple[Axis, ...],
) -> tuple[NDArray[np.int_], Array, Array]:
    """Trial [r], effort [r] and changes [r, 3], with what diverged trials did not live to show."""
    bad = np.flatnonzero(infeasible)
    efforts = trajectories.efforts(points[bad], axes)
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


def _changes(transformed: Array) -> Array:
    limit = np.arcsinh(MOST_CHANGE / UNIT)
    return np.asarray(UNIT * np.sinh(np.clip(transformed, -limit, limit)))


def _moved(curves: Array, sd: Array, levels: Sequence[float]) -> dict[float, Array]:
    """Changes [m, t, count] where a seed moves the transformed curves by each level, in SD [count].

    sinh(c + s) from one exponential of c, which is most of the price.
    """
    grown = np.exp(np.clip(curves, -LARGEST, LARGEST))
    shrunk = 1 / grown
    found = {}
    for level in levels:
        by = np.exp(level * sd)
        change = UNIT / 2 * (by * grown - shrunk / by)
        found[level] = np.clip(change, -MOST_CHANGE, MOST_CHANGE)
    return found


def _free(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """Axes that are inputs: effort stands for steps, and for their product with the rate."""
    return tuple(axis for axis in axes if not axis.factors and axis.name != "steps")


def _choices(axes: Sequence[Axis]) -> tuple[int, ...]:
    return tuple(len(axis.choices) if axis.scale == "categorical" else 0 for axis in axes)


def _inputs(
    points: Array, efforts: Array, axes: tuple[Axis, ...], low: float, high: float
) -> Array:
    """Inputs [m, t, k]: the free axes, embedded, then effort in units of the space's range."""
    free = _free(axes)
    own = points[:, [axes.index(axis) for axis in free]]
    fixed = embedded(own, _choices(free)) if free else np.empty((len(points), 0))
    place = (efforts - low) / max(high - low, 0.1)
    t = efforts.shape[1]
    return np.concatenate([np.repeat(fixed[:, None], t, axis=1), place[:, :, None]], axis=2)

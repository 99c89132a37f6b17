"""A score from smooth surfaces of what it is made of, fitted to all evaluations of all trials.

A score is an absolute value of the forget gap, plus rises of the NLL of other text, at one update
of a trial that has ten. Each of these changes is smooth in the hyperparameters and in the sum of
learning rates, and every evaluation tells about it. So each has a Gaussian process of its own, and
the score is computed from their joint draws; the absolute value and the choice of the update come
last (the fit is in `component_fit`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.surfaces.axes import Axis
from ray_unlearn.surfaces.component_fit import (
    UNIT,
    ComponentFit,
    choices_of,
    fit_components,
)
from ray_unlearn.surfaces.group_points import GroupPoints
from ray_unlearn.surfaces.kernel_posterior import blocks_of
from ray_unlearn.surfaces.posterior_paths import posterior_paths
from ray_unlearn.surfaces.trajectories import (
    COMPONENTS,
    MOST_CHANGE,
    ScoreOfChanges,
    Trajectories,
)

Array = NDArray[np.float64]

POINTS = 64
"""Points whose draws are made at a time, so that they stay in the processor's cache."""
LARGEST = 30.0
"""Transformed; beyond any change that is told apart."""
NEAR = 1
"""Updates on either side of the one that the means choose among which a draw may choose."""
MEAN_DRAWS = 64
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
class ComponentSurface:
    """The fitted surfaces of one method in one group, as a surface of the score.

    axes: in the order of the coordinates of points.
    trajectories: of the group.
    fit: of this group, and of those that were fitted with it.
    group: code of the group in the fit.
    """

    axes: tuple[Axis, ...]
    trajectories: Trajectories
    fit: ComponentFit
    group: int

    @property
    def categorical(self) -> tuple[int, ...]:
        """Choices of each axis that holds codes, 0 for a numeric axis."""
        return choices_of(self.axes)

    @property
    def own(self) -> NDArray[np.int_]:
        """Indices among the group's points of the trials that the fits rest on."""
        fit = self.fit
        return np.unique(fit.numbers[(fit.groups == self.group) & (fit.numbers >= 0)])

    @property
    def n_used(self) -> int:
        """Trials of the group that the fits rest on."""
        return len(self.own)

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
        for k, component in enumerate(self.fit.components):
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
        """The surface without the evaluations of some of the group's trials."""
        return replace(self, fit=self.fit.without(left, self.group))

    @property
    def _score(self) -> ScoreOfChanges:
        return self.trajectories.score

    def _inputs(self, points: Array) -> Array:
        """Inputs [m, t, k] of the curves at points [m, d], after each update."""
        efforts = self.trajectories.efforts(points, self.axes)
        return self.fit.inputs_at(points, efforts, self.axes, self.group)

    def _expected(self, at: Array) -> Array:
        """Expected changes [3, m, t] at inputs [m, t, k], under one setting of each kernel."""
        m, t, k = at.shape
        changes = []
        for component in self.fit.components:
            expected = component.settings[0].expected(at.reshape(-1, k), self.fit.inputs)
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
        component = self.fit.components[k]
        parts_of = np.array_split(np.arange(count), len(component.settings))
        # Which settings of the three components meet in a draw is left to chance.
        places = np.argsort(np.random.default_rng([seed, k]).permutation(count))
        deviations = np.empty(count)
        parts = []
        for i, (setting, part) in enumerate(zip(component.settings, parts_of, strict=True)):
            rng = np.random.default_rng([seed, k, i])
            paths = posterior_paths(
                setting,
                self.fit.inputs,
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


def fit_component_surfaces(
    parts: Sequence[GroupPoints], axes: Sequence[Axis], seed: int
) -> tuple[ComponentSurface, ...]:
    """The surfaces of groups that are fitted together, one per group (`fit_components`)."""
    axes = tuple(axes)
    fit = fit_components(parts, axes, seed)
    return tuple(
        ComponentSurface(axes, part.trajectories, fit, i)
        for i, part in enumerate(parts)
        if part.trajectories is not None
    )


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

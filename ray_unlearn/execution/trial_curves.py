"""The trials of a method as what surfaces are fitted to.

A point of the search space is a row of unit coordinates here: a number on its scale, a choice by
its place in the list. Where the condition of a parameter does not hold, its coordinate is the
middle of the range, so that two trials that differ in nothing else are one point.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.execution.drawn_points import Point, active, contains
from ray_unlearn.spec.listed_points import middle_of, sampled_parameters
from ray_unlearn.spec.search_space import Choice, Fixed, IntRange, SearchSpace
from ray_unlearn.spec.strict import digest
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.objective import SELECTION
from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import Row, is_as_trained
from ray_unlearn.store.score import TARGET
from ray_unlearn.surfaces.axes import Axis
from ray_unlearn.surfaces.component_surface import ComponentSurface, fit_component_surfaces
from ray_unlearn.surfaces.group_points import LEAST_WITH_CURVES, GroupPoints
from ray_unlearn.surfaces.processors import one_blas_thread
from ray_unlearn.surfaces.searched_points import settable
from ray_unlearn.surfaces.trajectories import RUINED, ScoreOfChanges, Trajectories
from ray_unlearn.surfaces.trial_forecast import chance_below

Array = NDArray[np.float64]

CHANGED = ("forget_nll", f"retain_nll_{SELECTION}", f"general_nll_{SELECTION}")
"""Columns whose changes the score is made of. A search reads the selection half alone."""
MOST_UPDATES = 12
"""Updates, even on a log scale, at which the surface asks for the score of a point."""
BEST, OTHERS = 40, 20
"""Trials that a fit rests on: the best ones, and others evenly from first to last."""
LEAST_ROWS = 4


class UnitSpace:
    """A search space in unit coordinates."""

    def __init__(self, space: SearchSpace) -> None:
        self._parameters = sampled_parameters(space)
        self._space = space
        self.axes = tuple(
            Axis(name, "categorical", choices=tuple(map(str, range(len(one.choices)))))
            if isinstance(one, Choice)
            else Axis(
                *(name, one.scale, float(one.low), float(one.high)),
                whole=isinstance(one, IntRange),
            )
            for name, one in self._parameters.items()
        )

    def unit(self, point: Point) -> Array:
        """Coordinates [d] of a point."""
        found = []
        for axis in self.axes:
            parameter = self._parameters[axis.name]
            value = point.get(axis.name, middle_of(parameter))
            if isinstance(parameter, Choice):
                found.append(float(parameter.choices.index(value)))
            else:
                found.append(float(axis.to_unit([value])[0]))
        return np.array(found)

    def point(self, unit: Array) -> Point:
        """The point at coordinates [d]."""
        values: Point = {}
        for axis, u in zip(self.axes, unit, strict=True):
            parameter = self._parameters[axis.name]
            if isinstance(parameter, Choice):
                values[axis.name] = parameter.choices[int(u)]
                continue
            value = float(axis.from_unit(u))
            value = round(value) if isinstance(parameter, IntRange) else value
            values[axis.name] = min(max(value, parameter.low), parameter.high)
        return active(self._space, values)

    def settled(self, units: Array) -> Array:
        """Coordinates [m, d] moved to values that can be set, conditions observed."""
        return np.array([self.unit(self.point(unit)) for unit in settable(units, self.axes)])


class MethodSurfaces:
    """The surfaces of a study's methods, each fitted anew once a trial has ended.

    A method's surface covers its whole space, of before guidelines narrowed it.

    Args:
        spec: of the study.
        baselines: as in `Record.baselines`; the vanilla model's must be there before a fit.
    """

    def __init__(self, spec: StudySpec, baselines: Mapping[str, Row]) -> None:
        self._spec = spec
        self._baselines = baselines
        self._seed = int(digest([spec.search.seed, "surface"], length=8), 16)
        self._searched = spec.spaces | (spec.full_spaces or {})
        self.spaces = {method: UnitSpace(space) for method, space in self._searched.items()}
        self._fits: dict[str, tuple[tuple[int, ...], ComponentSurface | None]] = {}

    def of(self, method: str, ended: Sequence[Trial]) -> ComponentSurface | None:
        """The surface of a method.

        Args:
            method: its name.
            ended: its trials with an outcome, by number; broken hardware says nothing.

        Returns:
            None while three trials are not there, or their models have all fallen apart.
        """
        numbers = tuple(trial.number for trial in ended)
        known = self._fits.get(method)
        if known is None or known[0] != numbers:
            self._fits[method] = known = (numbers, self._fitted(method, ended))
        return known[1]

    def curve(self, trial: Trial, rows: Sequence[Row]) -> tuple[Array, Array]:
        """log10 [r] of the sums of learning rates of a trial's rows, and changes [r, 3]."""
        vanilla = self._baselines["vanilla"]
        efforts = [row["learning_rate_sum"] for row in rows]
        changes = [[row[name] - vanilla[name] for name in CHANGED] for row in rows]
        return np.log10(np.array(efforts, dtype=float)), np.array(changes).reshape(-1, 3)

    def unit(self, trial: Trial) -> Array:
        """Coordinates [d] of a trial."""
        space = self._searched[trial.method]
        return self.spaces[trial.method].unit(active(space, trial.config))

    def inside(self, method: str, units: Array) -> NDArray[np.bool_]:
        """Which [m] of the points [m, d] lie in the space that guidelines narrowed a method's to.

        All where none did.
        """
        narrowed, unit = self._spec.spaces[method], self.spaces[method]
        return np.array([contains(narrowed, unit.point(one)) for one in units], dtype=bool)

    @one_blas_thread
    def chance_below(
        self, trial: Trial, rows: Sequence[Row], ended: Sequence[Trial], score: float
    ) -> float | None:
        """The probability that a running trial with free steps still has a row below a score.

        Args:
            trial: the running trial.
            rows: its rows so far, rising.
            ended: as in `of`.
            score: to be beaten.

        Returns:
            None where no surface can tell.
        """
        surface = self.of(trial.method, ended)
        update = rows[-1]["update"]
        later = [u for u in trial.config["evaluate_at"] if update < u <= trial.config["steps"]]
        if surface is None or not later:
            return None
        to_come = np.log10(trial.config["learning_rate"] * np.array(later, dtype=float))
        seen = self.curve(trial, rows)
        return chance_below(surface, self.unit(trial), seen, to_come, score, self._seed)

    def _fitted(self, method: str, ended: Sequence[Trial]) -> ComponentSurface | None:
        space = self._searched[method]
        trials = _chosen([t for t in ended if contains(space, active(space, t.config))])
        curves = [self.curve(trial, _rows(trial)) for trial in trials]
        changes = np.concatenate([np.empty((0, 3)), *(found for _, found in curves)])
        alive = np.isfinite(changes).all(1) & (np.abs(changes) < RUINED).all(1)
        if sum(len(found) > 0 for _, found in curves) < LEAST_WITH_CURVES:
            return None
        if alive.sum() < LEAST_ROWS:
            return None
        trajectories = Trajectories(
            trial=np.repeat(np.arange(len(trials)), [len(found) for _, found in curves]),
            effort=np.concatenate([effort for effort, _ in curves]),
            changes=changes,
            updates=self._updates(method),
            rate=_fixed_rate(space),
            per_step=_per_step(trials),
            score=self._score(),
        )
        part = GroupPoints(
            method,
            np.array([self.unit(trial) for trial in trials]),
            np.array([_lowest(trial) for trial in trials]),
            np.array([trial.status in ("diverged", "out_of_memory") for trial in trials]),
            trajectories,
        )
        (surface,) = fit_component_surfaces([part], self.spaces[method].axes, self._seed)
        return surface

    def _updates(self, method: str) -> Array:
        """Updates [t] at which a trial may be deployed; none where `steps` is searched."""
        space = self._searched[method]
        steps = space.parameters["steps"]
        if isinstance(steps, Fixed):
            return np.array([float(steps.value)])
        if not (isinstance(steps, IntRange) and steps.free):
            return np.empty(0)
        found = np.array(
            [u for u in self._spec.evaluation.updates(steps.high) if u >= space.fewest_steps],
            dtype=float,
        )
        if len(found) <= MOST_UPDATES:
            return found
        even = np.geomspace(found[0], found[-1], MOST_UPDATES)
        return np.unique(found[np.abs(np.log(found[:, None] / even)).argmin(0)])

    def _score(self) -> ScoreOfChanges:
        vanilla, weights = self._baselines["vanilla"], self._spec.objective.weights
        target = float(vanilla[TARGET] - vanilla["forget_nll"])
        return ScoreOfChanges((weights.forget_gap, weights.retain, weights.general), target, target)


def _rows(trial: Trial) -> list[Row]:
    rows = (row for row in trial.rows if is_as_trained(row) and row["learning_rate_sum"] > 0)
    return sorted(rows, key=lambda row: row["update"])


def _lowest(trial: Trial) -> float:
    return min((float(row[f"score_{SELECTION}"]) for row in trial.rows), default=np.inf)


def _chosen(trials: Sequence[Trial]) -> list[Trial]:
    """All trials or, of many, the best ones and some of the others, by number."""
    if len(trials) <= BEST + OTHERS:
        return list(trials)
    order = sorted(range(len(trials)), key=lambda i: (_lowest(trials[i]), i))
    rest = sorted(order[BEST:])
    some = [rest[int(i)] for i in np.linspace(0, len(rest) - 1, OTHERS)]
    return [trials[i] for i in sorted({*order[:BEST], *some})]


def _fixed_rate(space: SearchSpace) -> float:
    """The learning rate where it is not searched."""
    rate = space.parameters["learning_rate"]
    return float(rate.value) if isinstance(rate, Fixed) else 1.0


def _per_step(trials: Sequence[Trial]) -> float:
    """Sum of the learning rates over (learning rate x updates): 1 on a constant one."""
    shares = [
        row["learning_rate_sum"] / (trial.config["learning_rate"] * row["update"])
        for trial in trials
        for row in _rows(trial)
    ]
    return float(np.median(shares))

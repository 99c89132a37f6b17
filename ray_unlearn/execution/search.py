"""The search: a function of the study's spec, a trial number and the trials finished so far.

Each method is searched apart, with as many trials as every other: that keeps the comparison of
methods fair. Trial numbers go round the methods in turn, `spec.methods[number % n]`; a method whose
space or grid has no points left drops out of the rounds. Trial i of a method takes seed
`trial_seeds[i % len(trial_seeds)]`.

The first `quasi_random_share` of each method's trials are quasi-random, for the claims that
adaptive trials would bias (curves, volumes, importance); the rest are the sampler's. Where
guidelines narrowed a method's space, its first trials are the warm start, and of the others an
evenly spread `full_space_share` is drawn quasi-randomly from the full space: without trials outside
it a claim could never be refuted. The sampler does not learn from those outside; `surface` does,
and may leave the narrowed space itself. Nothing is kept but what the ledger keeps: a study rebuilt
by `replay` asks for what the uninterrupted one would have asked.
"""

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Literal

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from ray_unlearn.execution.drawn_points import (
    MOST_POINTS,
    Point,
    active,
    all_points,
    contains,
    quasi_random_point,
    random_point,
)
from ray_unlearn.execution.optuna_trials import as_optuna_trial
from ray_unlearn.execution.samplers import suggest
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.search_space import SearchSpace
from ray_unlearn.spec.strict import digest
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.schema import Row
from ray_unlearn.store.score import ScoreRule

if TYPE_CHECKING:
    from ray_unlearn.execution.surface_sampler import SurfaceSampler
    from ray_unlearn.execution.trial_curves import MethodSurfaces

Source = Literal[
    "quasi_random",
    "random",
    "grid",
    "tpe",
    "nsga2",
    "gp",
    "surface",
    "warm_start",
    "full_space",
    "listed",
]

START_UP = 5
"""An adaptive sampler takes over once this many trials of a method have a score; random points
until then. Of 1, 3, 5 and 10, on planted valleys with and without a divergence cliff, 12 to 40
trials, 24 repeats, 5 was best or near it."""

ATTEMPTS = 5
"""Times an adaptive sampler is asked for a configuration that is new, before a random one is
drawn."""

RANDOM_ATTEMPTS = 100


class Search:
    """The search of a study, which chooses configurations and learns from results.

    There is one per study and process; several threads must not use it at once.
    """

    def __init__(
        self, spec: StudySpec, context: str, baselines: Mapping[str, Row] | None = None
    ) -> None:
        """Search a study.

        Args:
            spec: of the study.
            context: digest of all that decides results beyond the hyperparameters (see
                `TrialConfig`).
            baselines: as in `Record.baselines`, for the score rule; may be filled later.
        """
        self._spec = spec
        self._rule = ScoreRule(spec, {} if baselines is None else baselines)
        self._context = context
        self._full = spec.full_spaces or {}
        self._finite: dict[str, list[Point] | None] = {
            method: self._points(method) for method in spec.methods
        }
        counts = {method: self._trials_of(method) for method in spec.methods}
        self._turns = [
            (m, i) for i in range(max(counts.values())) for m in spec.methods if i < counts[m]
        ]
        self._past: dict[str, dict[int, FrozenTrial]] = {method: {} for method in spec.methods}
        self._known: set[str] = set()
        """`TrialConfig.id` of the trials, whatever ids the ledger gives them."""
        self._sources: dict[int, Source] = {}
        self._surface = self._surface_sampler({} if baselines is None else baselines)

    def _surface_sampler(self, baselines: Mapping[str, Row]) -> "SurfaceSampler | None":
        if self._spec.search.sampler != "surface":
            return None
        from ray_unlearn.execution.surface_sampler import SurfaceSampler  # scipy takes seconds

        return SurfaceSampler(self._spec, baselines)

    @property
    def surfaces(self) -> "MethodSurfaces | None":
        """What the sampler `surface` fits; None for another one."""
        return None if self._surface is None else self._surface.surfaces

    @property
    def total(self) -> int:
        """Trials of the whole study.

        `trials_per_method` for each method, or less where a finite space has fewer points; with the
        grid sampler the whole grid of each method, or with the listed one all its points, once per
        trial seed.
        """
        return len(self._turns)

    def ask(self, number: int) -> TrialConfig | None:
        """The configuration of trial `number`, which is pending from now on.

        None when there is no such trial: `number` is not below `total`, or the method has no
        untried point left. Ask for numbers in rising order, each once; a trial that was interrupted
        keeps the configuration it has.
        """
        if number >= self.total:
            return None
        method, index = self._turns[number]
        assert number not in self._past[method], f"trial {number} was asked for before"
        seeds = self._spec.search.trial_seeds
        for space, point, source in self._candidates(method, index):
            hyperparameters = space.resolve(point)
            config = self._spec.trial_config(
                hyperparameters, method, seeds[index % len(seeds)], self._context
            )
            if config.id not in self._known:
                self.tell(Trial(number, config.id, config.model_dump(mode="json")))
                self._sources[number] = source
                return config
        return None

    def source(self, number: int) -> Source:
        """How this object chose the configuration of a trial, as evidence for the analysis."""
        return self._sources[number]

    def tell(self, trial: Trial) -> None:
        """Take in a trial's outcome, or a trial without outcome as pending.

        A trial outside the space that is searched (drawn from the full space, or of another version
        of the spec) is remembered as tried, and otherwise ignored.
        """
        if trial.method not in self._past:
            return
        self._known.add(TrialConfig.model_validate(trial.config).id)
        space = self._spec.spaces[trial.method]
        point = active(space, trial.config)
        if contains(space, point):
            self._past[trial.method][trial.number] = as_optuna_trial(trial, self._rule, point)
        whole = self._full.get(trial.method, space)
        if self._surface is not None and contains(whole, active(whole, trial.config)):
            self._surface.tell(trial)

    def replay(self, record: Record) -> None:
        """Take in all trials of a ledger, finished and pending."""
        for _, trial in sorted(record.trials.items()):
            self.tell(trial)

    def _points(self, method: str) -> list[Point] | None:
        """All points of a finite space or grid; None if there are too many.

        They are in a random order, so that a part of them is spread out; listed ones are in the
        order of the list.
        """
        if self._spec.search.sampler == "listed":
            return [dict(point) for point in self._spec.search.points[method]]
        grid = self._spec.search.sampler == "grid"
        points = all_points(self._spec.spaces[method], grid)
        if points is None:
            if grid:
                raise UserError(
                    f"spaces.{method}: the grid has more than {MOST_POINTS} points; shorten a "
                    "`grid`"
                )
            return None
        order = np.random.default_rng(self._seed(method, "order")).permutation(len(points))
        return [points[i] for i in order]

    def _trials_of(self, method: str) -> int:
        wanted, points = self._spec.search.trials_per_method, self._finite[method]
        if points is not None and method in self._full:
            outside = all_points(self._full[method])
            points = None if outside is None else self._distinct(method, points, outside)
        if points is None:
            assert wanted is not None
            return wanted
        most = len(points) * len(self._spec.search.trial_seeds)
        return most if wanted is None else min(wanted, most)

    def _distinct(self, method: str, narrowed: list[Point], full: list[Point]) -> list[Point]:
        """The points of both spaces; one that is the same trial in both counts once."""
        resolved = {self._spec.spaces[method].resolve(point): point for point in narrowed}
        return list(
            (resolved | {self._full[method].resolve(point): point for point in full}).values()
        )

    def _candidates(self, method: str, index: int) -> Iterator[tuple[SearchSpace, Point, Source]]:
        """Points for trial `index` of the method, in order of preference.

        The first one that was not tried yet is taken. If one of a method's two spaces has no
        untried point left, its trials come from the other.
        """
        search, space = self._spec.search, self._spec.spaces[method]
        if search.sampler in ("grid", "listed"):
            points = self._finite[method]
            assert points is not None
            yield space, points[index // len(search.trial_seeds)], search.sampler
            return
        warm = search.warm_start.get(method, ())
        full = self._full.get(method)
        if index < len(warm):
            yield space, dict(warm[index]), "warm_start"
        if full is None:
            yield from self._searched(method, index, index - len(warm), len(warm))
            return
        before = search.full_space_trials(method, index)
        outside = self._from_full_space(method, full, index, before)
        inside = self._searched(method, index, index - len(warm) - before, len(warm))
        drawn_outside = search.full_space_trials(method, index + 1) > before
        yield from chain(outside, inside) if drawn_outside else chain(inside, outside)

    def _searched(
        self, method: str, index: int, place: int, warm: int
    ) -> Iterator[tuple[SearchSpace, Point, Source]]:
        """Points of the method's space.

        `place` is the trial's number among those drawn from it, below 0 in the warm start.
        """
        search, space, points = self._spec.search, self._spec.spaces[method], self._finite[method]
        assert search.trials_per_method is not None
        outside = (
            search.full_space_trials(method, search.trials_per_method)
            if method in self._full
            else 0
        )
        quasi_random = round(
            search.quasi_random_share * max(0, search.trials_per_method - warm - outside)
        )
        if place >= 0 and (search.sampler == "qmc" or place < quasi_random):
            yield (
                space,
                quasi_random_point(space, self._seed(method, "sobol"), place),
                "quasi_random",
            )
        elif self._surface is not None:
            yield from self._by_surface(self._surface, method, index, place)
        elif search.sampler in ("tpe", "nsga2", "gp"):
            past = [
                trial
                for _, trial in sorted(self._past[method].items())
                if trial.state != TrialState.FAIL
            ]
            if len(list(islice(filter(_scored, past), START_UP))) == START_UP:
                for attempt in range(ATTEMPTS):
                    yield (
                        space,
                        suggest(self._spec, method, past, self._seed(method, index, attempt)),
                        search.sampler,
                    )
        yield from (
            (space, point, "random") for point in self._random(space, points, method, index)
        )

    def _by_surface(
        self, sampler: "SurfaceSampler", method: str, index: int, place: int
    ) -> Iterator[tuple[SearchSpace, Point, Source]]:
        """The points that promise most; before there is a surface, quasi-random ones."""
        space = self._spec.spaces[method]
        if not space.sampled():
            return
        found = sampler.suggest(method, self._seed(method, index), ATTEMPTS)
        whole = self._full.get(method, space)
        yield from ((whole, point, "surface") for point in found)
        if not found and place >= 0:
            point = quasi_random_point(space, self._seed(method, "sobol"), place)
            yield space, point, "quasi_random"

    def _from_full_space(
        self, method: str, full: SearchSpace, index: int, place: int
    ) -> Iterator[tuple[SearchSpace, Point, Source]]:
        """Points of the space before it was narrowed.

        `place` is the trial's number among those drawn from it.
        """
        yield (
            full,
            quasi_random_point(full, self._seed(method, "sobol", "full"), place),
            "full_space",
        )
        points = self._random(full, all_points(full), method, index)
        yield from ((full, point, "full_space") for point in points)

    def _random(
        self, space: SearchSpace, points: list[Point] | None, method: str, index: int
    ) -> Iterator[Point]:
        """Every point of a finite space in a random order, or random points of another."""
        if points is not None:
            order = np.random.default_rng(self._seed(method, index, "rest")).permutation(
                len(points)
            )
            yield from (points[i] for i in order)
            return
        for attempt in range(RANDOM_ATTEMPTS):
            yield random_point(space, self._seed(method, index, "random", attempt))

    def _seed(self, *what: str | int) -> int:
        return int(digest([self._spec.search.seed, *what], length=8), 16)


def _scored(trial: FrozenTrial) -> bool:
    """True when the trial says how good its configuration is, not only that it is bad."""
    return bool(
        trial.state == TrialState.COMPLETE
        or (trial.state == TrialState.PRUNED and trial.intermediate_values)
    )

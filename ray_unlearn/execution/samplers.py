"""Optuna's samplers as functions of past trials and a seed.

Optuna's samplers have state in the study (counters, generations, cached parents) and in themselves
(search spaces, random generators); a study that is killed and resumed loses some of it and repeats
some. Here every suggestion builds a study over a list of past trials and a sampler with its own
seed, and drops both.
"""

import copy
import heapq
import warnings
from collections.abc import Container, Sequence
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from ray_unlearn.execution.drawn_points import Point, Sampled, applies
from ray_unlearn.execution.optuna_trials import FAR_OUTSIDE, directions
from ray_unlearn.spec.listed_points import sampled_parameters
from ray_unlearn.spec.search_space import Choice, FloatRange, IntRange
from ray_unlearn.spec.study_spec import StudySpec

LAST, BEST = 2_000, 100
"""Number of last and of best older trials that a sampler sees.

The limit keeps a TPE suggestion near 20 ms. TPE's good trials (at most 25) are among the best, and
it weights the others down by age anyway.
"""

LEAST_OUTSIDE = 1.0
"""Value of a diverged trial's constraints for the Gaussian process, at least: twice the bound."""

POPULATION = (8, 50)
"""Bounds of NSGA-II's population, a fifth of the method's trials.

Optuna's default of 50 would leave 100 trials one generation.
"""


def suggest(spec: StudySpec, method: str, past: Sequence[FrozenTrial], seed: int) -> Point:
    """The point that the study's sampler chooses for a method after `past`.

    Args:
        spec: the study; its sampler is an adaptive one.
        method: the method searched.
        past: its trials in order, pending ones among them; at least one has a score.
        seed: seed of the sampler's random draws.
    """
    ways = directions(spec)
    seen = in_view(past, ways)
    if spec.search.sampler == "gp":
        seen = with_values_for_gp(seen, ways)
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # otherwise it logs every new study
    study = optuna.create_study(storage=_Past(seen), sampler=_sampler(spec, seed), directions=ways)
    trial = study.ask()
    point: Point = {}
    for name, parameter in sampled_parameters(spec.spaces[method]).items():
        if applies(parameter, point):
            point[name] = _chosen(trial, name, parameter)
    return point


def in_view(past: Sequence[FrozenTrial], directions: Sequence[str]) -> list[FrozenTrial]:
    """The last `LAST` trials and, with one objective, the `BEST` best older ones, in order.

    Older infeasible ones are not among the best, whatever their values.
    """
    if len(past) <= LAST:
        return list(past)
    older, last = past[:-LAST], list(past[-LAST:])
    complete = [
        trial
        for trial in older
        if trial.state == TrialState.COMPLETE and len(directions) == 1 and _is_feasible(trial)
    ]
    first = heapq.nsmallest if directions[0] == "minimize" else heapq.nlargest
    best = first(BEST, complete, key=lambda trial: trial.values[0])
    return sorted(best, key=lambda trial: trial.number) + last


def with_values_for_gp(past: Sequence[FrozenTrial], directions: Sequence[str]) -> list[FrozenTrial]:
    """`past` with every finished trial complete, because the Gaussian process sees no others.

    A pruned trial gets its last intermediate value, a diverged one the worst value of all. If
    diverged trials were left out, as Optuna does, their region would look unexplored to the model
    and be suggested again and again. Constraints of a diverged trial are violated as much as any
    other trial violates them.
    """
    worst = max if directions[0] == "minimize" else min
    measured = {
        trial.number: _measured(trial) for trial in past if trial.state != TrialState.RUNNING
    }
    bottom = worst(value for value in measured.values() if value is not None)
    outermost = _outermost(past)
    return [
        _completed(trial, measured[trial.number], bottom, outermost)
        if trial.number in measured
        else trial
        for trial in past
    ]


def _outermost(past: Sequence[FrozenTrial]) -> dict[str, float]:
    """The largest value of each constraint that was measured, above 0."""
    found: dict[str, float] = {}
    for trial in past:
        for name, value in trial.system_attrs.items():
            if value < FAR_OUTSIDE:
                found[name] = max(found.get(name, LEAST_OUTSIDE), value)
    return found


def _is_feasible(trial: FrozenTrial) -> bool:
    return all(value <= 0 for value in trial.constraints.values())


def _measured(trial: FrozenTrial) -> float | None:
    """The trial's score, or its last intermediate value; None if it has neither."""
    if trial.state == TrialState.COMPLETE:
        return float(trial.values[0])
    return (
        float(trial.intermediate_values[max(trial.intermediate_values)])
        if trial.intermediate_values
        else None
    )


def _completed(
    trial: FrozenTrial, measured: float | None, bottom: float, outermost: dict[str, float]
) -> FrozenTrial:
    trial = copy.copy(trial)
    trial.system_attrs = {
        name: min(value, outermost.get(name, LEAST_OUTSIDE))
        for name, value in trial.system_attrs.items()
    }
    trial.state = TrialState.COMPLETE
    trial.values = [bottom if measured is None else measured]
    return trial


def _sampler(spec: StudySpec, seed: int) -> BaseSampler:
    """A new sampler without start-up trials, which the caller draws."""
    match spec.search.sampler:
        case "tpe":
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", ExperimentalWarning
                )  # `group`, for conditional parameters
                return TPESampler(
                    seed=seed, n_startup_trials=0, multivariate=True, group=True, constant_liar=True
                )
        case "nsga2":
            smallest, largest = POPULATION
            fifth = (spec.search.trials_per_method or 0) // 5
            return _Nsga2(population_size=min(max(fifth, smallest), largest), seed=seed)
        case "gp":
            return GPSampler(seed=seed, n_startup_trials=0, warn_independent_sampling=False)
        case stateless:
            raise AssertionError(f"{stateless} needs no past")


class _Nsga2(NSGAIISampler):  # type: ignore[misc]
    """NSGA-II (Deb et al. 2002) with generations by the order of the complete trials.

    Optuna writes a trial's generation into the trial when the trial is asked for. A trial rebuilt
    from a ledger has none, and would belong to no generation.
    """

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
        """Generation of the trial that is asked for: the number of full populations before it."""
        return len(_complete(study)) // int(self.population_size)

    def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The complete trials of one generation."""
        start = generation * int(self.population_size)
        return _complete(study)[start : start + int(self.population_size)]


def _complete(study: Study) -> list[FrozenTrial]:
    return list(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


class _Past(InMemoryStorage):  # type: ignore[misc]
    """A storage with a fixed list of trials, and apart from it the one being asked for.

    Optuna's own `add_trials` copies and checks each trial, which takes 0.2 ms, or 0.4 s for 2,000
    of them.
    """

    def __init__(self, past: Sequence[FrozenTrial]) -> None:
        super().__init__()
        self._past: list[FrozenTrial] = []
        for number, trial in enumerate(past, start=1):  # 0 is the trial being asked for
            numbered = copy.copy(trial)
            numbered.number = number
            self._past.append(numbered)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The past trials without the one being asked for, which samplers leave out anyway."""
        trials = [trial for trial in self._past if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials


def _chosen(trial: Trial, name: str, parameter: Sampled) -> Any:
    match parameter:
        case FloatRange():
            return trial.suggest_float(
                name, parameter.low, parameter.high, log=parameter.scale == "log"
            )
        case IntRange():
            return trial.suggest_int(
                name, parameter.low, parameter.high, log=parameter.scale == "log"
            )
        case Choice():
            return trial.suggest_categorical(name, parameter.choices)

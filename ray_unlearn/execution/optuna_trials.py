"""A trial of the ledger as an Optuna trial, for the samplers and for the exported journal."""

import math
from datetime import datetime, timedelta

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from ray_unlearn.environment import REAL
from ray_unlearn.execution.drawn_points import Point, Sampled
from ray_unlearn.execution.early_stopping import standing
from ray_unlearn.spec.search_space import Choice, FloatRange, IntRange
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import COLUMNS, Row
from ray_unlearn.store.score import OBJECTIVE, PARETO_OBJECTIVES, ScoreRule


def objectives(spec: StudySpec) -> tuple[str, ...]:
    """The columns that a search optimises: one, or two for a Pareto front."""
    return PARETO_OBJECTIVES if spec.objective.pareto else (OBJECTIVE,)


def directions(spec: StudySpec) -> list[str]:
    """`minimize` or `maximize` for each objective, as in the schema."""
    return [COLUMNS[name].direction for name in objectives(spec)]


def distribution(parameter: Sampled) -> BaseDistribution:
    """The parameter's range as an Optuna distribution."""
    match parameter:
        case FloatRange():
            return FloatDistribution(parameter.low, parameter.high, log=parameter.scale == "log")
        case IntRange():
            return IntDistribution(parameter.low, parameter.high, log=parameter.scale == "log")
        case Choice():
            return CategoricalDistribution(parameter.choices)


def as_optuna_trial(trial: Trial, rule: ScoreRule, point: Point) -> FrozenTrial:
    """`trial` with its parameters, state, values and intermediate values.

    complete COMPLETE with the score of its best row. With two objectives it is the pair at that
        same row, the one of the lowest score: several pairs for one point would count it among the
        good and the bad trials at once.
    pruned PRUNED with intermediate values, which TPE ranks behind all complete trials, by the last
        one. With free steps a value is the best score so far, and a trial that was stopped *past*
        its best row is COMPLETE: that row is a configuration like any other, and further updates
        would not have changed its score.
    diverged, out_of_memory (and complete without a finite score) PRUNED without intermediate
        values, which TPE ranks last of all (`_get_pruned_trial_score` in
        optuna/samplers/_tpe/sampler.py): the region counts as bad and no score is invented.
    failed
        FAIL, which samplers ignore: broken hardware says nothing about a configuration.
    """
    spec = rule.spec
    state, row = _state(trial, rule)
    took = timedelta(seconds=_seconds(trial))
    now = datetime.fromtimestamp(REAL.time())  # of this machine's zone, as Optuna's own
    return FrozenTrial(
        number=trial.number,
        trial_id=trial.number,
        state=state,
        value=None,
        values=[row[name] for name in objectives(spec)] if row is not None else None,
        datetime_start=now - took,
        datetime_complete=now if state.is_finished() else None,
        params=point,
        distributions={
            name: distribution(p)
            for name, p in spec.spaces[trial.method].sampled().items()
            if name in point
        },
        user_attrs={},
        system_attrs={},
        intermediate_values=_compared(trial, rule)
        if row is not None or trial.status in {None, "pruned"}
        else {},
    )


def _state(trial: Trial, rule: ScoreRule) -> tuple[TrialState, Row | None]:
    """Optuna's state of the trial and, for COMPLETE, the row with its values."""
    if trial.status is None:
        return TrialState.RUNNING, None
    if trial.status == "failed":
        return TrialState.FAIL, None
    best = rule.row(trial)
    if best is None:
        return TrialState.PRUNED, None
    if trial.status == "pruned" and best["update"] == rule.candidates(trial)[-1]["update"]:
        return TrialState.PRUNED, None
    return TrialState.COMPLETE, best


def _compared(trial: Trial, rule: ScoreRule) -> dict[int, float]:
    """The scores that early stopping compares, by update.

    Empty with two objectives, where Optuna cannot prune.
    """
    if rule.spec.objective.pareto:
        return {}
    values = {row["update"]: standing(trial, trial.rows, row["update"], rule) for row in trial.rows}
    return {update: value for update, value in sorted(values.items()) if math.isfinite(value)}


def _seconds(trial: Trial) -> float:
    """Seconds that the trial took, for Optuna's timeline; the rows have durations, not dates."""
    last = max(trial.rows, key=lambda row: row["update"], default={})
    seconds = last.get("wall_s", 0.0) + last.get("evaluation_wall_s", 0.0)
    return float(seconds) if math.isfinite(seconds) else 0.0

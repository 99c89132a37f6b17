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
from ray_unlearn.spec.search_space import Choice, FloatRange, IntRange
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import COLUMNS, Row, whole_row
from ray_unlearn.store.score import OBJECTIVE, PARETO_OBJECTIVES, ScoreRule

CONSTRAINTS = "constraints"
"""Optuna reads a trial's constraint NAME from its system attribute `constraints:NAME`."""
FAR_OUTSIDE = 1000.0
"""More than asinh of any number."""


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

    Where a study has constraints, each is a value that is at most 0 if it is kept
    (`constraint_values`): TPE ranks infeasible trials behind all feasible ones, by how far they are
    outside, NSGA-II likewise, the Gaussian process has a model of each constraint. A trial that
    ended well without a feasible row has the values of the row that is the least outside.
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
        system_attrs=constraint_values(trial, rule) if state.is_finished() else {},
        intermediate_values=_compared(trial, rule)
        if row is not None or trial.status in {None, "pruned"}
        else {},
    )


def constraint_values(trial: Trial, rule: ScoreRule) -> dict[str, float]:
    """Optuna's attributes for the constraints: how far the trial is outside each, at most 0 inside.

    The margin of `store.objective`, on a scale (asinh) that leaves small ones as they are and keeps
    a model of them from being flattened by a trial that is a million times outside. A trial without
    a row that could be judged, which has diverged, is outside by `FAR_OUTSIDE`. Empty for a study
    without constraints, and for a failed trial.
    """
    constraints = rule.objective.constraints
    if not constraints or trial.status == "failed":
        return {}
    row = rule.row(trial) or rule.nearest_row(trial) or _last_compared(trial, rule)
    judged = None if row is None else whole_row(row)
    return {
        f"{CONSTRAINTS}:{one.key}": _on_scale(None if judged is None else one.margin(judged))
        for one in constraints
    }


def _last_compared(trial: Trial, rule: ScoreRule) -> Row | None:
    """The last row of a trial that early stopping ended before it stood for a configuration."""
    if trial.status != "pruned":
        return None
    return max(trial.rows, key=lambda row: row["update"], default=None)


def _on_scale(margin: float | None) -> float:
    return FAR_OUTSIDE if margin is None or margin == math.inf else math.asinh(margin)


def _state(trial: Trial, rule: ScoreRule) -> tuple[TrialState, Row | None]:
    """Optuna's state of the trial and, for COMPLETE, the row with its values."""
    if trial.status is None:
        return TrialState.RUNNING, None
    if trial.status == "failed":
        return TrialState.FAIL, None
    best = rule.row(trial)
    if best is None and trial.status == "complete":
        best = rule.nearest_row(trial)
    if best is None:
        return TrialState.PRUNED, None
    if trial.status == "pruned" and best["update"] == rule.configuration_rows(trial)[-1]["update"]:
        return TrialState.PRUNED, None
    return TrialState.COMPLETE, best


def _compared(trial: Trial, rule: ScoreRule) -> dict[int, float]:
    """The scores that early stopping compares, by update.

    Empty with two objectives, where Optuna cannot prune.
    """
    if rule.spec.objective.pareto:
        return {}
    updates = sorted({row["update"] for row in trial.rows})
    values = {update: rule.standing(trial.rows, trial, update)[1] for update in updates}
    return {update: value for update, value in values.items() if math.isfinite(value)}


def _seconds(trial: Trial) -> float:
    """Seconds that the trial took, for Optuna's timeline; the rows have durations, not dates."""
    last = max(trial.rows, key=lambda row: row["update"], default={})
    seconds = last.get("wall_s", 0.0) + last.get("evaluation_wall_s", 0.0)
    return float(seconds) if math.isfinite(seconds) else 0.0

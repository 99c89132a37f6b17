"""Which rows count for a trial's score, and which trial is best. One rule for search, status,
tables and reports.

A configuration's score is taken at a row that could be deployed without hindsight: with free steps
every row from the fewest steps on *is* a configuration (its own number of steps); otherwise only
the row after the last step is. Trials that diverged, ran out of memory or failed have no score:
they are counted, not ranked. A trial that early stopping ended keeps its rows: with free steps they
are configurations like any other, otherwise it has no score.
"""

import math

from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.schema import Row

OBJECTIVE = "score_selection"
PARETO_OBJECTIVES = ("forget_gap_selection", "utility_loss_selection")


def candidate_rows(trial: Trial, spec: StudySpec) -> list[Row]:
    """The rows of a finished trial that stand for a configuration, rising in update; see the
    module."""
    if trial.status not in ("complete", "pruned"):
        return []
    space = spec.spaces[trial.method]
    rows = sorted(trial.rows, key=lambda row: row["update"])
    if space.free_steps:
        return [
            row
            for row in rows
            if row["update"] >= space.fewest_steps and math.isfinite(row[OBJECTIVE])
        ]
    last = [
        row
        for row in rows
        if row["update"] == trial.config["steps"] and math.isfinite(row[OBJECTIVE])
    ]
    return last if trial.status == "complete" else []


def deployable(row: Row, trial: Trial, spec: StudySpec) -> bool:
    """Whether the row stands for a configuration if its trial, which may still run, ends well."""
    space = spec.spaces[trial.method]
    first = space.fewest_steps if space.free_steps else trial.config["steps"]
    return row["update"] >= first and math.isfinite(row[OBJECTIVE])


def best_row(trial: Trial, spec: StudySpec) -> Row | None:
    """The trial's candidate row with the lowest score on the selection half; ties go to the fewest
    updates."""
    rows = candidate_rows(trial, spec)
    return min(rows, key=lambda row: (row[OBJECTIVE], row["update"])) if rows else None


def best_trial(
    record: Record, spec: StudySpec, method: str | None = None
) -> tuple[Trial, Row] | None:
    """The best trial and its row over the whole study, or over one method; ties go to the lowest
    number."""
    scored = [
        (trial, row)
        for trial in record.finished
        if (method is None or trial.method == method) and (row := best_row(trial, spec)) is not None
    ]
    return min(scored, key=lambda pair: (pair[1][OBJECTIVE], pair[0].number)) if scored else None

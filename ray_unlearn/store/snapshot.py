"""A study at one moment, whole in memory.

Rows of a `Record` are read from the ledger's file when a column is asked for, and the file of a
remote study is a temporary copy. What users receive must outlive it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_unlearn.spec.study_file import where_it_is_now
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.schema import HALVES, Row, strength_of
from ray_unlearn.store.score import Configuration, ScoreRule
from ray_unlearn.store.status import open_study
from ray_unlearn.store.study_columns import extra_columns
from ray_unlearn.store.table import baseline_table, config_columns, result_table

SCORES = tuple(f"score_{half}" for half in HALVES)
IDENTITY = ("number", "trial_id", "method", "status", "reason", "sampled_by")


@dataclass(frozen=True)
class BestConfiguration:
    """The configuration that a study, or one method of it, found best.

    Scores are in nats per token; lower is better. `score_selection` chose the configuration; quote
    `score_reporting`, which had no part in the choice.
    """

    method: str
    number: int
    """Number of the trial, counted from 0."""
    trial_id: str
    update: int
    """Update of the row that the scores are taken at."""
    hyperparameters: dict[str, Any]
    """Hyperparameters of the configuration, in which `steps` is `update`."""
    score_selection: float
    score_reporting: float
    score_rule: str
    """The rule that chooses a trial's row (see `store.score`)."""
    strength: float
    """1: as trained; else the model is W_0 + strength (W_t - W_0)."""
    metrics: dict[str, Any]
    """All columns of the row; `docs/metrics.md` explains them."""


@dataclass(frozen=True)
class Snapshot:
    """Everything that users can read of a study."""

    spec: StudySpec
    rows: pa.Table
    """One line per evaluation row, as `store.table.result_table` gives them."""
    trials: pa.Table
    """One line per trial, by number.

    It has identity, outcome, hyperparameters, number of rows, and update, strength, scores and the
    study's own columns of the row that scores the trial (null if it has no score). Where the study
    has constraints, also `feasible`, and `outside`: which of them the nearest row of an infeasible
    trial breaks.
    """
    baselines: pa.Table
    """One line per model that no trial changed, as `store.table.baseline_table` gives them."""
    bests: tuple[BestConfiguration, ...]
    """The best configuration of each method that has a score, lowest score first."""


def taken(folder: Path) -> Snapshot:
    """Read the study in `folder`.

    Raises:
        UserError: no study there, or its `study.yaml` cannot be read.
        StorageError: its ledger is damaged.
    """
    spec, record = open_study(folder)
    rows = result_table(record)
    rule = ScoreRule.of(record, spec)
    bests = (_best(record, rule, method) for method in spec.methods)
    ranked = sorted(
        (best for best in bests if best is not None),
        key=lambda best: (best.score_selection, best.number),
    )
    spec = where_it_is_now(spec, folder)
    settings, extra = config_columns(spec), tuple(extra_columns(spec))
    trials = _trial_table(record, rule, rows.schema, settings, extra)
    return Snapshot(spec, rows, trials, baseline_table(record), tuple(ranked))


def _best(record: Record, rule: ScoreRule, method: str) -> BestConfiguration | None:
    found = rule.best(record, method)
    if found is None:
        return None
    trial, row = found
    metrics = dict(row.items())
    return BestConfiguration(
        method=trial.method,
        number=trial.number,
        trial_id=trial.trial_id,
        update=int(metrics["update"]),
        hyperparameters=Configuration(trial, row).hyperparameters,
        score_selection=float(metrics[SCORES[0]]),
        score_reporting=float(metrics[SCORES[1]]),
        score_rule=rule.name,
        strength=strength_of(metrics),
        metrics=metrics,
    )


def _trial_table(
    record: Record,
    rule: ScoreRule,
    known: pa.Schema,
    settings: tuple[str, ...],
    extra: tuple[str, ...],
) -> pa.Table:
    apart = (name for name in settings if name not in IDENTITY)
    fields = [known.field(name) for name in (*IDENTITY, *apart)]
    fields += [pa.field("rows", pa.int64()), pa.field("update", pa.int64())]
    fields += [pa.field("strength", pa.float64())]
    fields += [pa.field(name, pa.float64()) for name in (*SCORES, *extra)]
    trials = [trial for _, trial in sorted(record.trials.items())]
    lines = [_trial_line(trial, rule.row(trial), settings, extra) for trial in trials]
    if rule.objective.constraints:
        fields += [pa.field("feasible", pa.bool_()), pa.field("outside", pa.string())]
        for line, trial in zip(lines, trials, strict=True):
            line |= {"feasible": rule.row(trial) is not None, "outside": rule.outside(trial)}
    return pa.Table.from_pylist(lines, schema=pa.schema(fields))


def _trial_line(
    trial: Trial, scored: Row | None, settings: tuple[str, ...], extra: tuple[str, ...]
) -> dict[str, Any]:
    line = {name: trial.config.get(name) for name in settings} | {
        "number": trial.number,
        "trial_id": trial.trial_id,
        "status": trial.status or "running",
        "reason": trial.reason,
        "sampled_by": trial.source,
        "rows": len(trial.rows),
    }
    if scored is not None:
        line |= {name: scored[name] for name in ("update", *SCORES)}
        line |= {name: scored.get(name) for name in extra}
        line["strength"] = strength_of(scored)
    return line

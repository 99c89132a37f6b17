"""The result table: one line per evaluation row, with its trial's configuration and outcome.

It is plain pyarrow.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.spec.hyperparameters import HYPERPARAMETERS, common_type
from ray_unlearn.spec.method_registry import known_hyperparameters, own_hyperparameters, value_type
from ray_unlearn.spec.strict import validated
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.atomic_write import whole_file
from ray_unlearn.store.objective import written_objective
from ray_unlearn.store.record import Record
from ray_unlearn.store.schema import (
    AS_TRAINED,
    BASELINE_COLUMNS,
    COLUMNS,
    HALVES,
    RUNNING,
    SCHEMA_VERSION,
    Row,
    row_key,
)
from ray_unlearn.store.score import ScoreRule
from ray_unlearn.store.study_columns import extra_columns, extra_names, is_column

CONFIG_COLUMNS = ("method", "seed", *HYPERPARAMETERS)
"""Of all studies; those of single methods follow them (`config_columns`)."""
IDENTITY_COLUMNS = (
    "study", "domain", "model", "number", "trial_id", "status", "reason", "sampled_by",
    "score_rule", "candidate", "scored",
)  # fmt: skip
TABLE_COLUMNS = (*IDENTITY_COLUMNS, *CONFIG_COLUMNS, *COLUMNS)
TEXT_COLUMNS = frozenset((
    "study", "domain", "model", "trial_id", "status", "reason", "sampled_by", "score_rule",
    "method", "objective",
    *(name for name in HYPERPARAMETERS if common_type(name) is str),
))  # fmt: skip
OBJECTIVE_COLUMNS = ("objective", "feasible", *(f"violation_{half}" for half in HALVES))
"""More columns, in tables of studies whose objective is more than the weighted sum: what it is, as
the study file has it; whether the row is feasible; the sum of its margins outside the constraints
on either half (`store.objective`)."""
REPORT_COLUMNS = (
    "trial", "group", "why", "infeasible", "drawn", "crossed", "score", "forget_gap",
    "utility_loss",
    "target_nll", "chosen_by", "valued_by", "forget_change", "retain_change", "general_change",
)  # fmt: skip
"""Columns that reports add to tables (`analysis.trials`); nothing else can be called so."""
LINES_AT_A_TIME = 5_000
"""Lines that are Python objects at a time: a line takes some 10 KiB as such and 1 KiB in the
table."""


def settings_of(names: Sequence[str]) -> tuple[str, ...]:
    """The hyperparameters in a table with these columns: of all methods, then its own.

    A table need not be of methods that are known here: what stands between `seed` and `update` is
    a hyperparameter.
    """
    found = list(names)
    own: list[str] = []
    if "seed" in found and "update" in found:
        own = found[found.index("seed") + 1 : found.index("update")]
    return (*HYPERPARAMETERS, *(name for name in own if name not in TABLE_COLUMNS))


def config_columns(spec: StudySpec) -> tuple[str, ...]:
    """A trial's configuration in the tables of this study: between `scored` and `update`."""
    return (*CONFIG_COLUMNS, *own_hyperparameters(spec.methods))


def check_column_names(spec: StudySpec) -> None:
    """Refuse hyperparameters of single methods that are called as a column is, or looks.

    Raises:
        UserError: one is; a table would show one in place of the other.
    """
    taken = {*TABLE_COLUMNS, *BASELINE_COLUMNS, *OBJECTIVE_COLUMNS, *REPORT_COLUMNS}
    taken |= extra_columns(spec).keys()
    for method in spec.methods:
        for name in own_hyperparameters([method]):
            if name in taken or is_column(name):
                raise UserError(
                    f"{spec.name}: methods: {method}: its hyperparameter {name!r} is named like a "
                    "column of tables; call it otherwise where it is registered"
                )


UNREPEATABLE = tuple(name for name, column in COLUMNS.items() if not column.repeatable)


def result_table(record: Record) -> pa.Table:
    """One line per evaluation row: who and how it was, the configuration, `study_columns`.

    `candidate` is true where the row stands for a configuration that could be deployed, `scored`
    where it is the one that scores its trial by `score_rule` (see `store.score`). Where the
    objective is more than the weighted sum, `OBJECTIVE_COLUMNS` come last.
    Ordered by trial number, update and strength. A trial without rows (it failed, or diverged
    before its first evaluation) has one line with no `update`, so that it is counted and not
    forgotten.
    """
    spec = validated(StudySpec, record.header.spec, "ledger header: spec")
    rule = ScoreRule.of(record, spec)
    study = {
        "study": spec.name,
        "domain": record.header.domain,
        "model": spec.model.source,
        "score_rule": rule.name,
    }
    settings = config_columns(spec)
    written = written_objective(spec)
    study |= {"objective": written} if written else {}
    nowhere = {"feasible": False} if written else {}
    more = (*extra_columns(spec), *(OBJECTIVE_COLUMNS if written else ()))
    schema, tables = _schema(settings, more), []
    lines: list[dict[str, Any]] = []
    for _, trial in sorted(record.trials.items()):
        known: dict[str, Any] = study | {
            "number": trial.number,
            "trial_id": trial.trial_id,
            "status": trial.status or RUNNING,
        }
        known |= {"reason": trial.reason, "sampled_by": trial.source} | {
            name: trial.config.get(name) for name in settings
        }
        candidates = {row_key(row) for row in rule.candidates(trial)}
        scoring = rule.row(trial)  # not its truth value: that would read the whole row
        scored = None if scoring is None else row_key(scoring)
        lines += [
            known
            | {"candidate": row_key(row) in candidates, "scored": row_key(row) == scored}
            | {"strength": AS_TRAINED}
            | metrics
            | (_feasibility(metrics, rule) if written else {})
            for row in sorted(trial.rows, key=row_key)
            for metrics in [dict(row.items())]
        ] or [known | {"candidate": False, "scored": False} | nowhere]
        if len(lines) >= LINES_AT_A_TIME:
            tables.append(_typed(lines, schema))
            lines = []
    return pa.concat_tables([*tables, _typed(lines, schema)])


def _typed(lines: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    try:
        return pa.Table.from_pylist(lines, schema=schema)
    except (pa.ArrowException, OverflowError) as error:
        raise StorageError(
            f"ledger: a trial has a hyperparameter or metric of another type: {error}; "
            "`ray-unlearn verify` names the trial"
        ) from None


def _feasibility(row: Row, rule: ScoreRule) -> dict[str, Any]:
    found = {f"violation_{half}": rule.violation(row, half) for half in HALVES}
    return {"feasible": found[f"violation_{HALVES[0]}"] == 0.0} | found


def baseline_table(record: Record) -> pa.Table:
    """One line per baseline (vanilla, exact_retrain): `baseline` and `BASELINE_COLUMNS`.

    What the study's rows have beside `COLUMNS` follows, as far as a baseline has it.
    """
    rows = {name: dict(row.items()) for name, row in record.baselines.items()}
    extra = dict.fromkeys(name for row in rows.values() for name in extra_names(row))
    columns = [*BASELINE_COLUMNS, *(name for name in extra if name not in BASELINE_COLUMNS)]
    lines = [{"baseline": name} | {c: row.get(c) for c in columns} for name, row in rows.items()]
    fields = [pa.field("baseline", pa.string())]
    fields += [pa.field(name, _type(name)) for name in columns]
    return pa.Table.from_pylist(lines, schema=pa.schema(fields))


def write_table(table: pa.Table, path: Path) -> None:
    """Write as Parquet or CSV by the file's ending, whole or not at all.

    Raises:
        StorageError: an ending that is neither, or the file cannot be written.
    """
    if path.suffix not in (".parquet", ".csv"):
        raise StorageError(f"{path}: unknown table format {path.suffix!r}; use .parquet or .csv")
    try:
        with whole_file(path) as draft:
            if path.suffix == ".parquet":
                pq.write_table(table, draft)
            else:
                import pyarrow.csv

                pyarrow.csv.write_csv(table, draft)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from None


TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string()}


def _type(name: str) -> pa.DataType:
    if name in TEXT_COLUMNS:
        return pa.string()
    if name in ("candidate", "scored", "feasible"):
        return pa.bool_()
    if name in ("number", "seed", "update"):
        return pa.int64()
    return TYPES[value_type(name)] if name in known_hyperparameters() else pa.float64()


def _schema(settings: tuple[str, ...], more: tuple[str, ...]) -> pa.Schema:
    names = (*IDENTITY_COLUMNS, *settings, *COLUMNS, *more)
    fields = [pa.field(name, _type(name)) for name in names]
    return pa.schema(fields, metadata={"schema_version": str(SCHEMA_VERSION)})

"""Checks of a study's other files against its ledger (part of `verify`).

Files that are derived or copied from the ledger must agree with it, and the stored weights must be
those of the best row.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.spec.strict import differences, validated
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event import BestWeightsGone, BestWeightsKept, Event
from ray_unlearn.store.objective import Objective
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.repair_plan import first_few
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.scan import events_file, header_file, lines_of
from ray_unlearn.store.schema import COLUMNS, FORMER_OUTCOMES, HALVES, Row, row_key
from ray_unlearn.store.score import OBJECTIVE, ScoreRule
from ray_unlearn.store.study_columns import extra_names
from ray_unlearn.store.table import result_table

SPEC_FILE = "study.yaml"
SCORES = tuple(f"score_{half}" for half in HALVES)
COMPARED = ("number", "trial_id", "status", *COLUMNS)
"""Columns of the result table that must agree with the ledger, in the tables of all versions."""


def copy_problems(study: Path, record: Record) -> Iterator[str]:
    """Differences of the header's copy and `study.yaml` from the header (I1 and I4).

    Args:
        study: the study directory; `resume` writes a missing file again.
        record: what its ledger says.
    """
    copy, events = header_file(study / "ledger"), events_file(study / "ledger")
    first = next((line for _, line in lines_of(events)), b"")
    if copy.is_file() and copy.read_bytes() != first:
        yield f"I1: {copy.name}: is no copy of the ledger's header; `ray-unlearn resume` makes one"
    path = study / SPEC_FILE
    began = _spec(record)
    if began is None or not path.is_file():
        return
    try:
        now = load_study(path)
    except (UserError, OSError) as error:
        yield f"I4: {SPEC_FILE}: {str(error).splitlines()[0]}; remove it, `resume` writes it anew"
        return
    trials = began.search.trials_per_method  # the one thing that may grow
    search = now.search.model_copy(update={"trials_per_method": trials})
    now = now.model_copy(update={"search": search})
    changes = differences(began.decisive(), now.decisive())
    if changes:
        yield (
            f"I4: {SPEC_FILE}: describes another study than the ledger: {first_few(changes, 3)}; "
            "remove it, `ray-unlearn resume` writes it anew"
        )


def best_row_problems(record: Record, events: Sequence[Event]) -> Iterator[str]:
    """A problem if the best row whose weights were ever kept is not the one kept now (I5).

    A row whose weights could not be written (the disk was full) has no event, and is no problem:
    `export` runs its trial again.

    Args:
        record: what the ledger says.
        events: the ledger's events, in their order.
    """
    kept, spec = record.best_weights, _spec(record)
    if kept is None or spec is None:
        return
    rule = ScoreRule.of(record, spec)
    now = _counting(record, rule, kept)
    if now is None:  # its trial failed later, when the weights before it had been replaced already
        return
    since = max((i for i, e in enumerate(events) if isinstance(e, BestWeightsGone)), default=-1)
    ever = [event for event in events[since + 1 :] if isinstance(event, BestWeightsKept)]
    scored = [found for event in ever if (found := _counting(record, rule, event)) is not None]
    trial, row = min(scored, key=lambda pair: float(pair[1][OBJECTIVE]))
    if row[OBJECTIVE] < now[1][OBJECTIVE]:
        yield (
            f"I5: {kept.file}: weights of trial {now[0].number} ({now[0].trial_id}), update "
            f"{now[1]['update']}, score {now[1][OBJECTIVE]:.4f}, are kept; the best row is that of "
            f"trial {trial.number} ({trial.trial_id}), update {row['update']}, score "
            f"{row[OBJECTIVE]:.4f}, whose weights were kept before and replaced; `ray-unlearn "
            "export --trial best` runs it again"
        )


def score_problems(record: Record) -> Iterator[str]:
    """Rows whose scores are not what their metrics and the study's objective make them (I7).

    Args:
        record: what the ledger says; rows of versions with other metrics are passed over.
    """
    spec, vanilla = _spec(record), record.baselines.get("vanilla")
    if spec is None or vanilla is None:
        return
    flops = record.header.retraining_flops
    baselines = Baselines(vanilla, record.baselines.get("exact_retrain"), flops)
    objective = Objective.of(spec)
    for number, trial in sorted(record.trials.items()):
        for row in trial.rows:
            written = dict(row.items())
            try:
                made = scored(written, baselines, spec.objective.weights, objective)
            except KeyError:
                continue
            names = [n for n in SCORES if n in written and not _same(written[n], made[n])]
            if names:
                yield (
                    f"I7: trial {number}, update {written['update']}: {names[0]} is "
                    f"{written[names[0]]:.6g}, its metrics make it {made[names[0]]:.6g}; "
                    "was `objective` changed in the ledger's header?"
                )


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12) or not (
        math.isfinite(one) or math.isfinite(other)
    )


def table_fault(path: Path, record: Record) -> str:
    """The fault in the result table of a study in which every trial has ended.

    Returns:
        Empty if there is no fault or no table.
    """
    if not path.exists():
        return ""
    try:
        table = pq.read_table(path)
        lines = Counter(table["number"].cast(pa.int64()).to_pylist())
    except (OSError, pa.ArrowException, KeyError) as error:
        return f"cannot be read: {str(error).splitlines()[0]}"
    if None in lines:
        return "has rows without the number of a trial"
    differ = [
        number
        for number in lines.keys() | record.trials.keys()
        if lines[number] != _lines_in_table(record, number)
    ]
    if differ:
        return f"has another number of rows than the ledger for trials {first_few(sorted(differ))}"
    if _spec(record) is None:
        return ""
    try:
        return _other_values(table, result_table(record))
    except StorageError as error:  # a row changed meanwhile
        return f"cannot be compared: {error}"


def _other_values(table: pa.Table, expected: pa.Table) -> str:
    wrong: list[str] = []
    for name in (*COMPARED, *extra_names(expected.column_names)):
        if name not in table.column_names or name not in expected.column_names:
            continue
        now, wanted = table[name], expected[name]
        if name == "status":
            now = pa.array([FORMER_OUTCOMES.get(one, one) for one in now.to_pylist()], now.type)
        try:
            now = now.cast(wanted.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            wrong.append(name)
            continue
        same = pc.fill_null(pc.equal(now, wanted), False)
        same = pc.or_(same, pc.and_(pc.is_null(now, nan_is_null=True), _nothing(wanted)))
        if not pc.all(same).as_py():
            wrong.append(name)
    return f"has other values than the ledger in {first_few(wrong)}" if wrong else ""


def _nothing(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.is_null(values, nan_is_null=True)


def _counting(record: Record, rule: ScoreRule, kept: BestWeightsKept) -> tuple[Trial, Row] | None:
    """Trial and row of stored weights, if the row can still be the best one."""
    trial = record.trials.get(kept.number)
    if trial is None or trial.status not in (None, "complete", "pruned"):
        return None
    rows = [row for row in trial.rows if row_key(row) == (kept.update, kept.strength)]
    return (trial, rows[0]) if rows and rule.is_settled(rows[0], trial) else None


def _lines_in_table(record: Record, number: int) -> int:
    """Number of a trial's lines in the table: one per row, and one if there is no row."""
    return max(1, len(record.trials[number].rows)) if number in record.trials else 0


def _spec(record: Record) -> StudySpec | None:
    """The header's spec; None if it is not one of this version."""
    try:
        return validated(StudySpec, record.header.spec, "ledger header: spec")
    except UserError:
        return None

"""A check of a study's invariants, from its files alone.

    I1  every row that was acknowledged is there exactly once
    I2  no trial ended twice
    I3  nothing is left unfinished once the study is complete
    I4  the trials are those that were asked for
    I5  the best weights are there, are the ones that were written, and are those of the best row
    I6  nothing is left over on disk
    I7  the scores are those that the rows' metrics and the study's objective make

It only reads, and is safe beside a running study: what a writer is about to do is no problem.
"""

import fcntl
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.spec.strict import validated
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.best_weights import best_weights_problems
from ray_unlearn.store.event import Event, Header, RowMeasured, TrialAsked, TrialEnded
from ray_unlearn.store.event_line import Entry
from ray_unlearn.store.files import leftovers
from ray_unlearn.store.lease import EXPIRY_S, LEASE_FILE, Holder, LeasePlace
from ray_unlearn.store.promises import (
    best_row_problems,
    copy_problems,
    score_problems,
    table_fault,
)
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.repair_plan import first_few
from ray_unlearn.store.scan import Scan, copied_header, events_file, read_acknowledged, scanned
from ray_unlearn.store.schema import is_as_trained, row_key
from ray_unlearn.store.storage import FolderStorage, Storage

SHOWN_SCORES = 5
REPAIR = "`ray-unlearn verify --repair` lets what is lost run again"


@dataclass(frozen=True)
class Verification:
    """The result of checking a study."""

    problems: list[str]
    """Each begins with its invariant."""
    complete: bool
    """Whether every trial that was asked for has its outcome."""
    trials: int
    asked_for: int | None
    """Trials of the whole study; None if no session has recorded it yet."""
    rows: int
    unfinished: list[int]
    """Numbers of the trials without an outcome."""
    running: str
    """The process that is writing the study now; empty if there is none."""


def verify(
    study_folder: Path, storage: Storage | None = None, environment: Environment = REAL
) -> Verification:
    """Check the study in `study_folder`; damage becomes a problem, never an exception.

    Args:
        study_folder: the study, or a working copy of it.
        storage: where a working copy's study is.
        environment: host and clock, to find out whether a process is writing the study.

    Raises:
        UserError: no study there.
    """
    storage = storage or FolderStorage(study_folder)
    folder = study_folder / "ledger"
    if not events_file(folder).is_file():
        raise UserError(
            f"{study_folder}: no study there (no ledger/events.jsonl); give the folder of "
            "`run --storage`"
        )
    running = _running(folder, storage.remote, environment)
    acknowledged = read_acknowledged(folder)  # before the events: a writer goes on
    problems: list[str] = []
    scan = _scanned(folder, problems)
    if scan is None:
        return Verification(problems, False, 0, None, 0, [], running)
    problems += _damage(scan, acknowledged)
    whole = not problems
    record = Record(scan.header)
    for entry in scan.entries[1:]:
        problems += _taken_in(record, entry)
    for _, trial in sorted(record.trials.items()):
        problems += _trial_problems(trial, record)
    problems += _count_problems(record)
    problems += _score_problems(record)
    unfinished = sorted(number for number, trial in record.trials.items() if trial.status is None)
    if not running:
        problems += copy_problems(study_folder, record)
        problems += best_row_problems(record, [entry.event for entry in scan.entries])
    if not running and not unfinished:
        problems += _table_problems(folder / "rows.parquet", record)
    problems += best_weights_problems(
        storage, record.best_weights, record.trials, running=bool(running)
    )
    if whole and not running:  # a file that a lost line may have named is no leftover
        problems += _leftover_problems(storage, record)
    asked_for = record.sessions[-1].total if record.sessions else None
    complete = asked_for is not None and len(record.trials) == asked_for and not unfinished
    rows = sum(len(trial.rows) for trial in record.trials.values())
    return Verification(
        problems, complete, len(record.trials), asked_for, rows, unfinished, running
    )


def _running(folder: Path, remote: bool, environment: Environment) -> str:
    """The present holder of the lease, by the lock on this machine or else by the lease's age."""
    holder = _holder(folder)
    if holder is not None and holder.released:
        return ""
    if remote and holder is None:
        return ""
    locked = None
    if holder is None or (not remote and holder.host == environment.host):
        locked = _locked(events_file(folder))
    if locked is not None or holder is None:
        held = bool(locked)
    else:
        held = environment.time() - (folder / LEASE_FILE).stat().st_mtime < EXPIRY_S
    if not held:
        return ""
    return "an unknown process" if holder is None else f"process {holder.pid} on host {holder.host}"


def _holder(folder: Path) -> Holder | None:
    return LeasePlace(FolderStorage(folder), LEASE_FILE).holder()


def _locked(path: Path) -> bool | None:
    """Whether a process of this machine writes the file; None on a file system without locks."""
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return None
    return False


def _scanned(folder: Path, problems: list[str]) -> Scan | None:
    """The scan of all lines.

    If the header is damaged, its copy is used, so that the rest is checked too.
    """
    try:
        return scanned(folder)
    except StorageError as error:
        problems.append(f"I1: {error}")
    try:
        return scanned(folder, copied_header(folder))
    except StorageError as error:
        if not problems[0].endswith(str(error)):
            problems.append(f"I1: {error}")
        return None


def _damage(scan: Scan, acknowledged: int) -> Iterator[str]:
    damaged = [line for line in scan.damaged if line.line > 1]
    if damaged:
        yield (
            f"I1: events.jsonl: damaged lines {first_few(line.line for line in damaged)}; "
            f"the first begins {damaged[0].text[:40]!r}; {REPAIR}"
        )
    if scan.missing:
        spans = [
            str(first) if first == last else f"{first} to {last}" for first, last in scan.missing
        ]
        yield f"I1: events.jsonl: events {first_few(spans)} are missing; {REPAIR}"
    if acknowledged >= scan.next_seq:
        yield (
            f"I1: events.jsonl: events {scan.next_seq} to {acknowledged} had been acknowledged and "
            "are gone from its end; `ray-unlearn resume` computes again what they recorded"
        )
    if scan.stale:
        yield (
            f"I1: events.jsonl: {len(scan.stale)} event(s) of a process that had lost the study; "
            f"{REPAIR}"
        )


def _taken_in(record: Record, entry: Entry) -> Iterator[str]:
    """Apply one event to the record; yields how it contradicts those before it."""
    event = entry.event
    try:
        problem = _contradiction(record, event)
        if problem:
            yield f"{problem}; {REPAIR}"
        if not isinstance(event, TrialAsked) or not problem:
            record.apply(event)
    except StorageError as error:
        yield f"I1: {error}"
    except (KeyError, TypeError) as error:  # a line that another program has sealed
        yield f"I1: event {entry.seq} at byte {entry.offset} lacks or garbles {error}; {REPAIR}"


def _contradiction(record: Record, event: Event) -> str:
    if not isinstance(event, TrialAsked | RowMeasured | TrialEnded):
        return ""
    trial = record.trials.get(event.number)
    if trial is None:
        return ""
    match event:
        case TrialAsked():
            return f"I4: trial {trial.number} was begun twice"
        case RowMeasured() if any(row_key(row) == event.key for row in trial.rows):
            return f"I1: trial {trial.number} has the row of update {event.update} twice"
        case RowMeasured() if trial.status is not None:
            return f"I2: trial {trial.number} has a row of update {event.update} after its outcome"
        case TrialEnded() if trial.status is not None:
            return f"I2: trial {trial.number} ended twice, {trial.status} and {event.status}"
    return ""


def _trial_problems(trial: Trial, record: Record) -> Iterator[str]:
    try:
        config = validated(TrialConfig, trial.config, f"I4: trial {trial.number}: configuration")
    except UserError as error:
        yield str(error).splitlines()[0]
        return
    expected = record.trial_id(config)
    if expected != trial.trial_id:
        yield (
            f"I4: trial {trial.number} is called {trial.trial_id!r}, but its configuration is that "
            f"of {expected!r}"
        )
    wanted, there = set(config.evaluate_at), {row["update"] for row in trial.rows}
    trained = {row["update"] for row in trial.rows if is_as_trained(row)}
    if there - wanted:
        extra = first_few(sorted(there - wanted))
        yield f"I1: trial {trial.number} has rows of updates {extra}, never asked for"
    if there - trained:
        alone = first_few(sorted(there - trained))
        yield f"I1: trial {trial.number} has no rows as trained of updates {alone}, only calibrated"
    if trial.status == "complete" and wanted - trained:
        yield (
            f"I1: trial {trial.number} is complete without its rows of updates "
            f"{first_few(sorted(wanted - trained))}; {REPAIR}"
        )


def _asked_per_method(header: Header) -> int | None:
    try:
        wanted = header.spec["search"]["trials_per_method"]
    except (KeyError, TypeError):
        return None
    return wanted if isinstance(wanted, int) else None


def _count_problems(record: Record) -> Iterator[str]:
    absent = sorted(set(range(max(record.trials, default=-1) + 1)) - set(record.trials))
    if absent:
        yield (
            f"I4: trials {first_few(absent)} are missing between others; `ray-unlearn resume` asks "
            "for them again"
        )
    ids = Counter(trial.trial_id for trial in record.trials.values())
    for trial_id in [name for name, count in ids.items() if count > 1]:
        numbers = [number for number, trial in record.trials.items() if trial.trial_id == trial_id]
        yield f"I4: trials {first_few(numbers)} are one and the same configuration {trial_id!r}"
    wanted = record.trials_per_method or _asked_per_method(record.header)
    for method, count in Counter(
        str(trial.config.get("method")) for trial in record.trials.values()
    ).items():
        if wanted is not None and count > wanted:
            yield f"I4: {count} trials of {method}, asked for were {wanted}"


def _table_problems(path: Path, record: Record) -> Iterator[str]:
    """The fault in the table of a study that ended in order.

    After a crash an older table may still be there, until `resume`.
    """
    holder = _holder(path.parent)
    if holder is not None and holder.released:
        fault = table_fault(path, record)
        if fault:
            yield (
                f"I1: {path.name}: {fault}; the ledger counts: `ray-unlearn verify --repair` "
                "writes the table anew"
            )


def _score_problems(record: Record) -> list[str]:
    """The first of the rows whose scores are not their own."""
    try:
        return list(islice(score_problems(record), SHOWN_SCORES))
    except StorageError as error:  # a row changed meanwhile
        return [f"I7: cannot be checked: {error}"]


def _leftover_problems(storage: Storage, record: Record) -> Iterator[str]:
    try:
        for file in leftovers(storage, record):
            yield f"I6: {file.name}: left over; `ray-unlearn resume` removes it, or you do"
    except OSError as error:
        yield f"I6: cannot be listed: {error}"

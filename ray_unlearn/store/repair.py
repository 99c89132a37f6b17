"""Repair of a damaged ledger.

What cannot be trusted is set aside, never deleted, and its trials run again. A damaged or lost
event is replaced by one of the same number that says so; all else that a repair has to say is
appended like any event. If the repair is killed at any moment, a second one finishes the job.
"""

from collections.abc import Iterator
from pathlib import Path

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.store.atomic_write import whole_file
from ray_unlearn.store.event import Event, EventLost, EventsWithdrawn, Note, TrialReopened
from ray_unlearn.store.event_line import Entry, decoded, encoded
from ray_unlearn.store.folder_log import FolderLog, Log
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.location import StudyFiles
from ray_unlearn.store.promises import table_fault
from ray_unlearn.store.record import Record
from ray_unlearn.store.repair_plan import RepairPlan, plan_repair
from ray_unlearn.store.scan import Scan, copied_header, events_file, scanned
from ray_unlearn.store.table import result_table, write_table

LOST = "damaged or gone; the notes of the repair say more"


def repair(study_folder: Path, environment: Environment = REAL) -> list[str]:
    """Repair the ledger of a study in a folder.

    Returns:
        What was done, one sentence each; empty if nothing was wrong.

    Raises:
        UserError: no study there.
        StorageError: a process is running the study, the header and its copy are both damaged, the
            disk is full.
    """
    folder = study_folder / "ledger"
    if not events_file(folder).is_file():
        raise UserError(
            f"{study_folder}: no study there (no ledger/events.jsonl); give the folder of "
            "`run --storage`"
        )
    return repaired(FolderLog(folder, environment=environment), environment)


def repaired(log: Log, environment: Environment = REAL) -> list[str]:
    """Repair the ledger of a log, and close it.

    Returns:
        As `repair`.

    Raises:
        StorageError: as in `repair`.
    """
    folder = log.path.parent
    try:
        known = _carried_out(log, environment)
    except OSError as error:
        log.close()
        raise StorageError(
            f"{log.path}: not repaired: {error}; free some space, then try again"
        ) from None
    except BaseException:
        log.close()
        raise
    # Opening proves that the ledger opens.
    with Ledger.continued(log, environment) as ledger:
        done = ledger.record.notes[known:]
        return done + _table_repaired(folder / "rows.parquet", ledger.record)


def _carried_out(log: Log, environment: Environment) -> int:
    """Repair what is damaged; returns the number of notes before.

    Raises:
        OSError: the disk is full, or the storage fails.
        StorageError: as in `repair`.
    """
    folder = log.path.parent
    while True:
        header, scan = _looked_at(folder)
        if log.next_seq > scan.next_seq:  # the last objects are damaged
            scan.missing.append((scan.next_seq, log.next_seq - 1))
        plan = plan_repair(folder, scan, log.acknowledged)
        known = sum(isinstance(entry.event, Note) for entry in plan.entries)
        if not plan.needed:
            return known
        aside = _set_aside(plan, log.path, environment)
        if log.take_over(scan):
            break
    time = environment.now().isoformat(timespec="milliseconds")
    news = [
        encoded(event, seq, log.fence, time)
        for seq, event in enumerate(_news(plan, aside), start=log.next_seq)
    ]
    _amend(plan, header, news, log)
    log.acknowledged = -1  # what is gone from the end has been said
    return known


def _news(plan: RepairPlan, aside: list[str]) -> Iterator[Event]:
    """What is appended."""
    texts = [*plan.texts, *aside]
    texts += [f"trial {number} runs again: {reason}" for number, reason in plan.reopened.items()]
    for number, reason in plan.reopened.items():
        yield TrialReopened(number, reason)
    for text in texts:
        yield Note(f"repair: {text}")
    for reason, numbers in plan.withdrawn.items():
        yield EventsWithdrawn(numbers, reason)


def repair_remote(place: StudyFiles) -> list[str]:
    """`repair` for a study in an object store.

    Raises:
        UserError, StorageError: as in `repair`.
    """
    done = repaired(place.taken_log(), place.environment)
    place.publish(*(f"ledger/{path.name}" for path in set_aside(place.folder / "ledger")))
    return done


def set_aside(folder: Path) -> list[Path]:
    """Files with what repairs have removed from a ledger."""
    return sorted(folder.glob("damaged-*.jsonl"))


def _table_repaired(path: Path, record: Record) -> list[str]:
    """Write the result table again if it has a fault; says what was done.

    While trials have to run again, the run that ends them writes the table.
    """
    ended = all(trial.status is not None for trial in record.trials.values())
    fault = table_fault(path, record) if ended else ""
    if not fault:
        return []
    write_table(result_table(record), path)
    return [f"{path.name} was written anew: it {fault}"]


def _looked_at(folder: Path) -> tuple[bytes, Scan]:
    """The header line, from its copy if need be, and the scan of all lines."""
    try:
        scan = scanned(folder)
    except StorageError:
        header = copied_header(folder)
        return header, scanned(folder, header)
    with open(events_file(folder), "rb") as file:
        return file.readline(), scan


def _set_aside(plan: RepairPlan, path: Path, environment: Environment) -> list[str]:
    """Copy what leaves the file to another one; says where it is.

    Raises:
        OSError: the disk is full.
    """
    if not plan.aside:
        return []
    aside = path.with_name(f"damaged-{environment.now():%Y%m%dT%H%M%S%f}Z.jsonl")
    with whole_file(aside, environment) as draft:
        draft.write_bytes(b"".join(_bytes(path, *where) for where in plan.aside))
    return [f"what was set aside is kept in {aside.name}"]


def _amend(plan: RepairPlan, header: bytes, news: list[bytes], log: Log) -> None:
    """Put a line in the place of each lost event, and append the news.

    Raises:
        OSError: the disk is full, or the storage fails.
        StorageError: the study was taken over, or a good line has changed.
    """
    _, scan = _looked_at(log.path.parent)
    good = {entry.seq: entry for entry in (*scan.entries, *scan.withdrawn)}
    fences = {number: entry.fence for number, entry in good.items()}
    lines = {0: header} if plan.header_lost else {}
    for number in plan.lost:
        # The fence of the event before it, as they do not fall from one to the next; and no time,
        # so that two repairs write the same.
        fences[number] = fences[number - 1]
        lines[number] = encoded(EventLost(LOST), number, fences[number])

    def write(draft: Path) -> None:
        kept = {0: header} | lines
        with open(draft, "wb") as file:
            for number in sorted(fences):
                file.write(kept.get(number) or _line(log.path, good[number]))

    log.repair(lines, news, write)


def _line(path: Path, entry: Entry) -> bytes:
    """The line of an entry."""
    line = _bytes(path, entry.offset, entry.length)
    if decoded(line, path, entry.offset) is None:
        raise StorageError(
            f"{path}: the line at byte {entry.offset} changed while it was being repaired; is the "
            "disk failing? Copy the study elsewhere, then try again"
        )
    return line


def _bytes(path: Path, offset: int, length: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)

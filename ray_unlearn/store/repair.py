"""Repair of a damaged ledger.

What cannot be trusted is set aside, never deleted, and its trials run again. Good lines are
renumbered in a new file, together with events on what was lost. The file replaces the old one whole
or not at all: if the repair is killed at any moment, the study is as damaged as before or repaired,
and a second repair finishes the job.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.store.atomic_write import whole_file
from ray_unlearn.store.event import Event, Note, TrialReopened
from ray_unlearn.store.event_line import Entry, decoded, encoded, renumbered
from ray_unlearn.store.lease import Lease
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.location import SPEC, StudyFiles
from ray_unlearn.store.promises import table_fault
from ray_unlearn.store.record import Record
from ray_unlearn.store.repair_plan import RepairPlan, plan_repair
from ray_unlearn.store.scan import Scan, copied_header, events_file, scanned, write_acknowledged
from ray_unlearn.store.separate_studies import separate_studies, set_aside
from ray_unlearn.store.table import result_table, write_table


def repair(study_folder: Path, environment: Environment = REAL) -> list[str]:
    """Repair the ledger of a study.

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
    with _held(folder, environment) as lease:
        separated = separate_studies(folder, environment)
        header, scan = _looked_at(folder)
        plan = plan_repair(folder, scan)
        if plan.texts or plan.reopened:
            _carry_out(plan, header, folder, lease, environment)
    known = sum(isinstance(entry.event, Note) for entry in plan.entries)
    # Opening cuts a torn end, and proves that the ledger opens.
    with Ledger.open(folder, environment=environment) as ledger:
        if separated:
            ledger.append(Note(f"repair: {separated}"))
        done = ledger.record.notes[known:]
        return done + _table_repaired(folder / "rows.parquet", ledger.record)


def repair_remote(place: StudyFiles) -> list[str]:
    """`repair` for a study in an object store.

    The working copy is repaired and then replaces the study's ledger. The former segments stay in
    the store but no longer count.

    Raises:
        UserError, StorageError: as in `repair`.
    """
    with place.borrowed():
        done = repair(place.folder, place.environment)
        if done:
            place.replace_ledger()
            place.publish(*(f"ledger/{path.name}" for path in set_aside(place.folder / "ledger")))
            if not (place.folder / SPEC).exists():
                place.remove(SPEC)
        return done


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


@contextmanager
def _held(folder: Path, environment: Environment) -> Iterator[Lease]:
    """The study's lease, as a writer holds it."""
    path = events_file(folder)
    with open(path, "ab") as file:
        lease = Lease.take(folder, file, str(path), environment)
        try:
            yield lease
        finally:
            lease.release()


def _looked_at(folder: Path) -> tuple[bytes, Scan]:
    """The header line, from its copy if need be, and the scan of all lines."""
    try:
        scan = scanned(folder)
    except StorageError:
        header = copied_header(folder)
        return header, scanned(folder, header)
    with open(events_file(folder), "rb") as file:
        return file.readline(), scan


def _carry_out(
    plan: RepairPlan, header: bytes, folder: Path, lease: Lease, environment: Environment
) -> None:
    """Set lines aside, write the new file, and replace the old one with it.

    Raises:
        StorageError: the disk is full, or the study was taken over; the old file is unchanged.
    """
    path = events_file(folder)
    now = environment.now()
    time = now.isoformat(timespec="milliseconds")
    aside = folder / f"damaged-{now:%Y%m%dT%H%M%S%f}Z.jsonl"
    texts = list(plan.texts)
    if plan.aside:
        texts.append(f"what was set aside is kept in {aside.name}")
    texts += [f"trial {number} runs again: {reason}" for number, reason in plan.reopened.items()]
    new: list[Event] = [
        *(TrialReopened(number, reason) for number, reason in plan.reopened.items()),
        *(Note(f"repair: {text}") for text in texts),
    ]
    first = len(plan.entries) + 1
    try:
        if plan.aside:
            with whole_file(aside, environment) as draft:
                _write(draft, (_bytes(path, offset, length) for offset, length in plan.aside))
        with whole_file(path, environment) as draft:
            _write(
                draft,
                [header],
                (_line(path, entry, seq) for seq, entry in enumerate(plan.entries, start=1)),
                (encoded(e, seq, lease.fence, time) for seq, e in enumerate(new, start=first)),
            )
            lease.check()
        # After the file: a number that is too high is a false alarm, one that is too low would hide
        # a loss.
        write_acknowledged(folder, len(plan.entries) + len(new))
    except OSError as error:
        raise StorageError(
            f"{path}: not repaired: {error}; free some space, then try again"
        ) from None


def _line(path: Path, entry: Entry, seq: int) -> bytes:
    """The line of an entry under its new number."""
    line = _bytes(path, entry.offset, entry.length)
    if decoded(line, path, entry.offset, checked=False) is None:
        raise StorageError(
            f"{path}: the line at byte {entry.offset} changed while it was being repaired; is the "
            "disk failing? Copy the study elsewhere, then try again"
        )
    return renumbered(line, seq)


def _write(path: Path, *parts: Iterable[bytes]) -> None:
    with open(path, "wb") as file:
        for part in parts:
            file.writelines(part)


def _bytes(path: Path, offset: int, length: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)

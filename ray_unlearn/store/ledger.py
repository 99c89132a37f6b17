"""The study's append-only record.

Everything else (status, resume, tables, best trial) is derived from it.

`ledger/events.jsonl` holds one JSON object per line (see `entry`); each is on disk (fsync) before
`append` returns. The kinds, with the class of each in `event`:

    header     first line: schema and code versions, resolved spec, digests; `header.json` is a copy
    session    a process began to write: host, pid, versions
    amendment  the study was extended: trials_per_method
    baseline   metrics of the vanilla or the exactly retrained model
    trial      a trial was asked for: number, trial_id, config
    row        an evaluation row: number, trial_id, attempt, update, metrics
    artefact   the weights of the best row so far were kept: number, update, file, sha256, bytes;
               with an empty file name: they are gone
    outcome    a trial ended: number, trial_id, attempt, status, reason
    reopened   an outcome does not count any more: number, reason
    note       anything an operator should see (a lane restarted, a torn line was cut)
    opened     a process took the study over (in object stores): host, pid
    lost       stands for an event that was damaged or gone
    withdrawn  events that contradict others do not count: numbers

Beside it `acknowledged` holds the number of the last event that `append` returned for: a file that
was cut at the end of a line looks whole, and only this tells that something is gone. pandas reads
the events: `pd.read_json("ledger/events.jsonl", lines=True)`.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.store.event import Event, Header, Note
from ray_unlearn.store.event_line import decoded, encoded
from ray_unlearn.store.folder_log import FolderLog, Log
from ray_unlearn.store.record import Record
from ray_unlearn.store.scan import (
    Scan,
    acknowledged_file,
    events_file,
    header_file,
    restore_header_copy,
    scanned,
)


class Ledger:
    """The one writer of a study's events, a context manager that holds its log while open.

    `record` is always what a reader of the file would see.
    """

    def __init__(self, log: Log, record: Record, environment: Environment = REAL) -> None:
        self.folder = log.path.parent
        self._log = log
        self._environment = environment
        self.record = record
        self._closed = False
        self.found_at_opening: list[str] = []
        """What opening found and repaired, in words; also in the ledger, as notes."""
        self._acknowledged = os.open(
            acknowledged_file(self.folder), os.O_WRONLY | os.O_CREAT, 0o644
        )

    @classmethod
    def create(cls, folder: Path, header: Header, environment: Environment = REAL) -> Self:
        """Start a ledger in `folder`, which is made if missing, with its header line.

        Raises:
            StorageError: the folder already has a ledger, or cannot be written.
        """
        return cls.begun(FolderLog(folder, new=True, environment=environment), header, environment)

    @classmethod
    def begun(cls, log: Log, header: Header, environment: Environment = REAL) -> Self:
        """Start a ledger in an empty log.

        Raises:
            StorageError: another process was quicker, or the log cannot be written.
        """
        ledger = cls(log, Record(header), environment)
        try:
            # The copy first: a header may be damaged as soon as it is there.
            copy = encoded(header, 0, log.fence)
            write_whole(header_file(ledger.folder), copy, environment)
            ledger._write(header)
            opening = log.opening()
            if opening is not None:
                ledger.append(opening)
        except OSError as error:
            ledger.close()
            raise StorageError(
                f"{header_file(ledger.folder)}: cannot be written: {error}"
            ) from None
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def open(cls, folder: Path, environment: Environment = REAL) -> Self:
        """Open the ledger in a folder for appending (see `continued`).

        Raises:
            StorageError: no ledger there, another process holds it, a line before the last is
                damaged, or the schema is newer than this code.
        """
        return cls.continued(FolderLog(folder, environment=environment), environment)

    @classmethod
    def continued(cls, log: Log, environment: Environment = REAL) -> Self:
        """Append to the events of a log.

        What a crash leaves behind is repaired and noted: a torn last line (the process died inside
        a write) is cut; events that were acknowledged and are gone from the end are named, and will
        be computed again.

        Raises:
            StorageError: as in `open`.
        """
        try:
            while True:
                scan = scanned(log.path.parent)
                record = concluded(scan, log.path)  # first: a damaged study stays its holder's
                if log.take_over(scan):
                    break
            restore_header_copy(log.path.parent, environment)
            ledger = cls(log, record, environment)
        except OSError as error:
            log.close()
            raise StorageError(f"{log.path}: cannot be opened: {error}") from None
        except BaseException:
            log.close()
            raise
        ledger.found_at_opening = list(_end_of_file(scan, log.acknowledged))
        try:
            for text in ledger.found_at_opening:
                ledger.append(Note(text))
        except StorageError:
            ledger.close()
            raise
        return ledger

    @property
    def fence(self) -> int:
        """The fencing token of this writer."""
        return self._log.fence

    @property
    def held(self) -> bool:
        """False once another process has taken the study over."""
        try:
            self._log.check()
        except StorageError:
            return False
        return True

    def append(self, event: Event) -> None:
        """Write one event; it is on disk when this returns, and only then part of `record`.

        Raises:
            StorageError: the disk is full, the log cannot be written, or another process has taken
                the study over. Nothing that was there before is lost.
        """
        self._write(event, self._environment.now().isoformat(timespec="milliseconds"))

    def _write(self, event: Event, time: str = "") -> None:
        seq = self._log.next_seq
        line = encoded(event, seq, self.fence, time)
        offset = self._log.append(seq, line)
        with suppress(OSError):  # the mark is a witness, not the record
            os.pwrite(self._acknowledged, b"%020d\n" % seq, 0)
        if not isinstance(event, Header):
            stored = decoded(line, self._log.path, offset)
            assert stored is not None
            self.record.apply(stored.event)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the study back."""
        if not self._closed:
            self._closed = True
            self._log.close()
            os.close(self._acknowledged)


def read_ledger(folder: Path) -> Record:
    """What the ledger says, without locking or repairing it: safe beside a running study.

    Raises:
        StorageError: as `Ledger.open`, but a torn last line is left out silently.
    """
    path = events_file(folder)
    if not path.exists():
        raise StorageError(f"{path}: no ledger there; is this a study directory?")
    return concluded(scanned(folder), path)


def concluded(scan: Scan, path: Path) -> Record:
    """The record of a scan that has no damage before its end.

    Raises:
        StorageError: damage, with line numbers and what is gone.
    """
    if scan.damaged:
        first = scan.damaged[0]
        what = "" if len(scan.damaged) == 1 else f" (and {len(scan.damaged) - 1} more)"
        raise StorageError(
            f"{path}: line {first.line}{what} is damaged: {first.text!r}; restore the file from a "
            f"copy, or `ray-unlearn verify {path.parent.parent} --repair` sets it aside and lets "
            "its trials run again"
        )
    if scan.missing:
        gaps = ", ".join(f"{first} to {last}" for first, last in scan.missing)
        raise StorageError(
            f"{path}: events {gaps} are missing; restore the file from a copy, or "
            f"`ray-unlearn verify {path.parent.parent} --repair` lets their trials run again"
        )
    record = Record(scan.header)
    for entry in scan.entries[1:]:
        record.apply(entry.event)
    return record


def _end_of_file(scan: Scan, acknowledged: int) -> Iterator[str]:
    """What there is to say about the end of the file."""
    lost = acknowledged - scan.next_seq + 1
    if scan.torn_bytes and lost <= 0:
        yield (
            f"cut a torn last line of {scan.torn_bytes} bytes; nothing that was acknowledged is "
            "lost"
        )
    elif lost > 0:
        torn = f", and a torn line of {scan.torn_bytes} bytes was cut" if scan.torn_bytes else ""
        yield (
            f"events {scan.next_seq} to {acknowledged} had been acknowledged and are gone from the "
            f"end of the file{torn}: what they recorded is computed again"
        )
    if scan.stale:
        yield f"{len(scan.stale)} event(s) of a process that had lost the study do not count"

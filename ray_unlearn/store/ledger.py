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

Beside it `acknowledged` holds the number of the last event that `append` returned for: a file that
was cut at the end of a line looks whole, and only this tells that something is gone. pandas reads
the events: `pd.read_json("ledger/events.jsonl", lines=True)`.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.atomic_write import sync, write_whole
from ray_unlearn.store.event import Event, Header, Note
from ray_unlearn.store.event_line import decoded, encoded
from ray_unlearn.store.lease import Lease
from ray_unlearn.store.record import Record
from ray_unlearn.store.scan import (
    Scan,
    acknowledged_file,
    events_file,
    header_file,
    read_acknowledged,
    restore_header_copy,
    scanned,
)
from ray_unlearn.store.working_copy import RemoteWriter


class WriteLease(Protocol):
    """The right to write a study: a `Lease`, or what stands for it in an object store."""

    fence: int

    def outrank(self, fence: int) -> None:
        """Make sure that the fence is higher than the highest in the ledger."""

    def check(self) -> None:
        """Raise a StorageError when the study is another process's."""

    def release(self) -> None:
        """Give it back."""


class Ledger:
    """The one writer of a study's events, a context manager that holds its lease while open.

    `record` is always what a reader of the file would see.
    """

    def __init__(
        self,
        folder: Path,
        file: IO[bytes],
        record: Record,
        lease: WriteLease,
        next_seq: int,
        writer: RemoteWriter | None = None,
        environment: Environment = REAL,
    ) -> None:
        self.folder = folder
        self._environment = environment
        self._writer = writer
        self.record = record
        self._file = file
        self._lease = lease
        self._seq = next_seq
        self._torn = False
        """Part of an event that could not be written is at the end of the file, and stays there."""
        self.found_at_opening: list[str] = []
        """What opening found and repaired, in words; also in the ledger, as notes."""
        self._acknowledged = os.open(acknowledged_file(folder), os.O_WRONLY | os.O_CREAT, 0o644)

    @classmethod
    def create(
        cls,
        folder: Path,
        header: Header,
        writer: RemoteWriter | None = None,
        environment: Environment = REAL,
    ) -> Self:
        """Start a ledger in `folder` with its header line.

        Args:
            folder: made if missing.
            header: first event.
            writer: of a study whose folder is only a working copy.

        Raises:
            StorageError: the folder already has a ledger, or cannot be written.
        """
        path = events_file(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # The ledger holds it while it is open.
            file = open(path, "xb", buffering=0)  # noqa: SIM115
        except FileExistsError:
            raise StorageError(
                f"{path} exists; continue that study with `ray-unlearn resume`"
            ) from None
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error}") from None
        lease = _taken(folder, file, environment) if writer is None else writer.lease
        ledger = cls(folder, file, Record(header), lease, 0, writer, environment)
        try:
            line = ledger._write(header)
            write_whole(header_file(folder), line, environment)  # the folder is synced with it
            for parent in (folder.parent, folder.parent.parent):
                sync(parent, environment)
        except OSError as error:
            ledger.close()
            raise StorageError(f"{header_file(folder)}: cannot be written: {error}") from None
        except StorageError:
            ledger.close()
            raise
        return ledger

    @classmethod
    def open(
        cls, folder: Path, writer: RemoteWriter | None = None, environment: Environment = REAL
    ) -> Self:
        """Open for appending.

        What a crash leaves behind is repaired and noted: a torn last line (the process died inside
        a write) is cut; events that were acknowledged and are gone from the end are named, and will
        be computed again.

        Raises:
            StorageError: no ledger there, another process holds it, a line before the last is
                damaged, or the schema is newer than this code.
        """
        path = events_file(folder)
        if not path.exists():
            raise StorageError(f"{path}: no ledger there; is this a study directory?")
        # Appends never overwrite, whatever others do.
        file = open(path, "ab", buffering=0)  # noqa: SIM115
        lease = _taken(folder, file, environment) if writer is None else writer.lease
        try:
            acknowledged = read_acknowledged(folder)
            scan = scanned(folder)
            record = concluded(scan, path)
            if scan.torn_bytes:
                file.truncate(scan.good_bytes)
                file.seek(0, os.SEEK_END)
            lease.outrank(scan.entries[-1].fence)
            restore_header_copy(folder, environment)
            ledger = cls(folder, file, record, lease, scan.next_seq, writer, environment)
        except BaseException:
            lease.release()
            file.close()
            raise
        ledger.found_at_opening = list(_end_of_file(scan, acknowledged))
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
        return self._lease.fence

    @property
    def held(self) -> bool:
        """False once another process has taken the study over."""
        try:
            self._lease.check()
        except StorageError:
            return False
        return True

    def append(self, event: Event) -> None:
        """Write one event; it is on disk when this returns, and only then part of `record`.

        Raises:
            StorageError: the disk is full, the file cannot be written, or another process has taken
                the study over. Nothing that was there before is lost.
        """
        line = self._write(event, self._environment.now().isoformat(timespec="milliseconds"))
        path = events_file(self.folder)
        stored = decoded(line, path, self._file.tell() - len(line))
        assert stored is not None
        self.record.apply(stored.event)

    def _write(self, event: Event, time: str = "") -> bytes:
        self._lease.check()
        if self._torn:
            raise StorageError(
                f"{events_file(self.folder)}: an earlier event could not be written; "
                "`ray-unlearn resume` goes on"
            )
        line = encoded(event, self._seq, self.fence, time)
        start = self._file.tell()
        try:
            _write_all(self._file, line)
            self._environment.fsync(self._file.fileno())
        except OSError as error:
            self._take_back(start)
            raise StorageError(
                f"{events_file(self.folder)}: {error}; free some space, then `ray-unlearn resume`"
            ) from None
        if self._writer is not None:
            try:
                self._writer.append(self._seq, line)
            except StorageError:
                self._take_back(start)
                raise
        with suppress(OSError):  # the mark is a witness, not the record
            os.pwrite(self._acknowledged, b"%020d\n" % self._seq, 0)
        self._seq += 1
        return line

    def _take_back(self, start: int) -> None:
        """Cut what was written from `start` on, so that the next event begins there.

        Truncating leaves the position where it is: the next write would fill the gap with zeros.
        """
        try:
            self._file.truncate(start)
            self._file.seek(start)
        except OSError:  # the torn end is cut when the ledger is opened again
            self._torn = True

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
        """Give lease and lock back."""
        if not self._file.closed:
            self._lease.release()
            os.close(self._acknowledged)
            self._file.close()


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


def _write_all(file: IO[bytes], line: bytes) -> None:
    """Write a line without a buffer.

    A line that did not fit must not wait in a buffer and follow the next one to disk.

    Raises:
        OSError: the disk is full; a part may have been written.
    """
    rest = memoryview(line)
    while rest:
        rest = rest[file.write(rest) :]


def _taken(folder: Path, file: IO[bytes], environment: Environment) -> Lease:
    try:
        return Lease.take(folder, file, str(events_file(folder)), environment)
    except StorageError:
        file.close()
        raise

"""A study's log in a folder: lines appended to one file, by one process at a time.

On one machine an advisory lock (`flock`) decides who writes, which the kernel drops with the
process. Between machines, and on a file system without locks, the lease's age decides. Each
holder's fence is one higher than the last one's, and is in each line that it writes. A former
holder that wakes up finds another fence in the lease and stops; a line that it had half written by
then carries its old fence, and readers leave it out (Kleppmann 2016, "How to do distributed
locking", where the fence is called fencing token).
"""

import fcntl
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.atomic_write import sync, whole_file
from ray_unlearn.store.event import LedgerOpened
from ray_unlearn.store.lease import LEASE_FILE, Lease, LeasePlace
from ray_unlearn.store.scan import Scan, events_file, read_acknowledged
from ray_unlearn.store.storage import FolderStorage


class Log(Protocol):
    """Checked lines by number, each durable before `append` returns, written by one process."""

    path: Path
    """File of all lines, from which rows are read later."""
    next_seq: int
    """Number of the next event, once the log is taken over."""
    acknowledged: int
    """Number of the last event that is known to have been acknowledged before; -1 if unknown."""

    @property
    def fence(self) -> int:
        """The writer's fence, which `append` expects in each line."""

    def opening(self) -> LedgerOpened | None:
        """The event that follows a new study's header, if the log needs one."""

    def append(self, seq: int, line: bytes) -> int:
        """Write the line of event `seq`.

        Returns:
            Byte of `path` at which the line begins.

        Raises:
            StorageError: it could not be written, or another process has taken the study over.
                Nothing that was there before is lost.
        """

    def take_over(self, scan: Scan) -> bool:
        """Make the log this process's own, after all that it has read.

        Args:
            scan: the file's lines.

        Returns:
            False if there are more events by now; they are in the file.

        Raises:
            StorageError: another process has taken the study over, or the storage fails.
        """

    def repair(
        self, lost: Mapping[int, bytes], news: Sequence[bytes], write: Callable[[Path], None]
    ) -> None:
        """Replace damaged and lost events, and append what there is to say about it.

        If the process is killed, the log is as damaged as before, or repaired.

        Args:
            lost: the lines that take the events' places, by number.
            news: lines to append, from `next_seq` on.
            write: writes the file of lines anew, without the news.

        Raises:
            OSError: the disk is full, or the storage fails.
            StorageError: another process has taken the study over.
        """

    def check(self) -> None:
        """Check that this process may still write.

        Raises:
            StorageError: another process has taken the study over.
        """

    def close(self) -> None:
        """Give the study back."""


class LinesFile:
    """The file of lines, written at its end."""

    def __init__(self, path: Path, mode: str, environment: Environment = REAL) -> None:
        self.path = path
        self._environment = environment
        if mode == "xb":
            open(path, mode).close()
        # Appends never overwrite, whatever others do. No buffer: a line that did not fit must not
        # wait and follow the next one to disk.
        self.file: IO[bytes] = open(path, "ab+", buffering=0)  # noqa: SIM115
        self._torn = False
        """Part of a line that could not be written is at the end, and stays there."""

    def append(self, line: bytes) -> int:
        """Write a line and put it on disk.

        Returns:
            Byte at which the line begins, whoever else has written to the file.

        Raises:
            StorageError: the disk is full or fails; what was written of the line is cut again.
        """
        if self._torn:
            raise StorageError(
                f"{self.path}: an earlier event could not be written; `ray-unlearn resume` goes on"
            )
        start = os.fstat(self.file.fileno()).st_size
        try:
            _write_all(self.file, line)
            self._environment.fsync(self.file.fileno())
        except OSError as error:
            self.cut(start, line)
            raise StorageError(
                f"{self.path}: {error}; free some space, then `ray-unlearn resume`"
            ) from None
        return self.file.tell() - len(line)

    @property
    def is_current(self) -> bool:
        """Whether this is still the file at its path, which a repair replaces."""
        return os.path.samestat(os.fstat(self.file.fileno()), self.path.stat())

    def tail(self, start: int) -> bytes:
        """What is in the file from `start` on."""
        handle = self.file.fileno()
        return os.pread(handle, os.fstat(handle).st_size - start, start)

    def cut(self, start: int, torn: bytes) -> None:
        """Cut what is in the file from `start` on, so that the next line begins there.

        Nothing is cut if that is not the beginning of `torn`: then another process, which has the
        study by now, has written there.
        """
        try:
            if torn.startswith(self.tail(start)):
                self.file.truncate(start)
            else:
                self._torn = True
        except OSError:  # the torn end is cut when the study is opened again
            self._torn = True

    def close(self) -> None:
        """Close the file, which drops its lock."""
        self.file.close()


def _write_all(file: IO[bytes], line: bytes) -> None:
    """Write a line without a buffer.

    Raises:
        OSError: the disk is full; a part may have been written.
    """
    rest = memoryview(line)
    while rest:
        rest = rest[file.write(rest) :]


class FolderLog:
    """A `Log` in `folder`; lock and lease are held until `close`."""

    def __init__(self, folder: Path, *, new: bool = False, environment: Environment = REAL) -> None:
        """Take the study.

        Args:
            folder: the ledger's folder.
            new: begin a study; of many processes that try, one succeeds.
            environment: clock, host, threads and disk.

        Raises:
            StorageError: the study exists already (`new`) or does not, another process holds it, or
                the folder cannot be written.
        """
        self.path = events_file(folder)
        self._folder = folder
        self._environment = environment
        self.acknowledged = -1
        self.next_seq = 0
        self._torn: tuple[int, bytes] | None = None
        """A torn line and where it begins; it is cut before the next one."""
        if not new and not self.path.exists():
            raise StorageError(f"{self.path}: no ledger there; is this a study directory?")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lines = LinesFile(self.path, "xb" if new else "ab", environment)
            # Also of a study that is there: who began or repaired it may have died before this.
            for parent in (folder, folder.parent, folder.parent.parent):
                sync(parent, environment)
        except FileExistsError:
            raise StorageError(
                f"{self.path} exists; continue that study with `ray-unlearn resume`"
            ) from None
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written: {error}") from None
        try:
            self._lease = self._taken()
            self.acknowledged = read_acknowledged(folder)
            self._refuse_if_replaced()
        except BaseException:
            self._lines.close()
            raise

    def _refuse_if_replaced(self) -> None:
        """Refuse a file that was replaced between its opening and the taking of its lock."""
        try:
            current = self._lines.is_current
        except OSError:  # removed
            current = False
        if not current:
            self._lease.stop()
            raise StorageError(
                f"{self.path}: another process has repaired this study at the same moment; try "
                "again"
            )

    def opening(self) -> None:
        """See `Log`."""

    def _taken(self) -> Lease:
        storage = FolderStorage(self._folder, self._environment)
        place = LeasePlace(storage, LEASE_FILE, self._environment)
        try:
            fcntl.flock(self._lines.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError:
            raise StorageError(
                f"{self.path}: another process is writing this study: "
                f"{place.described(place.holder())}"
            ) from None
        except OSError:  # a file system without locks: there the age decides on one machine too
            locked = False
        before = place.refuse_if_held(locked=locked)
        try:
            return Lease(place, 1 if before is None else before.fence + 1, self._renewed)
        except OSError as error:
            raise StorageError(f"{self._folder / LEASE_FILE}: cannot be written: {error}") from None

    @property
    def fence(self) -> int:
        """See `Log`."""
        return self._lease.holder.fence

    def _renewed(self, lease: Lease) -> bool:
        if lease.lost:
            return False
        # Touched, not written: by now it may be another holder's.
        os.utime(self._folder / LEASE_FILE)
        return True

    def take_over(self, scan: Scan) -> bool:
        """See `Log`: outranks the last line's fence, and finds where to go on.

        The lease, with its count, may have been lost before it was taken.
        """
        try:
            self.check()
            self._lease.outrank(scan.entries[-1].fence)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written: {error}") from None
        torn = self._lines.tail(scan.good_bytes) if scan.torn_bytes else b""
        self._torn = (scan.good_bytes, torn) if torn else None
        self.next_seq = scan.next_seq
        return True

    def append(self, seq: int, line: bytes) -> int:
        """See `Log`."""
        self.check()
        if self._torn is not None:
            self._lines.cut(*self._torn)
            self._torn = None
        offset = self._lines.append(line)
        self.next_seq = seq + 1
        # Whoever takes over writes the lease first and reads then. So if it is still ours, the next
        # holder reads this line.
        self.check()
        return offset

    def repair(
        self, lost: Mapping[int, bytes], news: Sequence[bytes], write: Callable[[Path], None]
    ) -> None:
        """See `Log`: a new file replaces the old one."""
        with whole_file(self.path, self._environment) as draft:
            write(draft)
            with open(draft, "ab") as file:
                file.writelines(news)
            lines = LinesFile(draft, "ab", self._environment)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lines.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.check()
        lines.path = self.path
        self._lines.close()
        self._lines, self._torn = lines, None
        self.next_seq += len(news)

    def check(self) -> None:
        """See `Log`."""
        if self._lease.lost:
            now = self._lease.place.holder()
            raise StorageError(
                f"{self._folder / LEASE_FILE}: this process has lost the study to "
                f"{self._lease.place.described(now)}; it stops here, and what the other one writes "
                "counts"
            )

    def close(self) -> None:
        """See `Log`."""
        self._lease.stop()
        self._lines.close()

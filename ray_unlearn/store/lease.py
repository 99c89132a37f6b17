"""The lease: the right of one process at a time to write a study.

`ledger/lease.json` names the holder. On one machine an advisory lock (`flock`) decides, which the
kernel drops with the process. Between machines, and on a file system without locks, the file's age
decides: the holder touches it every few seconds, and after `EXPIRY_S` of silence another process
may take the study over. Each holder's fence is one higher than the last one's. A former holder that
wakes up reads the file before it appends, finds a fence that is not its own, and stops. A line that
it had half written by then carries its old fence, and readers leave it out (Kleppmann 2016, "How to
do distributed locking", where the fence is called fencing token).
"""

import contextlib
import fcntl
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.given_file import given_bytes, json_value
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.store.typed_fields import has_its_types

HEARTBEAT_S = 5.0
EXPIRY_S = 60.0
LEASE_FILE = "lease.json"


@dataclass(frozen=True)
class Holder:
    """The holder of a lease, as its file describes it."""

    fence: int
    """`token` on disk."""
    host: str
    pid: int
    started: float
    """Seconds since the epoch, by the holder's clock."""
    released: bool = False

    def as_json(self, **more: object) -> bytes:
        """The content of a lease."""
        content = {
            "token": self.fence,
            "host": self.host,
            "pid": self.pid,
            "started": self.started,
            "released": self.released,
        }
        return json.dumps(content | more).encode()

    @classmethod
    def from_json(cls, content: bytes) -> "Holder":
        """The holder that a lease names.

        Raises:
            ValueError, KeyError, TypeError: another version wrote it.
        """
        found = json_value(content)
        names = ("token", "host", "pid", "started", "released")
        holder = cls(*(found[name] for name in names if name != "released" or name in found))
        if not has_its_types(holder):
            raise TypeError("a value of another type")
        return holder


class Lease:
    """The right to write in `folder`, held from `take` to `release`."""

    def __init__(self, folder: Path, holder: Holder, environment: Environment = REAL) -> None:
        self.fence = holder.fence
        self._path = folder / LEASE_FILE
        self._holder = holder
        self._environment = environment
        self._stop = environment.event()
        self._beat = environment.start_thread(self._renew, "lease")

    @classmethod
    def take(
        cls, folder: Path, file: IO[bytes], what: str, environment: Environment = REAL
    ) -> "Lease":
        """Lock `file` (in `folder`) and become the holder.

        Args:
            folder: the folder of `lease.json`.
            file: locked for as long as it is open.
            what: name of what is locked, for errors.
            environment: clock, host and threads.

        Raises:
            StorageError: another process holds the lease; the message has host, process and age.
        """
        before = read_holder(folder)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(
                f"{what}: another process is writing this study: "
                f"{describe_holder(folder, before, environment)}"
            ) from None
        except OSError:  # a file system without locks: there the age decides on one machine too
            locks = False
        else:
            locks = True
        here = before is not None and before.host == environment.host
        if before is not None and not before.released and not (here and locks):
            silent, other = _silence_s(folder, environment), "process" if here else "host"
            if silent < EXPIRY_S:
                raise StorageError(
                    f"{what}: another {other} is writing this study: "
                    f"{describe_holder(folder, before, environment)}; if that {other} is dead, "
                    f"try again in {EXPIRY_S - silent:.0f} s"
                )
        fence = 1 if before is None else before.fence + 1
        holder = Holder(fence, environment.host, environment.pid, environment.time())
        try:
            write_whole(folder / LEASE_FILE, holder.as_json(), environment)
        except OSError as error:
            raise StorageError(f"{folder / LEASE_FILE}: cannot be written: {error}") from None
        return cls(folder, holder, environment)

    def outrank(self, fence: int) -> None:
        """Make the fence higher than `fence`, the highest in the ledger.

        `lease.json`, with its count, may have been lost before this lease was taken. But if another
        process holds the lease by now, that process wrote the higher fence.

        Raises:
            StorageError: this process has lost the study.
        """
        if self.fence <= fence:
            self.check()
            self._holder = replace(self._holder, fence=fence + 1)
            self.fence = fence + 1
            write_whole(self._path, self._holder.as_json(), self._environment)

    def check(self) -> None:
        """Check that this process still holds the lease and may write.

        Raises:
            StorageError: another process holds it.
        """
        now = read_holder(self._path.parent)
        if now is None or now.fence != self.fence:
            raise StorageError(
                f"{self._path}: this process has lost the study to "
                f"{describe_holder(self._path.parent, now, self._environment)}; it stops here, "
                "and what the other one writes counts"
            )

    def release(self) -> None:
        """Give the lease back, if it is still ours."""
        self._stop.set()
        self._beat.join()
        holder = read_holder(self._path.parent)
        if holder is not None and holder.fence == self.fence:
            # On a full disk only the lock, or the lease's age, shows that the study is free.
            with contextlib.suppress(OSError):
                released = replace(self._holder, released=True)
                write_whole(self._path, released.as_json(), self._environment)

    def _renew(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            holder = read_holder(self._path.parent)
            if holder is None or holder.fence != self.fence:
                return
            with contextlib.suppress(OSError):
                os.utime(self._path)


def read_holder(folder: Path) -> Holder | None:
    """The present or last holder of the lease; None if there was none or the file is unreadable."""
    try:
        return Holder.from_json(given_bytes(folder / LEASE_FILE))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def describe_holder(folder: Path, holder: Holder | None, environment: Environment = REAL) -> str:
    """The holder for people: `process 12 on host a, for 3 min, last heard 2 s ago`."""
    if holder is None:
        return "an unknown process"
    held = max(0.0, environment.time() - holder.started)
    return (
        f"process {holder.pid} on host {holder.host}, for {_duration(held)}, last heard "
        f"{_silence_s(folder, environment):.0f} s ago; wait for it, or stop it first"
    )


def _silence_s(folder: Path, environment: Environment) -> float:
    """Seconds since the lease was touched.

    Both times are by the clock of the file system, because hosts disagree on the time.
    """
    probe = folder / f"clock.{environment.unique_name()}.tmp"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        return max(0.0, now - (folder / LEASE_FILE).stat().st_mtime)
    except OSError:
        return 0.0


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"

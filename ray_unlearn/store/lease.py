"""Who may write a study: one process at a time, told apart by a fencing token.

`ledger/lease.json` names the holder. On one machine an advisory lock (`flock`) decides, which the
kernel drops with the process. Between machines, where a shared file system may not carry locks, the
file's age decides: the holder touches it every few seconds, and after `EXPIRY_S` of silence it may
be taken over. The new holder's token is one higher. The old one, should it wake up, reads the file
before it appends, finds a token that is not its own, and stops; a line that it had half written by
then carries its old token, and readers leave it out (Kleppmann 2016, "How to do distributed
locking").
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from ray_unlearn.spec.errors import StorageError

HEARTBEAT_S = 5.0
EXPIRY_S = 60.0
LEASE_FILE = "lease.json"


@dataclass(frozen=True)
class Holder:
    """What `lease.json` says."""

    token: int
    host: str
    pid: int
    started: float
    """Seconds since the epoch, by the holder's clock."""
    released: bool = False


class Lease:
    """The right to write in `folder`, held from `take` to `release`."""

    def __init__(self, folder: Path, holder: Holder) -> None:
        self.token = holder.token
        self._path = folder / LEASE_FILE
        self._holder = holder
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._beat.start()

    @classmethod
    def take(cls, folder: Path, file: IO[bytes], what: str) -> "Lease":
        """Lock `file` (in `folder`) and become the holder.

        Args:
            folder: where `lease.json` is or will be.
            file: locked for as long as it is open.
            what: named in errors.

        Raises:
            StorageError: somebody else holds it; the message has host, process and age.
        """
        before = read_holder(folder)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StorageError(
                f"{what}: another process is writing this study: {described(folder, before)}"
            ) from None
        if before is not None and not before.released and before.host != socket.gethostname():
            silent = _silence_s(folder)
            if silent < EXPIRY_S:
                raise StorageError(
                    f"{what}: another host is writing this study: {described(folder, before)}; if that host is dead, "
                    f"try again in {EXPIRY_S - silent:.0f} s"
                )
        token = 1 if before is None else before.token + 1
        holder = Holder(token, socket.gethostname(), os.getpid(), time.time())
        try:
            _write(folder, holder)
        except OSError as error:
            raise StorageError(f"{folder / LEASE_FILE}: cannot be written: {error}") from None
        return cls(folder, holder)

    def outrank(self, token: int) -> None:
        """Make the token higher than `token`, the highest in the ledger: `lease.json` may have been
        lost with its count."""
        if self.token <= token:
            self._holder = Holder(**asdict(self._holder) | {"token": token + 1})
            self.token = token + 1
            _write(self._path.parent, self._holder)

    def check(self) -> None:
        """Raises:
        StorageError: the lease is somebody else's by now; nothing may be written any more.
        """
        now = read_holder(self._path.parent)
        if now is None or now.token != self.token:
            raise StorageError(
                f"{self._path}: this process has lost the study to {described(self._path.parent, now)}; it stops here, "
                "and what the other one writes counts"
            )

    def release(self) -> None:
        """Give the lease back, if it is still ours."""
        self._stop.set()
        self._beat.join()
        holder = read_holder(self._path.parent)
        if holder is not None and holder.token == self.token:
            with contextlib.suppress(OSError):  # a full disk: then the lock alone tells, or the age
                _write(self._path.parent, Holder(**asdict(self._holder) | {"released": True}))

    def _keep(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            holder = read_holder(self._path.parent)
            if holder is None or holder.token != self.token:
                return
            with contextlib.suppress(OSError):
                os.utime(self._path)


def read_holder(folder: Path) -> Holder | None:
    """Who holds, or last held, the lease; None when nobody ever did or the file is unreadable."""
    try:
        return Holder(**json.loads((folder / LEASE_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def described(folder: Path, holder: Holder | None) -> str:
    """`process 12 on host a, for 3 min, last heard 2 s ago`."""
    if holder is None:
        return "an unknown process"
    held = max(0.0, time.time() - holder.started)
    return (
        f"process {holder.pid} on host {holder.host}, for {_duration(held)}, "
        f"last heard {_silence_s(folder):.0f} s ago; wait for it, or stop it first"
    )


def _write(folder: Path, holder: Holder) -> None:
    draft = (
        folder / f"{LEASE_FILE}.{uuid.uuid4().hex[:12]}.tmp"
    )  # two hosts may have the same process numbers
    with open(draft, "w") as file:
        json.dump(asdict(holder), file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / LEASE_FILE)


def _silence_s(folder: Path) -> float:
    """Seconds since the lease was touched, both ends by the clock of the file system: hosts
    disagree on the time."""
    probe = folder / f"clock.{uuid.uuid4().hex[:12]}.tmp"
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

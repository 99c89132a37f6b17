"""The lease: who writes a study, and since when.

`ledger/lease.json` names the holder, who touches it every few seconds; after `EXPIRY_S` of silence
another process may take the study over. It spares a second process its work and tells people whom
to stop. What keeps two writers apart is in the log itself: a lock and the fence in a folder (see
`folder_log`), the number of each event in an object store (see `object_log`).
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.given_file import json_value
from ray_unlearn.store.storage import FolderStorage, Storage

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
    acknowledged: int = -1
    """Number of the last event that the holder had acknowledged; -1 if the lease does not say."""

    def as_json(self) -> bytes:
        """The content of a lease."""
        content: dict[str, object] = {
            "token": self.fence,
            "host": self.host,
            "pid": self.pid,
            "started": self.started,
            "released": self.released,
        }
        if self.acknowledged >= 0:
            content["acknowledged"] = self.acknowledged
        return json.dumps(content).encode()

    @classmethod
    def from_json(cls, content: bytes) -> "Holder":
        """The holder that a lease names.

        Raises:
            ValueError, KeyError, TypeError: another version wrote it.
        """
        found = json_value(content)
        fence, host, pid, started = (found[name] for name in ("token", "host", "pid", "started"))
        released, acknowledged = bool(found.get("released")), int(found.get("acknowledged", -1))
        return cls(int(fence), str(host), int(pid), float(started), released, acknowledged)


@dataclass(frozen=True)
class LeasePlace:
    """The place of a lease: its storage, and its name there."""

    storage: Storage
    name: str = f"ledger/{LEASE_FILE}"
    environment: Environment = REAL

    def holder(self) -> Holder | None:
        """The present or last holder; None if there was none or the lease cannot be read."""
        try:
            return Holder.from_json(self.storage.read(self.name))
        except (OSError, ValueError, TypeError, KeyError, OverflowError):
            return None

    def silence_s(self) -> float:
        """Seconds since the lease was touched; 0 if that cannot be found out.

        Both times are by the storage's clock, because hosts disagree on the time.
        """
        probe = f"{self.name}-{self.environment.unique_name()}.tmp"
        try:
            self.storage.write(probe, b"")
            now = self.storage.about(probe).modified
            self.storage.remove(probe)
            return max(0.0, now - self.storage.about(self.name).modified)
        except OSError:
            return 0.0

    def refuse_if_held(self, *, locked: bool = False) -> Holder | None:
        """The last holder, who is gone.

        Args:
            locked: a lock has shown that no process of this host holds the lease.

        Raises:
            StorageError: the holder may be alive; the message has host, process and age.
        """
        holder, here = self.holder(), self.environment
        if holder is None or holder.released:
            return holder
        same = holder.host == here.host
        if same and (locked or not here.is_alive(holder.pid)):
            return holder
        silent, other = self.silence_s(), "process" if same else "host"
        if silent < EXPIRY_S:
            raise StorageError(
                f"{self.storage.url}: another {other} is writing this study: "
                f"{self.described(holder)}; if that {other} is dead, try again in "
                f"{EXPIRY_S - silent:.0f} s"
            )
        return holder

    def described(self, holder: Holder | None) -> str:
        """A holder for people: `process 12 on host a, for 3 min, last heard 2 s ago`."""
        if holder is None:
            return "an unknown process"
        held = max(0.0, self.environment.time() - holder.started)
        return (
            f"process {holder.pid} on host {holder.host}, for {_duration(held)}, last heard "
            f"{self.silence_s():.0f} s ago; wait for it, or stop it first"
        )


def present_holder(folder: Path, environment: Environment = REAL) -> Holder | None:
    """Who holds the lease of the ledger in `folder`, by its age alone; None: nobody.

    Nothing is locked and nothing written: a look must not be in the way of whoever starts.
    """
    holder = LeasePlace(FolderStorage(folder), LEASE_FILE).holder()
    if holder is None or holder.released:
        return None
    if holder.host == environment.host and not environment.is_alive(holder.pid):
        return None
    try:
        silent = environment.time() - (folder / LEASE_FILE).stat().st_mtime
    except OSError:
        return None
    return holder if silent < EXPIRY_S else None


class Lease:
    """The lease in one process's hands, renewed by a thread until `stop`.

    Args:
        place: where it is written.
        fence: the holder's fence.
        renew: called every `HEARTBEAT_S`; False ends the renewals.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, place: LeasePlace, fence: int, renew: Callable[["Lease"], bool]) -> None:
        here = place.environment
        self.place = place
        self.holder = Holder(fence, here.host, here.pid, here.time())
        self._renew = renew
        self._written = b""
        self._stop = here.event()
        self.write()
        self._beat = here.start_thread(self._beats, "lease")

    @property
    def lost(self) -> bool:
        """Whether another process holds the lease now, or it cannot be read."""
        with suppress(OSError):
            if self.place.storage.read(self.place.name) == self._written:
                return False
        now = self.place.holder()
        return now is None or replace(now, acknowledged=-1) != replace(self.holder, acknowledged=-1)

    def write(self) -> None:
        """Make the lease ours.

        Raises:
            OSError: it cannot be written.
        """
        content = self.holder.as_json()
        self.place.storage.write(self.place.name, content)
        self._written = content

    def acknowledged(self, number: int) -> None:
        """Take down the number of the last event; it is written with the next renewal."""
        self.holder = replace(self.holder, acknowledged=number)

    def outrank(self, fence: int) -> None:
        """Make the fence higher than `fence`.

        Raises:
            OSError: it cannot be written.
        """
        if self.holder.fence <= fence:
            self.holder = replace(self.holder, fence=fence + 1)
            self.write()

    def stop(self) -> None:
        """Give the lease back, if it is still ours."""
        self._stop.set()
        self._beat.join()
        if not self.lost:
            self.holder = replace(self.holder, released=True)
            with suppress(OSError):  # then it expires by its age
                self.write()

    def _beats(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with suppress(OSError):
                if not self._renew(self):
                    return


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"

"""Who may write a study in an object store: the lease of `lease`, without locks.

    ledger/lease/00000004-3f2a9c.json       the claim to fencing token 4

A claim is an object that its holder writes again every few seconds; by the store's clock, the age
of the newest claim says whether its holder lives. To claim, see that all claims are of the dead,
write, and list again: of two that claim at once at least one sees the other, for object stores list
what was written (S3 since 2020, Google Cloud Storage, Azure); whoever sees a claim that was not
there before gives way. Even a holder that was wrongly taken for dead does no harm: see `segments`.
"""

import json
import os
import random
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.lease import EXPIRY_S, Holder
from ray_unlearn.store.storage import Storage

CLAIMS = "ledger/lease"
BEAT_S = 10.0
ATTEMPTS = 5


@dataclass(frozen=True)
class Claim:
    """A claim as it is listed."""

    name: str
    token: int
    modified: float


class RemoteLease:
    """The right to write a study in a storage, from `take` to `release`. Beside `lease.Lease` it
    knows how far the ledger was acknowledged: its claim says so, for a ledger in an object store
    has no other witness."""

    def __init__(self, storage: Storage, holder: Holder, name: str, acknowledged: int) -> None:
        self.token = holder.token
        self.acknowledged = acknowledged
        """Number of the last event that is known to be in the store."""
        self._storage = storage
        self._holder = holder
        self._name = name
        self._heard = time.monotonic()
        self._lost = ""
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._beat.start()

    @classmethod
    def take(cls, storage: Storage, outrank: int = 0) -> "RemoteLease":
        """Become the holder.

        Args:
            storage: of the study.
            outrank: the token will be higher: the highest in the ledger, for claims may have been
                lost with their count.

        Raises:
            StorageError: somebody else holds it, or the storage fails.
        """
        try:
            for attempt in range(ATTEMPTS):
                before = claims(storage)
                acknowledged = max((_free(storage, claim) for claim in before), default=-1)
                token = 1 + max([outrank, *(claim.token for claim in before)])
                holder = Holder(token, socket.gethostname(), os.getpid(), time.time())
                name = f"{CLAIMS}/{token:08d}-{uuid.uuid4().hex[:6]}.json"
                storage.write(name, _content(holder, acknowledged))
                known = {name, *(claim.name for claim in before)}
                if all(claim.name in known for claim in claims(storage)):
                    for old in before:
                        storage.remove(old.name)
                    return cls(storage, holder, name, acknowledged)
                storage.remove(name)
                time.sleep(random.uniform(0, 0.5 * 2**attempt))
        except OSError as error:
            raise StorageError(str(error)) from None
        raise StorageError(
            f"{storage.url}: others claim this study at the same moment, again and again; try again"
        )

    def outrank(self, token: int) -> None:
        """See `take`: it is higher already."""
        assert self.token > token

    def check(self) -> None:
        """Raises:
        StorageError: the study is somebody else's by now, or the storage has not been reached for
        so long that it may be.
        """
        if not self._lost and time.monotonic() - self._heard > EXPIRY_S:
            self._lost = f"its storage could not be reached for {EXPIRY_S:.0f} s, so that another process may have taken it"
        if self._lost:
            raise StorageError(
                f"{self._storage.url}: this process has lost the study: {self._lost}; it stops here; "
                f"go on with `ray-unlearn resume {self._storage.url}`"
            )

    def heard(self) -> None:
        """The storage has just taken a write under this lease."""
        self._heard = max(self._heard, time.monotonic() - BEAT_S)

    def release(self) -> None:
        """Give it back."""
        self._stop.set()
        self._beat.join()
        if not self._lost:
            with suppress(OSError):  # then its age will tell
                released = Holder(**asdict(self._holder) | {"released": True})
                self._storage.write(self._name, _content(released, self.acknowledged))

    def _keep(self) -> None:
        while not self._stop.wait(BEAT_S):
            began = time.monotonic()
            try:
                self._storage.write(self._name, _content(self._holder, self.acknowledged))
                above = [claim for claim in claims(self._storage) if claim.token > self.token]
                self._lost = described(self._storage, above[-1]) if above else ""
            except OSError:
                continue  # `check` counts how long
            if self._lost:
                return
            self._heard = began


def claims(storage: Storage) -> list[Claim]:
    """All claims, by token.

    Raises:
        OSError: the storage fails.
    """
    found = []
    for file in storage.files(CLAIMS):
        number = Path(file.name).name.partition("-")[0]
        if number.isdigit():
            found.append(Claim(file.name, int(number), file.modified))
    return sorted(found, key=lambda claim: (claim.token, claim.name))


def newest(storage: Storage) -> Claim | None:
    """The claim with the highest token; None when nobody ever held the study."""
    return next(reversed(claims(storage)), None)


def read_claim(storage: Storage, claim: Claim) -> tuple[Holder | None, int]:
    """The holder that a claim names (None: it has been withdrawn), and the number of the last event
    it had acknowledged (-1: unknown).

    Raises:
        OSError: the storage fails.
    """
    try:
        content = json.loads(storage.read(claim.name))
        acknowledged = int(content.pop("acknowledged", -1))
        return Holder(**content), acknowledged
    except FileNotFoundError:
        return None, -1
    except (ValueError, TypeError):  # of another version: its age tells
        return Holder(claim.token, "of unknown name", 0, 0.0), -1


def age_s(storage: Storage, claim: Claim) -> float:
    """Seconds since a claim was written, by the store's clock."""
    probe = f"{CLAIMS}/clock-{uuid.uuid4().hex[:6]}"
    storage.write(probe, b"")
    now = next(
        (file.modified for file in storage.files(CLAIMS) if file.name == probe), claim.modified
    )
    storage.remove(probe)
    return max(0.0, now - claim.modified)


def described(storage: Storage, claim: Claim) -> str:
    """`process 12 on host a`."""
    holder, _ = read_claim(storage, claim)
    return "an unknown process" if holder is None else f"process {holder.pid} on host {holder.host}"


def _free(storage: Storage, claim: Claim) -> int:
    """Number of the last event that the holder of this claim had acknowledged, if it holds the
    study no more.

    Raises:
        StorageError: it may be alive.
    """
    holder, acknowledged = read_claim(storage, claim)
    if holder is None or holder.released or _died_here(holder):  # none: it has given way
        return acknowledged
    silent = age_s(storage, claim)
    if silent < EXPIRY_S:
        raise StorageError(
            f"{storage.url}: another process is writing this study: {described(storage, claim)}, last heard {silent:.0f} s ago; "
            f"wait for it, or stop it first; if it is dead, try again in {EXPIRY_S - silent:.0f} s"
        )
    return acknowledged


def _died_here(holder: Holder) -> bool:
    """A process of this machine that is no more need not be waited for."""
    if holder.host != socket.gethostname():
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _content(holder: Holder, acknowledged: int) -> bytes:
    return json.dumps(asdict(holder) | {"acknowledged": acknowledged}).encode()

"""The lease of a study in an object store, like `lease` but without locks.

    ledger/lease/00000004-3f2a9c.json       the claim to fence 4

A claim is an object that its holder writes again every few seconds; by the store's clock, the age
of the newest claim shows whether its holder is alive. To claim, a process checks that the holders
of all claims are dead, writes its own, and lists the claims again. If two processes claim at once,
at least one sees the other, because object stores list what was written (S3 since 2020, Google
Cloud Storage, Azure); a process that sees a new claim beside its own gives way. Even a holder that
was wrongly taken for dead does no harm: see `segments`.
"""


from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.given_file import json_value
from ray_unlearn.store.lease import EXPIRY_S, Holder
from ray_unlearn.store.storage import Storage

CLAIMS = "ledger/lease"
BEAT_S = 10.0
ATTEMPTS = 5


@dataclass(frozen=True)
class LeaseClaim:
    """A claim as it is listed."""

    name: str
    fence: int
    modified: float
    """Seconds since the epoch, by the store's clock."""


class RemoteLease:
    """The right to write a study in a storage, from `take` to `release`.

    Unlike `lease.Lease` it records in its claim how far the ledger was acknowledged, because
    nothing else in an object store does.
    """

    def __init__(
        self,
        storage: Storage,
        holder: Holder,
        name: str,
        acknowledged: int,
        environment: Environment = REAL,
    ) -> None:
        self.fence = holder.fence
        self.acknowledged = acknowledged
        """Number of the last event that is known to be in the store."""
        self._storage = storage
        self._holder = holder
        self._name = name
        self._environment = environment
        self._heard = environment.monotonic()
        self._lost = ""
        self._stop = environment.event()
        self._beat = environment.start_thread(self._renew, "lease")

    @classmethod
    def take(
        cls, storage: Storage, outrank: int = 0, environment: Environment = REAL
    ) -> "RemoteLease":
        """Become the holder.

        Args:
            storage: the study's storage.
            outrank: the highest fence in the ledger; the new one is higher, even if claims were
                lost with their count.
            environment: clock, host and threads.

        Raises:
            StorageError: another process holds the lease, or the storage fails.
        """
        try:
            for attempt in range(ATTEMPTS):
                before = claims(storage)
                acknowledged = max(
                    (_free(storage, claim, environment) for claim in before), default=-1
                )
                fence = 1 + max([outrank, *(claim.fence for claim in before)])
                holder = Holder(fence, environment.host, environment.pid, environment.time())
                name = f"{CLAIMS}/{fence:08d}-{environment.unique_name(6)}.json"
                storage.write(name, holder.as_json(acknowledged=acknowledged))
                known = {name, *(claim.name for claim in before)}
                if all(claim.name in known for claim in claims(storage)):
                    for old in before:
                        storage.remove(old.name)
                    return cls(storage, holder, name, acknowledged, environment)
                storage.remove(name)
                environment.sleep(environment.uniform(0, 0.5 * 2**attempt))
        except OSError as error:
            raise StorageError(str(error)) from None
        raise StorageError(
            f"{storage.url}: others claim this study at the same moment, again and again; try again"
        )

    def outrank(self, fence: int) -> None:
        """Check that the fence is higher than `fence`, the highest in the ledger.

        It was higher when the lease was taken. But if this process was suspended between that and
        its first read, another one may have taken the study over and written to it.

        Raises:
            StorageError: this process has lost the study.
        """
        if self.fence <= fence:
            self._lost = (
                f"another process took it over and has written under token {fence}, while this "
                f"one, with token {self.fence}, stood still"
            )
            self.check()

    def check(self) -> None:
        """Make sure that the study is still this process's.

        Raises:
            StorageError: another process has it by now, or may have it because the storage has not
                been reached for too long.
        """
        if not self._lost and self._environment.monotonic() - self._heard > EXPIRY_S:
            self._lost = (
                f"its storage could not be reached for {EXPIRY_S:.0f} s, so that another process "
                "may have taken it"
            )
        if self._lost:
            raise StorageError(
                f"{self._storage.url}: this process has lost the study: {self._lost}; it stops "
                f"here; go on with `ray-unlearn resume {self._storage.url}`"
            )

    def heard(self) -> None:
        """Note that the storage has just accepted a write under this lease."""
        self._heard = max(self._heard, self._environment.monotonic() - BEAT_S)

    def release(self) -> None:
        """Give the lease back."""
        self._stop.set()
        self._beat.join()
        if not self._lost:
            with suppress(OSError):  # then the lease expires by its age
                released = replace(self._holder, released=True)
                self._storage.write(self._name, released.as_json(acknowledged=self.acknowledged))

    def _renew(self) -> None:
        while not self._stop.wait(BEAT_S):
            began = self._environment.monotonic()
            try:
                content = self._holder.as_json(acknowledged=self.acknowledged)
                self._storage.write(self._name, content)
                above = [claim for claim in claims(self._storage) if claim.fence > self.fence]
                self._lost = describe_claimant(self._storage, above[-1]) if above else ""
            except OSError:
                continue  # `check` measures for how long
            if self._lost:
                return
            self._heard = began


def claims(storage: Storage) -> list[LeaseClaim]:
    """All claims, by fence.

    Raises:
        OSError: the storage fails.
    """
    found = []
    for file in storage.files(CLAIMS):
        number = Path(file.name).name.partition("-")[0]
        if number.isdigit():
            found.append(LeaseClaim(file.name, int(number), file.modified))
    return sorted(found, key=lambda claim: (claim.fence, claim.name))


def newest_claim(storage: Storage) -> LeaseClaim | None:
    """The claim with the highest fence; None if no process ever held the study."""
    return next(reversed(claims(storage)), None)


def read_claim(storage: Storage, claim: LeaseClaim) -> tuple[Holder | None, int]:
    """The holder that a claim names, and the number of the last event it had acknowledged.

    Returns:
        None as the holder if the claim has been withdrawn; -1 as the number if it is unknown.

    Raises:
        OSError: the storage fails.
    """
    try:
        content = storage.read(claim.name)
        return Holder.from_json(content), int(json_value(content).get("acknowledged", -1))
    except FileNotFoundError:
        return None, -1
    except (ValueError, TypeError, KeyError):  # written by another version: its age decides
        return Holder(claim.fence, "of unknown name", 0, 0.0), -1


def claim_age_s(storage: Storage, claim: LeaseClaim, environment: Environment = REAL) -> float:
    """Seconds since a claim was written, by the store's clock."""
    probe = f"{CLAIMS}/clock-{environment.unique_name(6)}"
    storage.write(probe, b"")
    now = next(
        (file.modified for file in storage.files(CLAIMS) if file.name == probe), claim.modified
    )
    storage.remove(probe)
    return max(0.0, now - claim.modified)


def describe_claimant(storage: Storage, claim: LeaseClaim) -> str:
    """The holder that a claim names, for people: `process 12 on host a`."""
    holder, _ = read_claim(storage, claim)
    return "an unknown process" if holder is None else f"process {holder.pid} on host {holder.host}"


def _free(storage: Storage, claim: LeaseClaim, environment: Environment) -> int:
    """Number of the last event that the holder of a claim acknowledged, if the claim is free.

    Raises:
        StorageError: the holder may be alive.
    """
    holder, acknowledged = read_claim(storage, claim)
    # None: the holder has given way.
    if holder is None or holder.released or _died_here(holder, environment):
        return acknowledged
    silent = claim_age_s(storage, claim, environment)
    if silent < EXPIRY_S:
        raise StorageError(
            f"{storage.url}: another process is writing this study: "
            f"{describe_claimant(storage, claim)}, last heard {silent:.0f} s ago; wait for it, or "
            f"stop it first; if it is dead, try again in {EXPIRY_S - silent:.0f} s"
        )
    return acknowledged


def _died_here(holder: Holder, environment: Environment) -> bool:
    """Whether the holder was a process of this machine that no longer exists."""
    return holder.host == environment.host and not environment.is_alive(holder.pid)

"""A study in an object store."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from log_world import LogWorld
from machines import Program
from oracle import event_of
from simulated_store import Client, ObjectStore

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store import object_events, object_log
from ray_unlearn.store.follow import LedgerFollower
from ray_unlearn.store.location import StudyFiles
from ray_unlearn.store.object_storage import ObjectStorage
from ray_unlearn.store.repair import repair_remote
from ray_unlearn.store.scan import events_file
from ray_unlearn.store.working_copy import WorkingCopy

URL = "s3://bucket/study"
RUNS = (16, 4)
"""As `object_events.RUNS`, for studies of a hundred events."""
COUNTED = (object_events.EVENTS, object_events.JOINED)
"""Objects that can be damaged."""


class ObjectWorld(LogWorld):
    """See `LogWorld`."""

    rates: ClassVar[Mapping[str, float]] = {
        "stopped before": 0.01,
        "stopped after": 0.01,
        "error before": 0.03,
        "error after": 0.03,
        "slow": 0.01,
        "stuck": 0.02,
        "killed before": 0.005,
        "killed after": 0.01,
    }
    chaos: ClassVar[Mapping[str, int]] = {
        "killed": 6,
        "paused": 4,
        "host cut off": 4,
        "clock jumped": 2,
        "host lost": 1,
        "damaged": 2,
    }

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.store = ObjectStore(self, retries=self.random.choice([0, 1, 3]))
        self._folders = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        with (
            mock.patch.object(object_events, "RUNS", RUNS),
            mock.patch.object(object_log, "RUNS", RUNS),
        ):
            yield

    def storage(self, program: Program) -> ObjectStorage:
        """The store, as this process reaches it."""
        return ObjectStorage(URL, program, Client(self.store, program))

    def place(self, program: Program) -> StudyFiles:
        return StudyFiles(URL, self._scratch(), self.storage(program), program)

    def _scratch(self) -> Path:
        """A new folder for a working copy."""
        self._folders += 1
        folder = self.root / f"{self._folders}" / "study"
        folder.mkdir(parents=True)
        return folder

    def repair(self, program: Program) -> list[str]:
        return repair_remote(self.place(program))

    def remove(self) -> None:
        self.store.objects.clear()

    def read(self, program: Program) -> None:
        copy = WorkingCopy(self.storage(program), self._scratch(), program)
        follower = LedgerFollower(copy.folder / "ledger")
        while True:
            program.sleep(self.random.expovariate(1 / 40))
            expected, began = list(self.oracle.acknowledged), self.now
            try:
                copy.refresh()
                if not events_file(copy.folder / "ledger").exists():
                    continue
                record = follower.poll()[0]
            except StorageError as error:
                self.outcomes["not read"] += 1
                self.oracle.refused(f"a reader at {self.now:.1f} s", error, began)
                continue
            self.outcomes["read"] += 1
            self.compare("a reader", record, expected, began)

    def befall(self, kind: str) -> None:
        if kind == "host lost":
            host = self.faults.random.choice(self.hosts)
            for program in [program for program in host.programs if program.alive]:
                program.kill()
            self.start("reader", self.read)
        if kind == "damaged":
            self._damage()

    def _damage(self) -> None:
        """A bit of an object flips, or the object is lost. A joined copy costs no event."""
        chance = self.faults.random
        names = sorted(name for name in self.store.objects if name.startswith(COUNTED))
        if not names:
            return
        joined = [name for name in names if name.startswith(object_events.JOINED)]
        names.sort(key=lambda name: (name not in joined, name))
        name = chance.choice(joined if joined and chance.random() < 0.5 else names)
        content, *about = self.store.objects[name]
        if name.startswith(object_events.EVENTS):
            self.oracle.damaged = True
            self.oracle.excused.add(event_of(content))
        # That the last ones are gone, nobody could know.
        if chance.random() < 0.3 and name not in (names[-1], *joined):
            del self.store.objects[name]
            return
        damaged = bytearray(content)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        self.store.objects[name] = bytes(damaged), about[0], about[1]

    def look(self) -> None:
        """Event by event, the log is dense."""
        names = [n for n in self.store.objects if n.startswith(object_events.EVENTS)]
        dense = [object_events.event_object(number) for number in range(len(names))]
        if sorted(names) != dense and not self.oracle.damaged:
            gone = sorted(set(dense) - set(names))
            self.oracle.violated("gap", f"there is no {gone[:3]}")

"""A study in a folder, on a local disk or a file system of the network."""

import re
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from disk import Disk
from log_world import LogWorld
from machines import Program
from oracle import event_of
from system_calls import mounted

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.follow import LedgerFollower
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.location import StudyFiles
from ray_unlearn.store.repair import repair
from ray_unlearn.store.scan import events_file
from ray_unlearn.store.storage import FolderStorage


class FolderWorld(LogWorld):
    """See `LogWorld`. Locks work between all hosts, on one host only, or not at all.

    Where they do not work between hosts, nobody stands still for long while it opens the study:
    that is the limit of a lease without locks (docs/survival.md).
    """

    rates: ClassVar[Mapping[str, float]] = {
        "killed before": 0.004,
        "killed after": 0.01,
        "killed inside": 0.02,
        "disk full": 0.02,
        "disk error": 0.01,
        "slow": 0.01,
        "stopped inside": 0.004,
    }
    chaos: ClassVar[Mapping[str, int]] = {
        "killed": 6,
        "paused": 4,
        "host cut off": 3,
        "clock jumped": 2,
        "power cut": 2,
        "damaged": 1,
    }

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.locks = self.random.choice(["all", "host", "none"])
        self.disk = Disk(self.root / "disk", self, self.locks)
        self.disk.root.mkdir()
        self.folder = self.disk.root / "study"

    def fsync(self, handle: int) -> None:
        self.disk.fsync(handle)

    def installed(self) -> AbstractContextManager[object]:
        return mounted(self.disk)

    def place(self, program: Program) -> StudyFiles:
        program.is_brief = self.locks != "all"
        storage = FolderStorage(self.folder, program)
        return StudyFiles(str(self.folder), self.folder, storage, program)

    def repair(self, program: Program) -> list[str]:
        return repair(self.folder, program)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def read(self, program: Program) -> None:
        follower = LedgerFollower(self.folder / "ledger")
        while True:
            program.sleep(self.random.expovariate(1 / 40))
            follows = self.random.random() < 0.7
            expected, began = list(self.oracle.acknowledged), self.now
            if not events_file(self.folder / "ledger").exists():
                continue
            try:
                record = follower.poll()[0] if follows else read_ledger(self.folder / "ledger")
            except FileNotFoundError:
                assert not self.oracle.created  # what was never begun was removed
                continue
            except StorageError as error:
                self.outcomes["not read"] += 1
                self.oracle.refused(f"a reader at {self.now:.1f} s", error, began)
                continue
            self.outcomes["read"] += 1
            self.compare("a reader", record, expected, began)

    def befall(self, kind: str) -> None:
        if kind == "power cut":
            for program in self.programs:
                program.kill()
            self.disk.power_cut()
            self.start("reader", self.read)
        if kind == "damaged":
            self._damage()

    def _damage(self) -> None:
        """A bit of the log flips; the events of its line are excused."""
        path = events_file(self.folder / "ledger")
        if not path.is_file() or not path.stat().st_size:
            return
        content = bytearray(path.read_bytes())
        at = self.faults.random.randrange(len(content))
        # A line's end may have been damaged before.
        before = re.findall(rb".+?(?=\{\"seq\": |\Z)", bytes(content), re.DOTALL)
        content[at] ^= 1 << self.faults.random.randrange(8)
        self.disk.damage(path, bytes(content))
        self.oracle.damaged = True
        start = 0
        for line in before:
            if start <= at < start + len(line):
                self.oracle.excused.add(event_of(line))
            start += len(line)

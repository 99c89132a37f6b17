"""The world of one log: writers, readers and repairs of one study at one place, under faults.

The unmodified store runs, over a simulated disk (`folder_world`) or a simulated object store
(`object_world`). Drivers do what `run` and `resume` do with the ledger, with notes for results.
"""

import hashlib
import math
import os
import shutil
import tempfile
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import ClassVar, Self

from disk import close_handles_below
from faults import Faults
from machines import Host, Machines, Program
from oracle import Oracle

from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.store.event import Header, Note
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.location import StudyFiles
from ray_unlearn.store.record import Record

MEMORY = Path("/dev/shm")
CALM_S = 400.0
"""Longer than any request stays stuck, and than a lease lasts."""


class LogWorld(Machines, ABC):
    """One history.

    Args:
        seed: of everything.
        allowed: see `Faults`.
        duration_s: seconds under faults, after which they stop and a judge looks; None: drawn.
    """

    rates: ClassVar[Mapping[str, float]]
    """Of faults at single requests or system calls."""
    chaos: ClassVar[Mapping[str, int]]
    """What befalls the world between them, by weight."""

    def __init__(
        self, seed: int, allowed: frozenset[int] | None = None, duration_s: float | None = None
    ) -> None:
        super().__init__(seed, Faults(seed, self.rates, allowed))
        chance = self.random
        self.seed = seed
        drawn = chance.uniform(200, 800)
        self.duration_s = drawn if duration_s is None else duration_s
        self.damages = chance.random() < 0.25
        self.drivers = chance.choice([1, 2, 2, 3])
        self.gap_s = chance.choice([1.0, 5.0, 15.0])
        self.tick_s = chance.choice([2.0, 5.0, 15.0])
        self.add_hosts(chance.choice([1, 2, 3]))
        self.oracle = Oracle(lambda: self.now)
        self.holders = 0
        """Changes of holder."""
        self.trace: list[tuple[float, int, str]] = []
        self.outcomes: Counter[str] = Counter()
        self._holder: Program | None = None
        self._held_since, self._held_fence = 0.0, 0
        self._issued = 0
        base = MEMORY if os.access(MEMORY, os.W_OK) else None
        self.root = Path(tempfile.mkdtemp(prefix="simulation-", dir=base))

    def note(self, text: str, pid: int = 0) -> None:
        """A line of the history."""
        self.trace.append((round(self.now, 3), pid, text.replace(str(self.root), "")[:240]))

    @property
    def digest(self) -> str:
        """Of the whole history."""
        return hashlib.sha256(repr(self.trace).encode()).hexdigest()[:16]

    # -- what a kind of place has ------------------------------------------------------------------

    @abstractmethod
    def place(self, program: Program) -> StudyFiles:
        """The study, as this process has it."""

    @abstractmethod
    def repair(self, program: Program) -> list[str]:
        """`verify --repair`."""

    @abstractmethod
    def read(self, program: Program) -> None:
        """What `status` and a notebook do: look again and again."""

    @abstractmethod
    def remove(self) -> None:
        """Remove what was never begun."""

    @abstractmethod
    def befall(self, kind: str) -> None:
        """What only befalls this kind of place."""

    @abstractmethod
    def installed(self) -> AbstractContextManager[object]:
        """A context in which the package uses what is simulated."""

    def look(self) -> None:
        """A last look at the bytes themselves."""

    # -- what is run -------------------------------------------------------------------------------

    def drive(self, program: Program) -> None:
        """What `run` or `resume` does."""
        place = self.place(program)
        expected, began = list(self.oracle.acknowledged), self.now
        try:
            new = not place.occupied()
            if new:
                program.sleep(self.random.uniform(0, 20))  # model and data are made ready
                ledger = place.create_ledger(Header(spec={"by": program.pid}))
            else:
                ledger = place.open_ledger()
        except (StorageError, OSError) as error:
            if self._refused(program, error, began):
                self._remedy(program, error)
            return
        try:
            self._opened(program, ledger, new, expected, began)
            with place.publishing(lambda text: None):
                self._write(program, ledger)
        except (StorageError, OSError) as error:
            self._refused(program, error, self.now, "stopped")
            with suppress(StorageError):  # as a study's last words do
                self._append(program, ledger)
        ledger.close()
        if self._holder is program:
            self._holder = None
        self.note("closed", program.pid)

    def _opened(
        self, program: Program, ledger: Ledger, new: bool, expected: list[str], began: float
    ) -> None:
        self.oracle.create()
        former, self._holder = self._holder, program
        self.holders += 1
        # Without locks one that had looked at the lease before may have written it since, and died.
        between = program.is_brief and ledger.fence > self._held_fence + 1
        late = began <= self._held_since or between
        if former and former.alive and not former.disturbed and not late:
            self.oracle.violated("ousted", f"{former.pid} by {program.pid}, though it was well")
        self._held_since, self._held_fence = self.now, ledger.fence
        program.is_brief = False
        self.note(f"{'created' if new else 'opened'}, fence {ledger.fence}", program.pid)
        self.outcomes["created" if new else "opened"] += 1
        self.compare(f"process {program.pid}", ledger.record, expected)

    def _write(self, program: Program, ledger: Ledger) -> None:
        end = self.now + self.random.expovariate(1 / 60)
        self._append(program, ledger)
        # Who is acknowledged an event has seen all that was acknowledged before it.
        mine = ledger._log.next_seq - 1
        before = [text for text, number in self.oracle.acknowledged.items() if number < mine]
        self.compare(f"writer {program.pid}", ledger.record, before)
        while self.now < end:
            program.sleep(self.random.expovariate(1 / self.gap_s))
            self._append(program, ledger)

    def _append(self, program: Program, ledger: Ledger) -> None:
        self._issued += 1
        text = f"event {self._issued}"
        self.oracle.issue(text)
        ledger.append(Note(text))
        number = ledger._log.next_seq - 1
        self.oracle.acknowledge(text, number)
        self.outcomes["acknowledged"] += 1
        self.note(f"acknowledged {number}: {text}", program.pid)

    def _refused(
        self, program: Program, error: Exception, began: float, how: str = "refused"
    ) -> bool:
        self.outcomes[how] += 1
        self.note(f"{how}: {error}", program.pid)
        if not isinstance(error, StorageError | UserError):
            where = "".join(traceback.format_tb(error.__traceback__)[1:3])
            self.oracle.violated("traceback", f"{error!r} {where}")
        return self.oracle.refused(f"process {program.pid} at {self.now:.1f} s", error, began)

    def _remedy(self, program: Program, error: Exception) -> None:
        """Do what the message says: remove what was never begun, or repair."""
        if self._removed(program, error):
            return
        try:
            done = self.repair(program)
        except StorageError as refusal:
            self.note(f"not repaired: {refusal}", program.pid)
            self._removed(program, refusal)
            return
        self.outcomes["repaired"] += 1
        self.note(f"repaired: {done}", program.pid)

    def _removed(self, program: Program, error: Exception) -> bool:
        """Remove what was never begun, if that is what an error asks for and nobody is at it."""
        if self.oracle.created or "nothing was recorded" not in str(error):
            return False
        if len(self._living()) < 2:
            self.remove()
            self.note("removed, as nothing was recorded", program.pid)
        return True

    def compare(
        self, who: str, record: Record, expected: list[str], began: float = math.inf
    ) -> None:
        """What somebody has read since `began`, with what was acknowledged before."""
        who = f"{who} at {self.now:.1f} s"
        self.oracle.found(who, record.notes, expected)
        if began > self.oracle.created_at:  # else it may be removed, as nobody was told of it
            self.oracle.begun(who, record.header.spec["by"])

    # -- what befalls it ---------------------------------------------------------------------------

    def _wreak(self) -> None:
        for _ in range(self.drivers):  # at once
            self.start("driver", self.drive)
        kinds = [kind for kind in self.chaos if kind != "damaged" or self.damages]
        weights = [self.chaos[kind] for kind in kinds]
        while self.now < self.duration_s:
            self.scheduler.sleep(self.random.expovariate(1 / self.tick_s))
            living = self._living()
            if len(living) < self.drivers:
                self.start("driver", self.drive)
            kind = self.random.choices(kinds, weights)[0]
            if living:
                self._befall(kind, self.random.choice(living), self.random.choice(self.hosts))

    def _living(self) -> list[Program]:
        return [program for program in self.programs if program.name == "driver"]

    def start(self, name: str, body: Callable[[Program], None]) -> None:
        """A process on some host."""
        program = self.program(name, self.random.choice(self.hosts))
        program.start(lambda: body(program))

    def _befall(self, kind: str, program: Program, host: Host) -> None:
        chance = self.faults.random
        span = chance.choice([1, 20, 70, 200]) * chance.random()
        if not self.faults.happens(kind):
            return
        match kind:
            case "killed":
                self.note(f"process {program.pid} is killed")
                program.kill()
            case "paused":
                self.note(f"process {program.pid} is stopped for {span:.1f} s")
                program.stop(span)
            case "host cut off":
                self.note(f"{host.name} is cut off for {span:.1f} s")
                host.cut_off(self.now + span)
            case "clock jumped":
                host.offset_s += chance.uniform(-3600, 3600)
                self.note(f"the clock of {host.name} jumps")
            case _:
                self.note(kind)
                self.befall(kind)

    # -- its end -----------------------------------------------------------------------------------

    def run(self) -> Self:
        """The whole history, and the judgement."""
        try:
            with self.installed():
                self.start("reader", self.read)
                self._until_ended("chaos", self._wreak)
                self.faults.on = False
                for host in self.hosts:
                    host.cut_until = 0.0
                self._until_ended("calm", self._calm)
                judge = self.program("judge", self.hosts[0])
                self.scheduler.run(judge.start(lambda: self._judge(judge)))
                self.look()
        finally:
            self.close()
        return self

    def _until_ended(self, name: str, body: Callable[[], None]) -> None:
        self.scheduler.run(self.scheduler.start(name, body))
        for process in self.scheduler.processes:
            if process.machine is not None and process.error is not None:
                raise process.error

    def close(self) -> None:
        """Unwind all processes and remove the files."""
        self.scheduler.close()
        close_handles_below(self.root)
        shutil.rmtree(self.root, ignore_errors=True)

    def _calm(self) -> None:
        self.scheduler.sleep(CALM_S)
        for program in self.programs:
            program.kill()
        self.scheduler.sleep(CALM_S)

    def _judge(self, program: Program) -> None:
        """Nothing goes wrong any more: the study must open, go on, and hold everything."""
        self.gap_s = 20.0
        for _ in range(4):
            before = self.outcomes["opened"] + self.outcomes["created"]
            self.drive(program)
            if self.outcomes["opened"] + self.outcomes["created"] > before:
                break
        else:
            self.oracle.violated("no progress", f"nobody can open it: {self.trace[-3:]}")
            return
        ledger = self.place(program).open_ledger()
        self.compare("the judge", ledger.record, list(self.oracle.acknowledged))
        ledger.close()

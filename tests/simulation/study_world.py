"""The world of a whole study: drivers, hub, lanes, Tune's side, recorder, over a simulated store.

`in_process` runs a session; here it has a simulated host, clock and store, ends with its driver,
and is resumed elsewhere, or begun twice at once, until faults stop. Then the study must end by
itself, with the table of an undisturbed one.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from folder_world import FolderWorld
from in_process import InProcess, Session, SimulatedNode, small_study
from log_world import LogWorld
from machines import Host, Program
from object_world import ObjectWorld
from scheduler import Process, Scheduler

from ray_unlearn.execution.conductor import LaneError
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.event import RowMeasured, TrialEnded, TrialReopened
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.location import StudyFiles
from ray_unlearn.store.record import Record
from ray_unlearn.store.scan import lines_of, scanned
from ray_unlearn.store.schema import RowKey
from ray_unlearn.store.verify import verify

Rows = dict[int, list[dict[str, Any]]]
TRIALS = 12
OPERATIONS = {
    "lanes": 2, "max_retries": 1000, "stall_timeout_s": 60.0, "grace_s": 10.0,
    "checkpoint_every_s": 5.0,
}  # fmt: skip
LATE = (0.01, 0.05, 20.0)
"""Messages take up to a hundredth of a second; one in twenty takes up to 20 s."""
LANE_FAULTS = {
    "worker killed": 3, "controller killed": 1, "lane stalled": 1, "Tune's actor killed": 2,
    "node drained": 1, "node lost": 1, "hub lost": 1, "interrupted": 1,
}  # fmt: skip


class Group:
    """The scheduler, as one session has it: it knows its own processes."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.processes: list[Process] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def start(self, name: str, body: Callable[[], Any]) -> Process:
        process = self._scheduler.start(name, body)
        self.processes.append(process)
        return process


class SimulatedSession(Session):
    """A session whose driver is a process of a simulated host."""

    def __init__(self, world: "StudyWorld", program: Program, place: StudyFiles) -> None:
        self.group = Group(world.scheduler)
        super().__init__(world.study, None, self.group, program)
        self.world = world
        self.program = program
        self.place = place
        self.began: float | None = None
        """Since when it is being opened; None before and after."""

    def opened(self) -> Ledger:
        self.began, expected = self.world.now, list(self.world.oracle.acknowledged)
        new = not self.place.occupied()
        ledger = self.place.create_ledger(self.header) if new else self.place.open_ledger()
        self.world.watch(self.program, ledger, expected)
        self.began = None
        return ledger

    def finish(self) -> None:
        """What the driver's end does to the rest, sooner or later."""
        self.line.dead = True
        loop = self.world.scheduler.loop
        for process in self.group.processes:
            loop.call_later(self.world.random.uniform(0, 30), process.kill)


class StudyWorld(LogWorld):
    """See `LogWorld`; what is read is compared line by line."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.scheduler._latency = LATE
        self.scheduler.loop.set_exception_handler(lambda *_: None)
        self.damages = False
        self.drivers = self.random.choice([1, 1, 2])
        self.tick_s = self.random.choice([3.0, 10.0])
        if self.duration_s > 400:
            self.duration_s /= 2
        self.study = InProcess(getattr(self, "folder", self.root / "weights"))
        self.study.with_operations(**OPERATIONS)
        self.sessions: list[SimulatedSession] = []
        self.ends: Counter[int] = Counter()
        """Outcomes of each trial that count."""
        self.final: Record | None = None
        self._expected = undisturbed()

    # -- what is run -------------------------------------------------------------------------------

    def drive(self, program: Program) -> None:
        session = SimulatedSession(self, program, self.place(program))
        self.scheduler.me().ended.add_done_callback(lambda _: session.finish())
        self.sessions.append(session)
        try:
            with session.place.publishing(lambda text: None):
                session.drive()
        except (StorageError, LaneError, OSError) as error:
            began = self.now if session.began is None else session.began
            if self._refused(program, error, began, "stopped"):
                self._remedy(program, error)
        session.finish()

    def watch(self, program: Program, ledger: Ledger, expected: list[str]) -> None:
        """Take down what the log acknowledges; `expected` was there before it was opened."""
        self.oracle.create()
        self.holders += 1
        program.is_brief = False
        self.outcomes["opened"] += 1
        self.note(f"opened, fence {ledger.fence}", program.pid)
        # It may be told late that it has opened the study, and others go on meanwhile.
        mine = ledger._log.next_seq
        before = [text for text, number in self.oracle.acknowledged.items() if number < mine]
        self._compare_lines(
            f"process {program.pid}", ledger.folder, dict.fromkeys([*expected, *before])
        )
        append = ledger._log.append

        def watched(seq: int, line: bytes) -> int:
            text = _text(line)
            self.oracle.issue(text)
            offset = append(seq, line)
            self.oracle.acknowledge(text, seq)
            self.outcomes["acknowledged"] += 1
            self.note(f"acknowledged {seq}: {line[:90].decode()}", program.pid)
            return offset

        ledger._log.append = watched  # type: ignore[method-assign]

    def _compare_lines(self, who: str, folder: Path, expected: Iterable[str]) -> None:
        at = {entry.offset for entry in scanned(folder).entries}
        lines = [line for offset, line in lines_of(folder / "events.jsonl") if offset in at]
        found = [text for text in map(_text, lines) if text in self.oracle.issued]
        self.oracle.found(f"{who} at {self.now:.1f} s", found, expected)

    def compare(
        self, who: str, record: Record, expected: list[str], began: float = math.inf
    ) -> None:
        """A reader's record can be read; what is in it is compared line by line elsewhere."""
        for trial in record.trials.values():
            keys = [row["update"] for row in trial.rows]
            if len(keys) != len(set(keys)):
                self.oracle.violated("duplicate", f"{who}: rows {keys} of trial {trial.number}")

    # -- what befalls it ---------------------------------------------------------------------------

    def _befall(self, kind: str, program: Program, host: Host) -> None:
        sessions = [session for session in self.sessions if session.program.alive]
        if kind not in LANE_FAULTS:
            super()._befall(kind, program, host)
        elif sessions and self.faults.happens(kind):
            self.note(kind)
            with suppress(IndexError):  # there is none of that kind now
                self._strike(kind, self.random.choice(sessions))

    def _strike(self, kind: str, session: SimulatedSession) -> None:
        chance = self.random
        match kind:
            case "worker killed":
                chance.choice(list(session.workers.values())).kill()
            case "controller killed":
                session.end(chance.choice(list(session.controllers)))
            case "lane stalled":
                chance.choice(list(session.workers.values())).hung = True
            case "Tune's actor killed":
                session.kill_tune_actor(chance.choice(list(session.pulls)))
            case "node drained":
                node = chance.choice([n for n in session.nodes if n.alive and n.leaves_at is None])
                node.leaves_at = session.environment.time() + chance.uniform(0, 20)
                session.nodes.append(SimulatedNode(f"node-{len(session.nodes)}", node.cpus))
            case "node lost":
                node = chance.choice([n for n in session.nodes if n.alive])
                session.lose(node)
                session.nodes.append(SimulatedNode(f"node-{len(session.nodes)}", node.cpus))
            case "hub lost":
                session.line.dead = True
                session.tune_gives_up(chance.choice(list(session.pulls)))
            case "interrupted":
                session.interrupt.request()

    # -- its end -----------------------------------------------------------------------------------

    def _judge(self, program: Program) -> None:
        """Left alone, the study ends with the table of an undisturbed one."""
        for _ in range(4):
            self.drive(program)
            self.scheduler.sleep(100.0)
            ledger = self.place(program).open_ledger()
            self.final = ledger.record
            self._compare_lines("the judge", ledger.folder, self.oracle.acknowledged)
            ledger.close()
            if len(self.final.finished) == TRIALS:
                break
        self._judge_table(ledger.folder)
        storage = self.place(program).storage
        found = verify(ledger.folder.parent, storage, program).problems
        # The weights are no weights; that files are left over is looked at when a study ends.
        if problems := [what for what in found if not what.startswith(("I5", "I6"))]:
            self.oracle.violated("verify", problems[0])

    def _judge_table(self, folder: Path) -> None:
        assert self.final is not None
        if len(self.final.finished) < TRIALS:
            self.oracle.violated("no progress", f"{len(self.final.finished)} trials ended")
        elif rows(self.final) != self._expected:
            self.oracle.violated("table", "rows are not those of an undisturbed study")
        measured: Counter[tuple[int, RowKey]] = Counter()
        for entry in scanned(folder).entries:
            match entry.event:
                case TrialEnded(number=number):
                    self.ends[number] += 1
                case TrialReopened(number=number):
                    self.ends[number] -= 1
                case RowMeasured() as row:
                    measured[row.number, row.key] += 1
        if double := [key for key, count in measured.items() if count > 1]:
            self.oracle.violated("duplicate", f"rows {double[:3]} are there twice")
        if twice := [number for number, count in self.ends.items() if count > 1]:
            self.oracle.violated("two outcomes", f"of trials {twice}")


class FolderStudyWorld(StudyWorld, FolderWorld):
    """A study in a folder."""

    chaos: ClassVar[Mapping[str, int]] = {**FolderWorld.chaos, **LANE_FAULTS}


class ObjectStudyWorld(StudyWorld, ObjectWorld):
    """A study in an object store; its weights are in a folder."""

    chaos: ClassVar[Mapping[str, int]] = {**ObjectWorld.chaos, **LANE_FAULTS}


def rows(record: Record) -> Rows:
    """The table of a study."""
    return {n: [dict(row.items()) for row in t.rows] for n, t in sorted(record.trials.items())}


@cache
def undisturbed() -> Rows:
    """The table without any fault."""
    with tempfile.TemporaryDirectory() as folder:
        simulated = InProcess(Path(folder) / "study", small_study())
        simulated.with_operations(**OPERATIONS)
        simulated.session()
        assert simulated.record is not None
        return rows(simulated.record)


def _text(line: bytes) -> str:
    """What the oracle calls a line: its checksum."""
    return f"event {line[-11:-3].decode()}"

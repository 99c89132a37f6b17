"""A lane as the hub holds it."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from ray_unlearn.environment import Environment
from ray_unlearn.execution.messages import LaneStart, LaneState, RowReported, Worker


class Stopwatch:
    """The present activity of a lane, and the time spent in each."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._doing = "pending"
        self._since = environment.monotonic()
        self._spent: dict[str, float] = defaultdict(float)

    def turn(self, doing: str) -> None:
        """Start an activity and end the present one."""
        now = self._environment.monotonic()
        self._spent[self._doing] += now - self._since
        self._doing, self._since = doing, now

    def seconds(self, doing: str) -> float:
        """Seconds spent in an activity up to now."""
        now = self._environment.monotonic()
        return self._spent[doing] + (now - self._since if self._doing == doing else 0.0)


@dataclass
class HubLane:
    """A warm worker group, or the place for one."""

    index: int
    watch: Stopwatch
    launch: int = 0
    """The last launch by the driver that the hub knows; see `messages.Launch`."""
    start: int = 0
    """Number of the last start; see `messages.LaneStart`."""
    ready: bool = False
    failed_starts: int = 0
    """Starts in a row that failed."""
    job: int | None = None
    heard: float = 0.0
    """Time of its last sign of life."""
    pids: tuple[int, ...] = ()
    workers: list[Worker] = field(default_factory=list)
    """Workers of the last start, dead or alive; each adds itself."""
    request: int = 0
    """Number of the last request for a checkpoint."""
    answered: int = 0
    """The last request that its trial has answered, with a checkpoint or without."""
    stalled: str = ""
    """Why its workers are being killed."""
    up: bool = False
    controller: Any = None
    """The Ray Train actor that runs it."""
    waiting_for: str = ""
    """What it needs to start, while there is no room."""
    leaving: str = ""
    """Why it is to leave its node."""
    retired: bool = False
    """Whether there is no room for it any more; it may come back."""
    starts: int = 0
    tokens: int = 0
    """LM tokens in the rows this lane has reported."""
    counted: int = 0
    """Part of `tokens` up to its trial's last row."""

    @property
    def saved(self) -> bool:
        """Whether its trial has been checkpointed since the last request, or cannot be."""
        return self.answered == self.request

    @property
    def shown(self) -> str:
        """Its state in one word, for people."""
        if self.leaving:
            return "draining"
        if self.job is not None:
            return "busy"
        if self.ready:
            return "idle"
        return "pending" if self.waiting_for else "starting"

    def is_current(self, start: LaneStart) -> bool:
        """Whether no other worker group has replaced this one."""
        return start.number == self.start

    def replace(self) -> LaneStart:
        """Void the present start: messages of its worker group no longer count."""
        self.start += 1
        return LaneStart(self.index, self.start)

    def begin(self, now: float, pids: tuple[int, ...]) -> LaneStart:
        """Begin with a worker group that has started."""
        self.pids, self.workers, self.ready, self.heard, self.stalled = pids, [], False, now, ""
        self.up, self.waiting_for, self.leaving = True, "", ""
        self.starts += 1
        self.watch.turn("starting")
        return self.replace()

    def assign(self, number: int) -> None:
        """Assign a job."""
        self.job, self.counted, self.answered = number, 0, 0
        self.watch.turn("busy")

    def count(self, row: RowReported) -> None:
        """Count the tokens of a row, which includes those before a checkpoint."""
        now = sum(int(row.metrics.get(f"{name}_tokens") or 0) for name in ("forget", "retain"))
        self.tokens += max(0, now - self.counted)
        self.counted = max(now, self.counted)

    def state(self, now: float) -> LaneState:
        """The lane's state at time `now`."""
        return LaneState(
            index=self.index,
            state=self.shown,
            start=LaneStart(self.index, self.start),
            pids=self.pids,
            nodes=tuple(sorted({worker.node for worker in self.workers})) if self.up else (),
            up=self.up,
            ready=self.ready,
            job=self.job,
            leaving=self.leaving,
            retired=self.retired,
            waiting_for=self.waiting_for,
            silent_s=now - self.heard,
            restarts=max(0, self.starts - 1),
            tokens=self.tokens,
            busy_s=self.watch.seconds("busy"),
            verdict_s=self.watch.seconds("verdict"),
            idle_s=self.watch.seconds("idle"),
        )

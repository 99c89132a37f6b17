"""What the hub remembers of jobs and lanes."""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

Item = dict[str, Any]
"""What a trial's side receives: kind `row` (update, metrics), `ended` (status, reason, result), or
one of the two that end the study: `fatal` (reason) and `interrupted`."""


@dataclass
class Job:
    """A trial between Tune and a lane."""

    number: int
    payload: dict[str, Any]
    attempt: int = 0
    faults: int = 0
    """Deaths of its worker that may be its own doing."""
    node_deaths: int = 0
    lane: int | None = None
    item: Item | None = None
    """The item that waits to be pulled or dealt with."""
    sequence: int = 0
    """Of `item`: 1 for the job's first."""
    handled: int = 0
    """The last sequence number that the trial's side has dealt with."""
    keep: int = 0
    """The sequence number of a row whose weights are to be kept."""
    kept: dict[str, Any] | None = None
    """The file they were kept in, until the trial's side has heard of it."""
    known: list[int] = field(default_factory=list)
    """Updates whose rows were dealt with: the next attempt need not evaluate them again."""

    @property
    def ended(self) -> bool:
        """Its last item is there."""
        return self.item is not None and self.item["kind"] != "row"


class Clock:
    """What a lane does, and how long it has done what."""

    def __init__(self) -> None:
        self._doing = "pending"
        self._since = time.monotonic()
        self._spent: dict[str, float] = defaultdict(float)

    def turn(self, doing: str) -> None:
        """From now on it does this."""
        now = time.monotonic()
        self._spent[self._doing] += now - self._since
        self._doing, self._since = doing, now

    def seconds(self, *doing: str) -> float:
        """Spent in these, up to now."""
        running = time.monotonic() - self._since if self._doing in doing else 0.0
        return sum(self._spent[name] for name in doing) + running


@dataclass
class Lane:
    """A warm worker group, as the hub knows it."""

    token: int = 0
    pids: list[int] = field(default_factory=list)
    ready: bool = False
    failed_starts: int = 0
    lost: bool = False
    job: int | None = None
    heard: float = 0.0
    workers: list[Any] = field(default_factory=list)
    """(pid, node, actor handle, placement group) of each worker, to kill them by and to free what
    they held."""
    saved: bool = False
    """Its trial has a checkpoint that is younger than the wish to stop."""
    stalled: str = ""
    """Why it is being killed."""
    up: bool = False
    """A worker group of it runs."""
    controller: Any = None
    """The actor that runs it for Ray Train."""
    waiting_for: str = ""
    """What it needs to start, while there is no room."""
    leaving: str = ""
    """Why it is to leave its node."""
    retired: bool = False
    """There is no room for so many lanes any more; it may come back."""
    starts: int = 0
    tokens: int = 0
    """Of the rows it has reported."""
    counted: int = 0
    """Of `tokens`, those of its trial's last row."""
    clock: Clock = field(default_factory=Clock)

    @property
    def shown(self) -> str:
        """One word for people."""
        if self.lost:
            return "lost"
        if self.leaving:
            return "draining"
        if self.job is not None:
            return "busy"
        if self.ready:
            return "idle"
        return "pending" if self.waiting_for else "starting"

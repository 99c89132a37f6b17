"""The object store's log by number, as a small model: its states and its rules.

A number has one object, created only if absent. A process reads all numbers and asks for the next
one with its session event. Once that is there it asks for one number after the other. Who begins a
study first asks for number 0 with the header, whose bytes may be another's too. Every request may
succeed, fail, take effect with its answer lost, or take effect later, when its sender has given up,
died or been replaced. A process may die in every state. Objects may be joined, and one may be
damaged and repaired.

What is left out, and why nothing is lost by it:

- **The lease.** It advises and may be wrong at any time, so in every state every process may open,
  before or after it has read.
- **Reading as a step of its own.** A process that reads and waits is one whose next request is
  slow, and so is a process that has nothing to write.
- **Answers that fail.** A retried request asks for the same number with the same bytes: it is the
  same request, slower. A process that gives up leaves its request behind; a request that never
  takes effect is one that has failed.
- **Requests for numbers that are taken.** They never change anything again (`Rules.create_only`).
- **Two faults at once.** One object is damaged, at most: one number's, or a joined one. A number
  that is gone is not taken by another process's slow request. The header has its own copy. The last
  number is not lost: the log would be a shorter log, and only the lease could tell.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

ABSENT, DAMAGED, LOST = -1, -2, -3
"""What a number has in place of a writer's event; LOST is an event that says so."""
REOPENED = 1_000
"""Added to a writer: its event that reopens the trials of what is lost."""
SOMEBODY = 999
"""A writer that is dead, where it does not matter which (`merged`)."""
RUN = 2
"""Events in a joined object."""

Process = tuple[object, ...]
"""Idle, or what it has on its way:

("idle",)
("header",)                              it begins a study
("session", number, is it there?, why)   it opens the log: why is "opens", "knows" (it has read that
                                         an event is lost) or "repairs"
("append", writer, number)               it is open and writes its next event
("mark", writer, number)                 it repairs: no joined copy of the damaged event counts
("reopen", writer, number)               it reopens its trials
("replace", writer, number)              it replaces the damaged object
"""
IDLE: Process = ("idle",)
OPEN = ("append", "reopen", "mark", "replace")

Request = tuple[str, int, object]
"""What is asked for, the number (or run), the content."""


class Harm(NamedTuple):
    """The one object that is damaged or gone."""

    number: int
    """-1 for a joined object."""
    event: int
    """What was there."""
    marked: bool = False
    """Joined copies of it do not count."""
    relied: int = -1
    """Number of the last session event of a process that had read it whole nevertheless."""


class State(NamedTuple):
    """Everything that decides what may happen next."""

    log: tuple[int, ...]
    """The writer at each number: twice the number of its session event, 0 for the header."""
    acknowledged: int
    """Bit n: a process was told that its event n is there. -1 takes all events for acknowledged as
    soon as they are there: that claims more, and needs fewer states."""
    processes: tuple[Process, ...]
    late: frozenset[Request]
    """Requests whose senders wait no longer."""
    joined: tuple[object, ...]
    """Content of each joined object: None, DAMAGED, or its events."""
    harm: Harm | None


@dataclass(frozen=True)
class Rules:
    """The protocol; each rule that is broken makes a mutant."""

    create_only: bool = True
    """A number is taken only if it is absent."""
    header_create_only: bool = True
    session_after_header: bool = True
    """Who begins a study writes a session event, too: two headers may have the same bytes."""
    compares: bool = True
    """A number that is taken already counts as one's own only if the bytes are one's own."""
    stops_when_unknown: bool = True
    """After a request whose outcome is not known, nothing more is written."""
    session_event: bool = True
    stops_when_taken: bool = True
    """A process that finds another's event at its next number never writes behind it."""
    reads_anew: bool = True
    """A process that is not the first with its session event reads everything again."""
    keeps_singles: bool = True
    """Objects that were joined stay."""
    repair_session: bool = True
    """A repair begins with a session event."""
    repair: tuple[str, ...] = ("mark", "reopen", "replace")
    """What a repair does after its session event, in its order."""
    repair_checks: bool = True
    """A repair replaces only the very object that it found damaged."""


@dataclass(frozen=True)
class Size:
    """How much of each the model has."""

    processes: int = 3
    events: int = 6
    joins: bool = True
    """Runs are joined at any time. False: only where it can be noticed, which is at a number that
    is damaged then; before that, a joined object has the same content as its singles."""
    damage: bool = True
    remembers: bool = False
    """Which events were acknowledged is part of the state."""


def start(size: Size) -> State:
    """An empty store, and processes that have not begun."""
    acknowledged = 0 if size.remembers else -1
    joined = (None,) * (size.events // RUN)
    return State((), acknowledged, (IDLE,) * size.processes, frozenset(), joined, None)


def taken(log: tuple[int, ...], number: int) -> bool:
    """Whether there is an object of this number, damaged or not."""
    return number < len(log) and log[number] != ABSENT


def view(state: State) -> tuple[int, ...]:
    """What a reader has at each number: from a joined object if it can, else from singles."""
    events = list(state.log)
    for at, content in enumerate(state.joined):
        if isinstance(content, tuple) and not is_marked(state, at):
            events[at * RUN : at * RUN + RUN] = content
    return tuple(events)


def is_marked(state: State, at: int) -> bool:
    """Whether the run has an event of which no joined copy counts."""
    return state.harm is not None and state.harm.marked and state.harm.number // RUN == at


def in_order(state: State) -> tuple[State, tuple[int, ...]]:
    """The state with its processes sorted, as they have no names; and which is where now."""
    processes = state.processes
    order = tuple(sorted(range(len(processes)), key=processes.__getitem__))
    return state._replace(processes=tuple(processes[at] for at in order)), order


def merged(state: State) -> tuple[State, tuple[int, ...]]:
    """`in_order`, and one state for all that differ only in what nobody can notice any more.

    A process whose number is another's can only stop: it is idle. A writer that is dead is
    SOMEBODY: nobody compares its events with its own again. For right rules only.
    """
    processes = tuple(_with_a_future(state, process) for process in state.processes)
    alive = {_writer(process) for process in processes}

    def named(event: int) -> int:
        if event <= 0 or event % REOPENED in alive:
            return event
        return SOMEBODY if event < REOPENED else REOPENED + SOMEBODY

    def content(events: object) -> object:
        return tuple(map(named, events)) if isinstance(events, tuple) else events

    harm = state.harm and state.harm._replace(event=named(state.harm.event))
    return in_order(
        State(
            tuple(map(named, state.log)),
            state.acknowledged,
            processes,
            frozenset(_renamed(state.late, named)),
            tuple(map(content, state.joined)),
            harm,
        )
    )


def _renamed(late, named) -> Iterable[Request]:
    for kind, at, content in late:
        yield kind, at, tuple(map(named, content)) if kind == "join" else named(content)


def _with_a_future(state: State, process: Process) -> Process:
    log = state.log
    if process[0] == "session":
        return IDLE if not process[2] and process[1] < len(log) else process
    if process[0] == "append" and process[2] < len(log):
        event = log[process[2]]
        if event == ABSENT and state.harm is not None:
            event = state.harm.event
        return process if event == process[1] else IDLE
    return process


def _writer(process: Process) -> int:
    if process[0] == "session":
        return 2 * process[1] if process[2] else 0
    return process[1] if process[0] in OPEN else 0

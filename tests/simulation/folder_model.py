"""A folder without locks, as a small model: one file of lines, one lease, nothing that excludes.

A process looks at the lease, writes its own, reads the lines, and appends. Before each line it
checks that the lease is still its own, and after it again; only then the line is acknowledged. Age
decides whether a process may take the lease; in the model it always may, because a process that was
stopped, or a host that was cut off, is not dead. Each line has its writer's fence, and readers
leave out what `counted` leaves out.

Every step is one operation of the file system, which all processes see alike and at once. NFS does
not promise that (close-to-open caching): there the claims rest on time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from all_states import Step


class Line(NamedTuple):
    """A line of the file."""

    number: int
    fence: int
    acknowledged: bool = False


class Folder(NamedTuple):
    """Everything that decides what may happen next."""

    lines: tuple[Line, ...]
    lease: tuple[int, int]
    """Fence and process of the holder; process -1 is dead."""
    claims: int
    """Highest fence that was ever claimed by making a file of that name."""
    processes: tuple[tuple[object, ...], ...]
    """Each is idle, or in one of these states, in this order:

    ("looked", fence)            it has seen the last holder, and will be one with this fence
    ("holds", fence)             it has written the lease
    ("highest", fence)           it has found no higher fence (only where fences are claimed)
    ("outranks", fence, next)    it has read lines with a fence as high as its own
    ("open", fence, next)        it may append
    ("checked", fence, next)     the lease is its own, it will write the line
    ("written", fence, line)     the line is there, it will check again
    """
    late: frozenset[Line] = frozenset()
    """A line that a dead host's kernel, or a file server, may still write; one at a time."""


@dataclass(frozen=True)
class Ways:
    """How a folder is taken; the defaults are what the code does. And how much of each there is."""

    processes: int = 3
    lines: int = 4
    takes: int = 1_000
    """How often the lease may be taken, where fences are no ranks and would grow for ever."""
    claims: bool = False
    """A fence is claimed by making a file that must not exist, and after writing its lease a holder
    looks whether there is a higher one."""
    at_once: bool = False
    """Nobody is stopped between looking at the lease and writing it: time is kept."""
    checks_after: bool = True
    """A line is acknowledged only if the lease is still its writer's after it."""


def begun(ways: Ways) -> Folder:
    """A study whose first holder is dead."""
    idle: tuple[tuple[object, ...], ...] = (("idle",),) * ways.processes
    return Folder((Line(0, 1, True),), (1, -1), 1, idle)


def counted(lines: tuple[Line, ...]) -> list[Line]:
    """The lines that count, by the rule of `store.scan`."""
    found: list[Line] = []
    fence = expected = 0
    for line in lines:
        if line.fence < fence or (line.fence == fence and line.number < expected):
            continue
        if line.fence > fence:
            found = [earlier for earlier in found if earlier.number < line.number]
        fence, expected = line.fence, line.number + 1
        found.append(line)
    return found


def lost(_before: Folder, _what: tuple[object, ...], after: Folder) -> str:
    """What a reader would not find, in words."""
    found = counted(after.lines)
    for line in after.lines:
        if line.acknowledged and line not in found:
            return f"the acknowledged event {line.number} (fence {line.fence}) does not count"
    if [line.number for line in found] != list(range(len(found))):
        return "an event is missing"
    return ""


def as_is(state: Folder) -> tuple[Folder, tuple[int, ...]]:
    """The state itself."""
    return state, tuple(range(len(state.processes)))


def ranked(state: Folder) -> tuple[Folder, tuple[int, ...]]:
    """One state for all in which processes and fences have the same order.

    Sound where fences are claimed: they are only compared, and a new one is the highest.
    """
    fences = {state.claims, state.lease[0], *(line.fence for line in (*state.lines, *state.late))}
    fences |= {process[1] for process in state.processes if len(process) > 1}
    rank = {fence: at for at, fence in enumerate(sorted(fences), 1)}

    def renamed(lines: Iterable[Line]) -> Iterator[Line]:
        return (line._replace(fence=rank[line.fence]) for line in lines)

    holder = state.lease[1]
    keys = [
        ((*one[:1], rank[one[1]], *one[2:]) if len(one) > 1 else one, who == holder)
        for who, one in enumerate(state.processes)
    ]
    order = tuple(sorted(range(len(keys)), key=keys.__getitem__))
    lease = (rank[state.lease[0]], order.index(holder) if holder >= 0 else -1)
    processes = tuple(keys[who][0] for who in order)
    lines, late = tuple(renamed(state.lines)), frozenset(renamed(state.late))
    return Folder(lines, lease, rank[state.claims], processes, late), order


class Steps:
    """All steps from a state."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways

    def __call__(self, state: Folder) -> Iterator[Step[Folder]]:
        """Each step that may come next."""
        for who, process in enumerate(state.processes):
            for what, after, mine in self._moves(state, who, *process):
                others = after.processes
                processes = (*others[:who], mine, *others[who + 1 :])
                if mine == ("idle",) and after.lease[1] == who:
                    after = after._replace(lease=(after.lease[0], -1))  # noqa: PLW2901
                yield what, who, after._replace(processes=processes)
        for line in sorted(state.late if len(state.lines) < self._ways.lines else ()):
            late = state.late - {line}
            written = state._replace(lines=(*state.lines, line), late=late)
            yield ("a late line", line.number, "is written"), -1, written

    def _moves(
        self, state: Folder, who: int, at: str, fence: int = 0, number: int = 0
    ) -> Iterator[tuple[tuple[object, ...], Folder, tuple[object, ...]]]:
        mine = state.lease == (fence, who)
        idle = ("idle",)
        if at == "idle":
            if self._ways.claims:
                claimed = state._replace(claims=state.claims + 1)
                yield ("claims fence", claimed.claims), claimed, ("looked", claimed.claims)
            elif state.lease[0] > self._ways.takes:
                return
            elif self._ways.at_once:
                held = state._replace(lease=(state.lease[0] + 1, who))
                words = ("looks, and writes the lease with fence", held.lease[0])
                yield words, held, ("holds", held.lease[0])
            else:
                seen = state.lease[0] + 1
                yield ("looks: its fence will be", seen), state, ("looked", seen)
            return
        if at == "looked":
            held = state._replace(lease=(fence, who))
            yield ("writes the lease with fence", fence), held, ("holds", fence)
        elif at == "holds" and self._ways.claims:
            if state.claims > fence:
                higher = state._replace(claims=state.claims + 1)
                words = ("finds a higher fence, and claims", higher.claims)
                yield words, higher, ("looked", higher.claims)
            else:
                yield ("finds no higher fence",), state, ("highest", fence)
        elif at in ("holds", "highest"):
            yield from self._reads(state, fence, mine)
        elif at == "outranks":
            higher = state._replace(lease=(fence, who))
            yield ("writes the lease with fence", fence), higher, ("open", fence, number)
        elif at == "open" and len(state.lines) < self._ways.lines:
            if mine:
                yield ("checks: the lease is its own",), state, ("checked", fence, number)
            else:
                yield ("finds another's lease, and stops",), state, idle
        elif at == "checked" and len(state.lines) < self._ways.lines:
            written = state._replace(lines=(*state.lines, Line(number, fence)))
            after = ("written", fence, len(state.lines))
            yield ("writes event", number, "with fence", fence), written, after
        elif at == "written":
            yield from self._checks_again(state, fence, number, mine)
        dead = state
        if at == "checked" and not state.late:
            dead = state._replace(late=state.late | {Line(number, fence)})
        yield ("dies",), dead, idle

    def _checks_again(
        self, state: Folder, fence: int, at: int, mine: bool
    ) -> Iterator[tuple[tuple[object, ...], Folder, tuple[object, ...]]]:
        line = state.lines[at]
        if mine or not self._ways.checks_after:
            told = line._replace(acknowledged=True)
            lines = (*state.lines[:at], told, *state.lines[at + 1 :])
            after = ("open", fence, line.number + 1)
            yield ("event", line.number, "is acknowledged"), state._replace(lines=lines), after
        else:
            yield ("finds another's lease, and stops",), state, ("idle",)

    def _reads(
        self, state: Folder, fence: int, mine: bool
    ) -> Iterator[tuple[tuple[object, ...], Folder, tuple[object, ...]]]:
        found = counted(state.lines)
        number, last = found[-1].number + 1, found[-1].fence
        if last >= fence and (self._ways.claims or not mine):
            yield ("reads a fence as high as its own, and stops",), state, ("idle",)
        elif last >= fence:
            yield ("reads", number, "events"), state, ("outranks", last + 1, number)
        else:
            yield ("reads", number, "events"), state, ("open", fence, number)

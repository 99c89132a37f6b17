"""All steps of the object store's log by number (see `log_state`)."""

from collections.abc import Iterator

from all_states import Step
from log_state import (
    ABSENT,
    DAMAGED,
    IDLE,
    LOST,
    REOPENED,
    RUN,
    Harm,
    Process,
    Request,
    Rules,
    Size,
    State,
    taken,
    view,
)

What = tuple[object, ...]
Moves = Iterator[tuple[What, State, Process]]
"""What happens, the state after, the process after."""


class Store:
    """All steps from a state, under rules."""

    def __init__(self, rules: Rules, size: Size) -> None:
        self._rules = rules
        self._size = size
        self._moves = {
            "idle": self._idle,
            "header": self._header,
            "session": self._session,
            "append": self._event,
            "reopen": self._event,
            "mark": self._mark,
            "replace": self._replace,
        }
        # Under other rules a request for a number that is taken may still change something.
        self._forgets = rules.create_only and rules.header_create_only and rules.keeps_singles

    def steps(self, state: State) -> Iterator[Step[State]]:
        """Each step that may come next."""
        before: Process = ()
        for who, process in enumerate(state.processes):
            if process != before:  # equal ones are neighbours
                for what, after, mine in self._moves[process[0]](state, *process):
                    others = after.processes
                    processes = (*others[:who], mine, *others[who + 1 :])
                    yield what, who, self._settled(after._replace(processes=processes))
            before = process
        for what, after in self._surroundings(state):
            yield what, -1, self._settled(after)

    # What a process does.

    def _idle(self, state: State, _: str) -> Moves:
        number = len(state.log)
        if number == 0:
            yield ("begins",), state, ("header",)
            return
        if number >= self._size.events:
            return
        read = view(state)
        if ABSENT not in read and DAMAGED not in read:
            why = "knows" if LOST in read else "opens"
            opened: Process = ("session", number, False, why)
            if not self._rules.session_event:
                opened = ("append", 2 * number, number)
            yield ("opens: reads", number, "events"), state, opened
        elif not self._rules.repair_session:
            yield ("opens to repair",), state, (self._rules.repair[0], 2 * number + 1, number)
        else:
            repairs = ("session", number, False, "repairs")
            yield ("opens to repair: reads", number, "events"), state, repairs

    def _header(self, state: State, _: str) -> Moves:
        there = taken(state.log, 0)
        if not there or not (self._rules.create_only and self._rules.header_create_only):
            landed = self._told(self._put(state, 0, int(there)), 0)
            yield ("header takes number", 0), landed, self._begun()
        if there:
            yield ("header", 0, "is there, same bytes"), self._told(state, 0), self._begun()
        yield ("dies, its header on its way",), self._left(state, "put", 0, 0), IDLE

    def _begun(self) -> Process:
        if self._rules.session_after_header:
            return ("session", 1, False, "opens")
        return ("append", 0, 1)

    def _session(self, state: State, _: str, number: int, there: bool, why: str) -> Moves:
        writer = 2 * number
        if not there and self._can_put(state, number):
            event = writer + 1 if taken(state.log, number) else writer
            landed = _relied(self._put(state, number, event), number, why)
            yield ("session event takes number", number), landed, ("session", number, True, why)
        elif there or not self._rules.compares:
            mine: Process = ("append", writer if there else state.log[number], number + 1)
            if why == "repairs":
                mine = (self._rules.repair[0], *mine[1:])
            told = self._told(state, number)
            yield ("session event", number, "is acknowledged"), told, mine
        else:
            yield ("is refused number", number), state, IDLE
            if not self._rules.reads_anew and len(state.log) < self._size.events:
                yield from self._reads_on(state, number, why)
        left = state if there else self._left(state, "put", number, writer)
        yield ("dies, its session event", number, "on its way"), left, IDLE

    def _reads_on(self, state: State, first: int, why: str) -> Moves:
        read = view(state)
        if why != "repairs" and ABSENT not in read[first:] and DAMAGED not in read[first:]:
            on = ("session", len(read), False, "knows" if LOST in read[first:] else why)
            yield ("is refused, and reads from number", first, "on"), state, on

    def _event(self, state: State, step: str, writer: int, number: int) -> Moves:
        if number >= self._size.events:
            yield ("dies",), state, IDLE
            return
        event, kind = (writer, "event") if step == "append" else (REOPENED + writer, "reopened")
        there = taken(state.log, number) and state.log[number] == event
        if not there and self._can_put(state, number):
            landed = self._put(state, number, event)
            yield (kind, "takes number", number), landed, (step, writer, number)
        elif there or not self._rules.compares:
            after = (self._after(step), writer, number + 1)
            yield (kind, number, "is acknowledged"), self._told(state, number), after
        else:
            yield ("is refused number", number, "and stops"), state, IDLE
            if not self._rules.stops_when_taken:
                on = (step, writer, len(state.log))
                yield ("is refused number", number, "and reads on"), state, on
        left = state if there else self._left(state, "put", number, event)
        yield ("dies, its", kind, number, "on its way"), left, IDLE
        if not self._rules.stops_when_unknown and not there:
            yield ("hears nothing of", number, "and goes on"), left, (step, writer, number + 1)

    def _after(self, step: str) -> str:
        """What follows a step of a repair; a process that is done appends."""
        order = (*self._rules.repair, "append")
        return order[order.index(step) + 1] if step in self._rules.repair else "append"

    def _mark(self, state: State, step: str, writer: int, number: int) -> Moves:
        after = (self._after(step), writer, number)
        yield ("marks", state.harm.number, "as replaced"), _marked(state), after
        yield ("dies, its mark on its way",), self._left(state, "mark", 0, 0), IDLE

    def _replace(self, state: State, step: str, writer: int, number: int) -> Moves:
        damaged = state.harm.number
        after = (self._after(step), writer, number)
        if state.log[damaged] in (ABSENT, DAMAGED):
            yield ("replaces number", damaged), self._set(state, damaged, LOST), after
        else:
            yield ("finds", damaged, "replaced"), state, after
        left = self._left(state, "replace", damaged, LOST)
        yield ("dies, number", damaged, "about to be replaced"), left, IDLE

    # What the store, the network and other people do.

    def _surroundings(self, state: State) -> Iterator[tuple[What, State]]:
        for kind, at, content in sorted(state.late, key=str):
            if kind == "put" and self._can_put(state, at, content):
                event = 1 if at == 0 and taken(state.log, 0) else content
                yield ("a late request takes number", at), self._put(state, at, event)
            elif kind == "join" and state.joined[at] is None:
                yield ("a late request joins run", at), self._join(state, at, content)
            elif kind == "mark":
                yield ("a late request marks number",), _marked(state)
            elif kind == "replace":
                yield ("a late request replaces number", at), self._set(state, at, content)
        yield from self._joins(state)
        if self._size.damage and state.harm is None:
            yield from self._damages(state)

    def _joins(self, state: State) -> Iterator[tuple[What, State]]:
        for at, content in enumerate(state.joined):
            if not self._size.joins and (state.harm is None or state.harm.number // RUN != at):
                continue
            run = state.log[at * RUN : at * RUN + RUN]
            if len(run) == RUN and content is None and ABSENT not in run and DAMAGED not in run:
                yield ("somebody joins run", at), self._join(state, at, run)
            if isinstance(content, tuple) and not self._rules.keeps_singles:
                for number in range(at * RUN, at * RUN + RUN):
                    if state.log[number] != ABSENT:
                        gone = self._set(state, number, ABSENT)
                        yield ("number", number, "is joined, and deleted"), gone

    def _damages(self, state: State) -> Iterator[tuple[What, State]]:
        for number, event in enumerate(state.log[1:], 1):
            at = number // RUN
            run, late = state.log[at * RUN : at * RUN + RUN], state.late
            harmed = state._replace(harm=Harm(number, event))
            if at < len(state.joined) and state.joined[at] is None and len(run) == RUN:
                late |= {("join", at, run)}  # who joins may have read before the damage
                if not self._size.joins:
                    joined = self._set(self._join(harmed, at, run), number, DAMAGED)
                    yield ("DAMAGE: joined, and number", number), joined
            yield ("DAMAGE: number", number), self._set(harmed, number, DAMAGED)._replace(late=late)
            if number + 1 < len(state.log):
                late |= {("put", number, event)}  # a request made twice
                gone = self._set(harmed, number, ABSENT)._replace(late=late)
                yield ("DAMAGE: loss of number", number), gone
        for at, content in enumerate(state.joined):
            if isinstance(content, tuple):
                harmed = state._replace(harm=Harm(-1, ABSENT))
                yield ("DAMAGE: joined run", at), self._join(harmed, at, DAMAGED)

    # How a request changes the store.

    def _can_put(self, state: State, number: int, event: object = None) -> bool:
        if taken(state.log, number):
            return not self._rules.create_only or not (number or self._rules.header_create_only)
        gone = number < len(state.log) and state.harm is not None
        return not gone or event == state.harm.event

    def _put(self, state: State, number: int, event: int) -> State:
        if number < len(state.log):
            return self._set(state, number, event)
        gap = (ABSENT,) * (number - len(state.log))
        return state._replace(log=(*state.log, *gap, event))

    def _set(self, state: State, number: int, event: int) -> State:
        log = state.log
        return state._replace(log=(*log[:number], event, *log[number + 1 :]))

    def _join(self, state: State, at: int, content: object) -> State:
        joined = state.joined
        return state._replace(joined=(*joined[:at], content, *joined[at + 1 :]))

    def _told(self, state: State, number: int) -> State:
        return state._replace(acknowledged=state.acknowledged | 1 << number)

    def _left(self, state: State, kind: str, at: int, content: object) -> State:
        return state._replace(late=state.late | {(kind, at, content)})

    def _settled(self, state: State) -> State:
        """Forget late requests that can never change anything again."""
        if not state.late:
            return state
        late = frozenset(request for request in state.late if self._matters(state, request))
        return state if late == state.late else state._replace(late=late)

    def _matters(self, state: State, request: Request) -> bool:
        kind, at, content = request
        if kind == "join":
            return state.joined[at] is None
        if kind == "mark":
            return not state.harm.marked
        if kind == "replace":
            return not self._rules.repair_checks or state.log[at] in (ABSENT, DAMAGED)
        if at < len(state.log) and state.log[at] == ABSENT and state.harm is not None:
            return content == state.harm.event
        return not self._forgets or not taken(state.log, at)


def _marked(state: State) -> State:
    return state._replace(harm=state.harm._replace(marked=True))


def _relied(state: State, number: int, why: str) -> State:
    """Remember a session that has read the damaged event whole."""
    harm = state.harm
    if harm is None or why != "opens" or harm.number < 0 or state.log[harm.number] == harm.event:
        return state
    return state._replace(harm=harm._replace(relied=number))

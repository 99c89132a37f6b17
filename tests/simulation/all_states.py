"""All states of a small model, breadth first, and the shortest history to one that is wrong.

States are hashable values. `steps(state)` gives each step that may come next as (what, who, state
after). States that differ in the order of their processes alone are one state: `Model.same`
gives the one that stands for them.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

State = TypeVar("State", bound=Hashable)

Step = tuple[tuple[object, ...], int, State]
"""What happens, the index of the process that it happens to (-1: none), the state after."""


@dataclass(frozen=True)
class Model(Generic[State]):
    """A small model: where it starts, what may happen, and what must never be."""

    start: State
    steps: Callable[[State], Iterator[Step[State]]]
    wrong: Callable[[State, tuple[object, ...], State], str]
    """Before, what happened, after: what is wrong, in words; empty if nothing is."""
    same: Callable[[State], tuple[State, tuple[int, ...]]]
    """The state with its processes in order, and which process is now where."""


@dataclass
class Walk(Generic[State]):
    """What a walk through all states found."""

    states: dict[State, tuple[State, tuple[object, ...]] | None]
    """Each state with the one before it and the step between, on a shortest way."""
    steps: int
    seconds: float
    wrong: str = ""
    history: tuple[str, ...] = ()
    """The steps to what is wrong; nothing shorter leads there."""


def walked(model: Model[State]) -> Walk[State]:
    """Walk through all states, or up to the first wrong one."""
    begun, count = time.process_time(), 0
    start, _ = model.same(model.start)
    seen: dict[State, tuple[State, tuple[object, ...]] | None] = {start: None}
    waiting = deque([start])
    steps, wrong, same = model.steps, model.wrong, model.same
    while waiting:
        state = waiting.popleft()
        for what, _, reached in steps(state):
            count += 1
            fault = wrong(state, what, reached)
            if fault:
                seconds = time.process_time() - begun
                history = _told(model, seen, state, what, reached)
                return Walk(seen, count, seconds, fault, history)
            after, _ = same(reached)
            if after not in seen:
                seen[after] = (state, what)
                waiting.append(after)
    return Walk(seen, count, time.process_time() - begun)


def _told(
    model: Model[State],
    seen: dict[State, tuple[State, tuple[object, ...]] | None],
    last: State,
    what: tuple[object, ...],
    reached: State,
) -> tuple[str, ...]:
    """The way to a state, with one name for each process all along."""
    way = [(what, reached)]
    at = last
    while (found := seen[at]) is not None:
        way.append((found[1], at))
        at = found[0]
    names = "ABCDEFG"
    told = []
    for step, end in reversed(way):
        who, raw = next(
            (who, raw)
            for now, who, raw in model.steps(at)
            if now == step and (raw == end or model.same(raw)[0] == end)
        )
        told.append(f"{names[who]}: {_words(step)}" if who >= 0 else _words(step))
        at, order = model.same(raw)
        names = "".join(names[index] for index in order) + names[len(order) :]
    return tuple(told)


def _words(what: tuple[object, ...]) -> str:
    return " ".join(str(word) for word in what)

"""The log's code does what its small model does. If these fail, the claims that the model was
walked for say nothing about a real study."""

from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest
from all_states import Model, walked
from log_claims import broken
from log_driver import Still, World, follow
from log_model import Store
from log_state import Rules, Size, State, in_order, start

from ray_unlearn.store import object_log
from ray_unlearn.store.object_storage import ObjectStorage

Way = list[tuple[tuple[object, ...], State]]
"""Steps, each with the state after it: two processes may do the same, with another end."""


def model_of(size: Size) -> Model[State]:
    return Model(start(size), Store(Rules(), size).steps, broken, in_order)


def paths_over_every_step(model: Model[State]) -> list[Way]:
    """Paths from the start that take every step from every state at least once."""
    steps = {
        state: [(what, model.same(raw)[0]) for what, _, raw in model.steps(state)]
        for state in walked(model).states
    }
    left = {(state, move) for state, moves in steps.items() for move in moves}
    start, _ = model.same(model.start)
    paths: list[Way] = []
    while left:
        path, state = [], start
        while (way := _to_the_next(steps, left, state)) is not None:
            for move in way:
                left.discard((state, move))
                path.append(move)
                state = move[1]
        paths.append(path)
    return paths


def _to_the_next(
    steps: dict[State, Way], left: set[tuple[State, object]], state: State
) -> Way | None:
    """The shortest way on that ends with a step not yet taken; None if there is none."""
    before: dict[State, tuple[State, tuple[tuple[object, ...], State]] | None] = {state: None}
    waiting = deque([state])
    while waiting:
        at = waiting.popleft()
        for move in steps[at]:
            if (at, move) in left:
                way = [move]
                while (found := before[at]) is not None:
                    at = found[0]
                    way.append(found[1])
                return way[::-1]
            if move[1] not in before:
                before[move[1]] = (at, move)
                waiting.append(move[1])
    return None


@pytest.mark.parametrize("answers_lost", [False, True], ids=["answered", "answer-lost"])
def test_the_real_log_takes_every_step_of_the_model(
    answers_lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_log, "ATTEMPTS", 1)  # the model opens again instead
    take_every_step(Size(2, 4, joins=False, damage=False), tmp_path, answers_lost=answers_lost)


def take_every_step(size: Size, folder: Path, *, answers_lost: bool) -> None:
    model = model_of(size)
    paths = paths_over_every_step(model)
    print(f"{len(paths)} paths, {sum(map(len, paths)):,} steps")
    for path in paths:
        follow(World(folder, size.processes, answers_lost=answers_lost), model, path)


def taken_for_success(patch: pytest.MonkeyPatch) -> None:
    def create(self: ObjectStorage, name: str, content: bytes) -> bool:
        return real(self, name, content) or True

    real = ObjectStorage.create
    patch.setattr(ObjectStorage, "create", create)


def equal_lines(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Still, "unique_name", lambda self, digits=12: "0" * digits)


def writes_on_after_a_failure(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(object_log.ObjectLog, "check", lambda self: None)


def overwrites(patch: pytest.MonkeyPatch) -> None:
    def create(self: ObjectStorage, name: str, content: bytes) -> bool:
        self.write(name, content)
        return True

    patch.setattr(ObjectStorage, "create", create)


@pytest.mark.parametrize(
    "break_rule", [taken_for_success, equal_lines, writes_on_after_a_failure, overwrites]
)
def test_code_that_breaks_a_rule_is_seen_to_leave_the_model(
    break_rule: Callable[[pytest.MonkeyPatch], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(object_log, "ATTEMPTS", 1)
    break_rule(monkeypatch)
    with pytest.raises(AssertionError):
        take_every_step(Size(2, 3, joins=False, damage=False), tmp_path, answers_lost=False)

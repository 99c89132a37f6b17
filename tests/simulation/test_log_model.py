"""All states of the object store's log. If these fail, a study can lose what was acknowledged, or
somebody has changed a rule without which it would.

The whole walk has three processes and six events. `pytest -s` prints the counts and, for each rule
that is broken on purpose, the shortest history that leads to a broken claim (decision 28).
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
from _pytest.mark import ParameterSet
from all_states import Model, Walk, walked
from log_claims import broken
from log_model import Store
from log_state import DAMAGED, IDLE, Harm, Rules, Size, State, in_order, merged, start

Same = Callable[[State], tuple[State, tuple[int, ...]]]

SMALL = [Size(2, 4), Size(3, 4, joins=False), Size(3, 5, damage=False)]


def walk(rules: Rules, size: Size, same: Same = in_order) -> Walk[State]:
    return walked(Model(start(size), Store(rules, size).steps, broken, same))


def test_nothing_acknowledged_is_lost_in_any_state_of_three_processes_and_six_events() -> None:
    size = Size(joins=False)
    whole = walk(Rules(), size, merged)
    print(f"{len(whole.states):,} states, {whole.steps:,} steps, {whole.seconds:.1f} s")
    assert not whole.wrong, "\n".join((whole.wrong, *whole.history))
    assert len(whole.states) > 80_000
    assert any(state.harm and state.harm.marked for state in whole.states)
    stuck = [state for state in whole.states if not goes_on(state)]
    assert not stuck, stuck[0]


def test_a_study_with_joined_objects_at_any_time_loses_nothing() -> None:
    whole = walk(Rules(), Size(2, 5), merged)
    print(f"{len(whole.states):,} states, {whole.steps:,} steps, {whole.seconds:.1f} s")
    assert not whole.wrong, "\n".join((whole.wrong, *whole.history))


@pytest.mark.parametrize("size", SMALL, ids=str)
def test_merging_states_that_nobody_can_tell_apart_leaves_none_out(size: Size) -> None:
    """Else the whole walk would be blind somewhere: here both walks are made, and compared."""
    every, few = walk(Rules(), size), walk(Rules(), size, merged)
    assert not every.wrong
    assert {merged(state)[0] for state in every.states} == set(few.states)


KNOWN: dict[tuple[object, ...], bool] = {}


def goes_on(state: State) -> bool:
    """Whether a new process alone, without further faults, opens the study and appends.

    All others are silent, which is the worst that they can be: what they do not do does not help.
    """
    key = (state.log, state.joined, state.harm)
    if key not in KNOWN:
        KNOWN[key] = _goes_on(state)
    return KNOWN[key]


def _goes_on(state: State, *, repairs: bool = True) -> bool:
    size = Size(1, len(state.log) + 12, damage=False)
    steps = Store(Rules(), size).steps
    state = state._replace(processes=(IDLE,), late=frozenset())
    for _ in range(20):
        moves = [(what, after) for what, who, after in steps(state) if who == 0]
        moves = [move for move in moves if "dies" not in str(move[0][0])]
        if not moves or (not repairs and moves[0][0][0] == "opens to repair: reads"):
            return False
        what, state = moves[0]
        if what[0] == "event" and what[-1] == "is acknowledged":
            return True
    return False


def broken_rule(words: str, size: Size, **rules: object) -> ParameterSet:
    return pytest.param(replace(Rules(), **rules), size, words, id="-".join(map(str, rules)))


MUTANTS = [
    broken_rule("event 0 is replaced", Size(2, 3, remembers=True), create_only=False),
    broken_rule("event 0 is replaced", Size(2, 3, remembers=True), header_create_only=False),
    broken_rule("two processes are open", Size(2, 3), session_after_header=False),
    broken_rule("is another's event", Size(2, 3), compares=False),
    broken_rule("number 2 is absent", Size(2, 4), stops_when_unknown=False),
    broken_rule("two processes are open", Size(3, 3), session_event=False),
    broken_rule("is another's event", Size(2, 4), stops_when_taken=False),
    broken_rule("two processes are open", Size(2, 4, damage=False), keeps_singles=False),
    broken_rule("others read it as lost", Size(3, 5, joins=False), reads_anew=False),
    broken_rule("two processes are open", Size(2, 4), repair_session=False),
    broken_rule(
        "event 1 is replaced", Size(2, 5, joins=False, remembers=True), repair_checks=False
    ),
    broken_rule("its joined copy", Size(2, 5), repair=("reopen", "replace")),
    broken_rule(
        "others read it as lost", Size(2, 5, joins=False), repair=("reopen", "mark", "replace")
    ),
    broken_rule("not reopened", Size(2, 5), repair=("mark", "replace", "reopen")),
]


@pytest.mark.parametrize(("rules", "size", "words"), MUTANTS)
def test_without_any_one_of_its_rules_the_log_breaks_a_claim(
    rules: Rules, size: Size, words: str
) -> None:
    found = walk(rules, size)
    print("\n  ".join((found.wrong, *found.history)))
    assert words in found.wrong


def test_a_study_in_which_nobody_can_go_on_is_seen() -> None:
    """Without a repair a damaged number stops everybody."""
    assert goes_on(start(Size(1, 6)))
    damaged = State((0, 2, DAMAGED), -1, (IDLE,), frozenset(), (None,) * 3, Harm(2, 2))
    assert _goes_on(damaged)
    assert not _goes_on(damaged, repairs=False)

"""A folder on a file system without locks. These tests say what is promised there, and what is not:
between two processes that both take themselves for the holder, time decides."""

import pytest
from all_states import Model, Walk, walked
from folder_model import Folder, Steps, Ways, as_is, begun, lost, ranked


def walk(ways: Ways) -> Walk[Folder]:
    same = ranked if ways.claims else as_is
    found = walked(Model(begun(ways), Steps(ways), lost, same))
    print(f"{len(found.states):,} states, {found.steps:,} steps, {found.seconds:.1f} s")
    print("\n  ".join((found.wrong, *found.history)))
    return found


def test_without_locks_a_process_stopped_while_it_takes_a_folder_can_cost_an_acknowledged_event():
    """Known, and said in docs/survival.md: both look, both write the lease with the same fence.

    If this fails the folder has become safer than the page says: correct the page.
    """
    found = walk(Ways(processes=2))
    assert "acknowledged event 1" in found.wrong
    assert len(found.history) == 11


def test_without_locks_a_folder_that_is_taken_at_once_loses_nothing() -> None:
    """The holder may be alive, be stopped anywhere else, wake up, and write late."""
    found = walk(Ways(processes=2, lines=3, at_once=True, takes=4))
    assert not found.wrong
    assert any(state.late for state in found.states)


def test_without_a_second_look_at_the_lease_an_acknowledged_event_is_lost() -> None:
    found = walk(Ways(processes=2, at_once=True, takes=3, checks_after=False))
    assert "acknowledged event 1" in found.wrong


def test_claimed_fences_would_lose_nothing_whoever_is_stopped() -> None:
    assert not walk(Ways(processes=2, lines=3, claims=True)).wrong


@pytest.mark.slow
@pytest.mark.parametrize("ways", [Ways(2, 4, claims=True), Ways(3, 3, claims=True)], ids=str)
def test_claimed_fences_lose_nothing_in_more_states(ways: Ways) -> None:
    assert not walk(ways).wrong

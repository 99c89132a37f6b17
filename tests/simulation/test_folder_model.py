"""A folder on a file system without locks. These tests say what is promised there, and what is not:
between two processes that both take themselves for the holder, time decides."""

import errno
from pathlib import Path

import pytest
from all_states import Model, Walk, walked
from folder_model import Folder, Steps, Ways, as_is, begun, lost, ranked

from ray_unlearn.environment import Environment
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.event import Header, Note
from ray_unlearn.store.folder_log import LinesFile
from ray_unlearn.store.lease import LEASE_FILE, LeasePlace
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.storage import FolderStorage


def walk(ways: Ways) -> Walk[Folder]:
    same = ranked if ways.claims else as_is
    found = walked(Model(begun(ways), Steps(ways), lost, same))
    print(f"{len(found.states):,} states, {found.steps:,} steps, {found.seconds:.1f} s")
    print("\n  ".join((found.wrong, *found.history)))
    return found


def test_without_locks_two_that_take_a_folder_at_once_can_cost_an_acknowledged_event() -> None:
    """Known, and said in docs/survival.md: both look, both write the lease with the same fence.

    The next test does the same with the real folder. If they fail, correct the page.
    """
    found = walk(Ways(processes=2))
    assert "acknowledged event 1" in found.wrong
    assert len(found.history) == 11


class OtherProcess(Environment):
    """The same machine, seen from another process."""

    pid = 4711


def test_the_real_folder_without_locks_goes_the_way_of_that_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A is stopped before it writes its line, B between looking at the lease and writing it."""

    def unsupported(*what: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    def stopped(lines: LinesFile, line: bytes) -> int:
        monkeypatch.setattr(LinesFile, "append", append)
        with monkeypatch.context() as patch:
            patch.setattr(LeasePlace, "refuse_if_held", lambda place, **how: seen)
            others.append(Ledger.open(tmp_path, OtherProcess()))
        return append(lines, line)

    others: list[Ledger] = []
    append = LinesFile.append
    monkeypatch.setattr("fcntl.flock", unsupported)
    Ledger.create(tmp_path, Header()).close()
    seen = LeasePlace(FolderStorage(tmp_path), LEASE_FILE).holder()
    with Ledger.open(tmp_path) as a:
        monkeypatch.setattr(LinesFile, "append", stopped)
        with pytest.raises(StorageError, match="lost the study to process 4711"):
            a.append(Note("not acknowledged"))
        (b,) = others
        with b:
            assert a.fence == b.fence
            b.append(Note("acknowledged"))
    assert read_ledger(tmp_path).notes == ["not acknowledged"]


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
def test_claimed_fences_lose_nothing_in_more_states() -> None:
    assert not walk(Ways(processes=2, claims=True)).wrong

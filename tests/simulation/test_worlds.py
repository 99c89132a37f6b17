"""Simulated studies under thousands of faults. If these fail, a study loses what it had
acknowledged, has it twice, or cannot be read; the message is a short history that shows how.
"""

import os
from pathlib import Path

import pytest
from campaign import WORLDS, explained, one
from disk import Disk
from faults import Faults
from folder_world import FolderWorld
from machines import Machines
from object_world import ObjectWorld
from oracle import Oracle
from shrink import shrunk

from ray_unlearn.environment import Environment
from ray_unlearn.store.atomic_write import write_whole

SEEDS = {"folder": 16, "object": 16, "folder study": 6, "object study": 4}
"""About 5,000 faults."""


@pytest.mark.parametrize("world", WORLDS)
def test_whatever_happens_nothing_acknowledged_is_lost_or_twice_and_the_study_goes_on(
    world: str,
) -> None:
    first = int(os.environ.get("SEED", "0"))
    faults = 0
    for seed in range(first, first + int(os.environ.get("SEEDS", SEEDS[world]))):
        tally = one(world, seed)
        faults += sum(tally.faults.values())
        assert not tally.failing, f"{world}, seed {seed}:\n{explained(world, seed)}"
    assert faults > 20 * SEEDS[world]


@pytest.mark.parametrize("world", [FolderWorld, ObjectWorld])
def test_a_seed_gives_the_same_history_every_time(world: type[FolderWorld]) -> None:
    """A failure can be replayed; what a power cut leaves once hung on drafts' random names."""
    assert len({world(seed).run().digest for seed in (2, 3, 36)}) == 3
    for seed in (2, 3, 36):
        assert len({world(seed).run().digest for _ in range(3)}) == 1


# -- the simulation itself -------------------------------------------------------------------------


def test_a_failing_history_is_shrunk_to_the_faults_that_it_needs() -> None:
    class Judged:
        def __init__(self, allowed: frozenset[int] | None, duration_s: float | None) -> None:
            self.faults = Faults(0, {}, allowed)
            self.oracle = Oracle(lambda: 1.0)
            self.duration_s = 100.0 if duration_s is None else duration_s
            self.trace: list[tuple[float, int, str]] = []
            self.digest = ""
            for _ in range(50):
                self.faults.happens("killed")
            if {7, 31} <= set(self.faults.fired):
                self.oracle.violated("lost", "an event")

    assert shrunk(Judged).faults.fired == [7, 31]


@pytest.mark.parametrize("synced", [True, False])
def test_a_power_cut_leaves_what_was_synced_and_no_more(tmp_path: Path, synced: bool) -> None:
    """Otherwise a missing fsync would go unnoticed."""

    class Synced(Environment):
        def fsync(self, handle: int) -> None:
            if synced:
                disk.fsync(handle)

    kept = set()
    for seed in range(30):
        machines = Machines(seed, Faults(seed, {}))
        disk = Disk(tmp_path / str(seed), machines)
        disk.root.mkdir()
        write_whole(disk.root / "file", b"content", Synced())
        disk.power_cut()
        path = disk.root / "file"
        kept.add(path.read_bytes() if path.exists() else None)
        machines.scheduler.close()
    assert (kept == {b"content"}) is synced
    assert synced or None in kept

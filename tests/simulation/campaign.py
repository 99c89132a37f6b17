"""Many seeds of all worlds: what `benchmarks/simulate.py` and the tests run."""

import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from folder_world import FolderWorld
from object_world import ObjectWorld
from shrink import Run, history, shrunk
from study_world import FolderStudyWorld, ObjectStudyWorld

WORLDS: dict[str, type[Any]] = {
    "folder": FolderWorld,
    "object": ObjectWorld,
    "folder study": FolderStudyWorld,
    "object study": ObjectStudyWorld,
}


@dataclass
class Tally:
    """What came of some histories."""

    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    holders: int = 0
    histories: int = 0
    failing: list[tuple[str, int]] = field(default_factory=list)
    """World and seed."""

    def add(self, other: "Tally") -> None:
        """Take in another one."""
        self.faults += other.faults
        self.outcomes += other.outcomes
        self.broken += other.broken
        self.holders += other.holders
        self.histories += other.histories
        self.failing += other.failing


def one(kind: str, seed: int) -> Tally:
    """One history. An exception of the code under test is a broken rule too."""
    world = WORLDS[kind](seed)
    try:
        world.run()
    except Exception:
        world.oracle.violated("exception", traceback.format_exc(limit=-6))
    failing = [(kind, seed)] if world.oracle.violations else []
    return Tally(
        world.faults.counts, world.outcomes, world.oracle.broken, world.holders, 1, failing
    )


def seeds(first: int) -> Iterator[tuple[str, int]]:
    """World after world, seed after seed, for ever; a whole study takes as long as ten logs."""
    while True:
        yield "folder", first
        yield "object", first
        if first % 10 == 0:
            yield "folder study", first
            yield "object study", first
        first += 1


def runner(kind: str, seed: int) -> Run:
    """Runs this history again, with fewer faults; see `shrink`."""

    def run(allowed: frozenset[int] | None, duration_s: float | None) -> Any:
        world = WORLDS[kind](seed, allowed, duration_s)
        try:
            world.run()
        except Exception:
            world.oracle.violated("exception", traceback.format_exc(limit=-6))
        return world

    return run


def explained(kind: str, seed: int) -> str:
    """A short history that breaks what this seed breaks."""
    return history(shrunk(runner(kind, seed)))

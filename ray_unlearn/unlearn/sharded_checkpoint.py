"""Checkpoints of a sharded trial: each rank writes its part of the state.

    last.3-1-6.rank0of2.pt, last.3-1-6.rank1of2.pt    update 6, two workers; the attempt's fence
                                                      is `3-1`

The previous parts are deleted once all of the new ones exist, so one whole set is on disk whenever
a process dies. A set counts if each rank can read its part of it. With another number of workers it
cannot be used, and the trial starts again.
"""

import re
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from ray_unlearn.unlearn.checkpoint import (
    Checkpoints,
    TrialState,
    attempt_of,
    attempts,
    fence,
    first_line,
)
from ray_unlearn.unlearn.comm import Comm

PART = re.compile(r"-(\d+)\.rank(\d+)of(\d+)$")


class ShardedCheckpoints(Checkpoints):
    """`Checkpoints` with one file per rank beside `path`.

    Saving and restoring are collectives; rank 0 decides.
    """

    def __init__(self, comm: Comm, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._comm = comm

    def restore(self, state: TrialState) -> None:
        """Restore the newest set of the last attempt that every rank can read its part of."""
        if self._path is None:
            return
        self._fetch()
        self._comm.gather(True)  # all have what they need before rank 0 lists it
        world = self._comm.world_size
        sets = [
            (path.name, update)
            for path in attempts(self._path)
            for update in complete_sets(path, world)
        ]
        for name, update in self._comm.broadcast(sets):
            content = state.read(
                part_file(self._path.with_name(name), update, self._comm.rank, world), self.known
            )
            usable = self._comm.gather(content is not None and content["meter"]["update"] == update)
            if self._comm.broadcast(usable is not None and all(usable)):
                assert content is not None
                state.take(content)
                self._restored(update)
                return

    def _reads(self, name: str) -> bool:
        """Whether this rank reads a file: its own parts; for others their existence is enough."""
        part = PART.search(Path(name).stem)
        return part is None or int(part[2]) == self._comm.rank

    def between_updates(self, state: TrialState) -> None:
        """Save if rank 0 decides so."""
        update = state.meter.update
        wanted, due = self._comm.broadcast((self._wanted(update), self._is_due()))
        if not (wanted or due) or update == state.config.steps:
            return
        if self._path is None:
            if self._writes and wanted:
                self._saved(update)
            return
        self._last = time.monotonic()
        part = part_file(self._path, update, self._comm.rank, self._comm.world_size)
        problem = ""
        try:
            self._save(state, part)
        except (OSError, RuntimeError) as error:
            problem = first_line(error)
        problems = self._comm.gather(problem)
        problem = self._comm.broadcast(
            problem if problems is None else next(filter(None, problems), "")
        )
        if problem:
            part.unlink(missing_ok=True)
        else:
            self._remove_others(part)
        if self._writes:
            self._tell(update, wanted, problem)

    def _remove_others(self, part: Path) -> None:
        """Remove this rank's older parts, but never those of a later attempt.

        Rank 0 also removes what other numbers of workers have left.
        """
        assert self._path is not None
        own, world = self._comm.rank, self._comm.world_size
        for path, (_, rank, ranks) in _parts(self._path):
            mine = (rank, ranks) == (own, world) or (own == 0 and ranks != world)
            if mine and path != part and fence(path) <= fence(part):
                self._drop(path)
        if own == 0:
            for whole in attempts(self._path):
                if whole.exists():
                    self._drop(whole)


def part_file(path: Path, update: int, rank: int, world: int) -> Path:
    """The file of a rank's part of the state after `update`."""
    return path.with_name(f"{path.stem}-{update}.rank{rank}of{world}{path.suffix}")


def complete_sets(path: Path, world: int) -> list[int]:
    """Updates with all `world` parts of this attempt, the newest first."""
    ranks: dict[int, set[int]] = defaultdict(set)
    for file, (update, rank, of) in _parts(path):
        if of == world and attempt_of(file) == path:
            ranks[update].add(rank)
    return sorted((update for update, there in ranks.items() if len(there) == world), reverse=True)


def _parts(path: Path) -> list[tuple[Path, tuple[int, int, int]]]:
    """Files of parts of all attempts, with their update, rank and number of ranks."""
    found = []
    for file in path.parent.glob(f"last*{path.suffix}"):
        match = PART.search(file.stem)
        if match is not None:
            update, rank, world = map(int, match.groups())
            found.append((file, (update, rank, world)))
    return found

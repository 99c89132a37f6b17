"""The ledger in an object store: immutable objects of whole lines of `events.jsonl`.

    ledger/segments/
        00000003-0000000120-0000000120.jsonl       event 120, written under fence 3
        00000003-0000000000-0000000063.jsonl       events 0 to 63 of that writer, joined later
        00000004-0000000000-0000000119.base.jsonl  all events, written again by a repair:
                                                   older segments do not count

Objects are never changed, so nothing can be torn. In the order of their names they are the file
that a local study would have. What a writer still writes after it has lost its lease carries its
old fence, and `scan` leaves it out. So a reader needs no lock, and a writer that was cut off can do
no harm (Kleppmann 2016, "How to do distributed locking").
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.event_line import decoded
from ray_unlearn.store.storage import Storage

SEGMENTS = "ledger/segments"
NAME = re.compile(SEGMENTS + r"/(\d{8,})-(\d{10,})-(\d{10,})(\.base)?\.jsonl")
LEVELS = (64, 4096, 262_144)
"""Sizes in events; objects below one of them are joined as soon as there are `FEW` of them."""
FEW = 64
READERS = 16
LOOKS = 5
"""Number of times that a reader lists the objects, as listed ones may be joined meanwhile."""


@dataclass(frozen=True, order=True)
class Segment:
    """A run of events in one object, as its name describes it."""

    fence: int
    first: int
    last: int
    base: bool = False

    @property
    def name(self) -> str:
        """Name of the object, below the study."""
        ending = ".base.jsonl" if self.base else ".jsonl"
        return f"{SEGMENTS}/{self.fence:08d}-{self.first:010d}-{self.last:010d}{ending}"

    @property
    def events(self) -> int:
        """Number of events."""
        return self.last - self.first + 1


def parsed(name: str) -> Segment | None:
    """The segment of that name; None for anything else."""
    match = NAME.fullmatch(name)
    return Segment(int(match[1]), int(match[2]), int(match[3]), bool(match[4])) if match else None


def needed(segments: Iterable[Segment]) -> list[Segment]:
    """Segments that make up the ledger, in order.

    Those that a larger one contains, and those from before a repair, are left out.
    """
    there = sorted(segments, key=lambda s: (s.fence, s.first, -s.last))
    bases = [index for index, segment in enumerate(there) if segment.base]
    there = there[bases[-1] :] if bases else there
    kept: list[Segment] = []
    for segment in there:
        if kept and kept[-1].fence == segment.fence and segment.last <= kept[-1].last:
            continue
        kept.append(segment)
    return kept


def stored_segments(storage: Storage) -> list[Segment]:
    """All segments of the study.

    Raises:
        OSError: the storage fails.
    """
    return [
        segment for file in storage.files(SEGMENTS) if (segment := parsed(file.name)) is not None
    ]


def read_segments(
    storage: Storage, known: dict[Segment, bytes] | None = None, environment: Environment = REAL
) -> list[tuple[Segment, bytes]]:
    """The segments that make up the ledger, with their content.

    Args:
        storage: the study's storage.
        known: contents from an earlier call, which are not read again.
        environment: runs the readers.

    Raises:
        OSError: the storage fails.
        StorageError: objects vanish while they are read.
    """
    known = known or {}
    for _ in range(LOOKS):
        segments = needed(stored_segments(storage))
        missing = [segment for segment in segments if segment not in known]
        try:
            contents = dict(
                zip(
                    missing,
                    environment.map(lambda s: storage.read(s.name), missing, READERS),
                    strict=True,
                )
            )
        except FileNotFoundError:  # joined with others meanwhile
            continue
        return [
            (segment, known[segment] if segment in known else contents[segment])
            for segment in segments
        ]
    raise StorageError(
        f"{storage.url}: objects of its ledger vanish while they are read; is something deleting "
        "them?"
    )


def worth_joining(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    """Runs of a writer's neighbouring segments that should become one.

    A run has at least `FEW` segments of the same level.
    """
    for _, group in groupby(needed(segments), key=lambda s: (s.fence, s.base, _level(s))):
        run: list[Segment] = []
        for segment in group:
            if run and segment.first != run[-1].last + 1:
                if len(run) >= FEW:
                    yield run
                run = []
            run.append(segment)
        if len(run) >= FEW and not run[0].base:
            yield run


def joined(run: list[Segment]) -> Segment:
    """One segment for all segments of a run."""
    assert all(one.last + 1 == other.first for one, other in pairwise(run))
    return Segment(run[0].fence, run[0].first, run[-1].last)


def check_segment(segment: Segment, content: bytes, url: str) -> bytes:
    """The content of a segment, if it agrees with the segment's name.

    Raises:
        StorageError: a line is damaged, or not all events are there.
    """
    lines = content.splitlines(keepends=True)
    damaged = any(decoded(line, Path(segment.name), 0) is None for line in lines)
    if damaged or len(lines) != segment.events:
        raise StorageError(
            f"{url}: {segment.name}: damaged, and not put together with others; see "
            f"`ray-unlearn verify {url}`"
        )
    return content


def _level(segment: Segment) -> int:
    return next(
        (level for level, limit in enumerate(LEVELS) if segment.events < limit), len(LEVELS)
    )

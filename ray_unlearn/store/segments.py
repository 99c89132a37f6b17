"""The ledger in an object store: immutable objects, each with one or more whole lines of
`events.jsonl`.

    ledger/segments/
        00000003-0000000120-0000000120.jsonl       event 120, written under fence 3
        00000003-0000000000-0000000063.jsonl       events 0 to 63 of that writer, put together later
        00000004-0000000000-0000000119.base.jsonl  all events, written again by a repair:
                                                   older segments do not count

Objects are never changed, so nothing can be torn. In the order of their names they are the file a
local study would have: what a writer that has lost its lease still writes stands under its old
token, and `scan` leaves it out. A reader therefore needs no lock, and a writer that was cut off can
do no harm (Kleppmann 2016, "How to do distributed locking").
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
"""Objects of fewer events than this are put together as soon as there are `FEW` of them."""
FEW = 64
READERS = 16
LOOKS = 5
"""A reader looks again when an object that was listed has been put together with others
meanwhile."""


@dataclass(frozen=True, order=True)
class Segment:
    """What an object's name says."""

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
        """How many."""
        return self.last - self.first + 1


def parsed(name: str) -> Segment | None:
    """The segment of that name; None for anything else."""
    match = NAME.fullmatch(name)
    return Segment(int(match[1]), int(match[2]), int(match[3]), bool(match[4])) if match else None


def needed(segments: Iterable[Segment]) -> list[Segment]:
    """Segments that make up the ledger, in order.

    Left out are those that a larger one holds, and those from before a repair.
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
        storage: of the study.
        known: contents from an earlier call: they are not read again.
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
        except FileNotFoundError:  # put together with others meanwhile
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
    """Runs of a writer's neighbouring segments that should become one: at least `FEW` of the same
    level."""
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
    """One segment for all of them."""
    assert all(one.last + 1 == other.first for one, other in pairwise(run))
    return Segment(run[0].fence, run[0].first, run[-1].last)


def check_segment(segment: Segment, content: bytes, url: str) -> bytes:
    """The content, if it is what the segment's name says.

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

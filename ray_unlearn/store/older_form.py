"""Studies in object stores in the form of older versions, and their migration.

    ledger/segments/00000003-0000000120-0000000120.jsonl   event 120, written under fence 3
    ledger/segments/00000003-0000000000-0000000063.jsonl   events 0 to 63 of that writer
    ledger/segments/00000004-0000000000-0000000119.base.jsonl  all events, written by a repair
    ledger/lease/00000003-1f0c2a.json                      who writes
    ledger/header.json                                     the first event

That form told writers apart by the fence in each name, and could begin one study over another.
"""

import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.store.event import Header
from ray_unlearn.store.event_line import decoded
from ray_unlearn.store.lease import LeasePlace
from ray_unlearn.store.object_events import event_object
from ray_unlearn.store.scan import events_file, header_file
from ray_unlearn.store.storage import Storage, is_stored

HEADER = "ledger/header.json"
SEGMENTS = "ledger/segments"
CLAIMS = "ledger/lease"
READERS = 16
_NAME = re.compile(SEGMENTS + r"/(\d{8,})-(\d{10,})-(\d{10,})(\.base)?\.jsonl")


class _Segment(NamedTuple):
    fence: int
    first: int
    last: int
    base: bool
    name: str


def refuse_older_form(storage: Storage) -> None:
    """Refuse a study that has to be migrated first.

    Raises:
        StorageError: it has the older form, or the storage fails.
    """
    try:
        if is_stored(storage, event_object(0)):
            return
        older = is_stored(storage, HEADER) or bool(storage.files(SEGMENTS))
    except OSError as error:
        raise StorageError(str(error)) from None
    if older:
        raise StorageError(
            f"{storage.url}: this study was written by an older version; `ray-unlearn migrate "
            f"{storage.url}` gives it the form of this one, and loses nothing"
        )


def fetch_older_form(storage: Storage, folder: Path, environment: Environment = REAL) -> None:
    """Fetch a study of the older form as the ledger of a folder.

    Of several studies that were begun one over the other, the one with the most events is fetched;
    the others become files beside it (`other-study-*.jsonl`).

    Args:
        storage: the study's storage.
        folder: the ledger's folder.
        environment: runs the readers.

    Raises:
        OSError: the storage fails.
        StorageError: there is no study of that form, or a process is writing it.
    """
    for claim in storage.files(CLAIMS):
        LeasePlace(storage, claim.name, environment).refuse_if_held()
    matches = (_NAME.fullmatch(file.name) for file in storage.files(SEGMENTS))
    segments = _needed(
        _Segment(int(m[1]), int(m[2]), int(m[3]), bool(m[4]), m[0]) for m in matches if m
    )
    names = [segment.name for segment in segments] or [HEADER]
    try:
        contents = environment.map(storage.read, names, READERS)
    except FileNotFoundError:
        raise StorageError(f"{storage.url}: no study of an older version there") from None
    studies = _apart(b"".join(contents).splitlines(keepends=True))
    chosen = max(studies, key=lambda lines: (_headed(lines), len(lines)))
    write_whole(events_file(folder), b"".join(chosen), environment)
    if len(studies) == 1 and is_stored(storage, HEADER):
        write_whole(header_file(folder), storage.read(HEADER), environment)
    others = [lines for lines in studies if lines is not chosen]
    for number, lines in enumerate(others, start=1):
        write_whole(folder / f"other-study-{number}.jsonl", b"".join(lines), environment)


def remove_older_form(storage: Storage) -> None:
    """Delete the objects of the older form.

    Raises:
        OSError: the storage fails.
    """
    for file in (*storage.files(SEGMENTS), *storage.files(CLAIMS)):
        storage.remove(file.name)
    storage.remove(HEADER)


def _needed(segments: Iterable[_Segment]) -> list[_Segment]:
    """Segments that make up the ledger, in order.

    Those that a larger one contains, and those from before a repair, are left out.
    """
    there = sorted(segments, key=lambda s: (s.fence, s.first, -s.last))
    bases = [index for index, segment in enumerate(there) if segment.base]
    there = there[bases[-1] :] if bases else there
    kept: list[_Segment] = []
    for _, of_one in groupby(there, key=lambda s: s.fence):
        last = -1
        for segment in of_one:
            if segment.last > last:
                kept.append(segment)
                last = segment.last
    return kept


def _apart(lines: list[bytes]) -> list[list[bytes]]:
    """The lines of each study: from one header to the next."""
    studies: list[list[bytes]] = [[]]
    for line in lines:
        if studies[-1] and _headed([line]):
            studies.append([])
        studies[-1].append(line)
    return studies


def _headed(lines: list[bytes]) -> bool:
    entry = decoded(lines[0], Path(HEADER), 0) if lines else None
    return entry is not None and isinstance(entry.event, Header)

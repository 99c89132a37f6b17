"""The events of a study in an object store, one object each.

    ledger/log/0000000120.jsonl                   event 120, for ever
    ledger/joined/0000000064-0000000127.jsonl     a copy of events 64 to 127, quicker to read
    ledger/replaced/0000000120.jsonl              what was there before a repair, if anything
    ledger/first_event.json                       a copy of the header, which is there before it is

An event's object is created only if it is absent, so there is one event per number whoever writes,
and none is ever left out. Nothing is deleted: a request that was on its way for minutes could
otherwise make a deleted number anew.
"""

import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.store.event_line import LINE_BEGINS, decoded
from ray_unlearn.store.storage import Storage

EVENTS = "ledger/log"
JOINED = "ledger/joined"
REPLACED = "ledger/replaced"
HEADER_COPY = "ledger/first_event.json"
RUNS = (4096, 64)
"""Numbers of events in a joined object, the largest first; each begins at a multiple of its own."""
READERS = 16
MOST_ABSENT = 1_000
_EVENT = re.compile(EVENTS + r"/(\d{10,})\.jsonl")
_JOINED = re.compile(JOINED + r"/(\d{10,})-(\d{10,})\.jsonl")
_REPLACED = re.compile(REPLACED + r"/(\d{10,})\.jsonl")


def event_object(number: int) -> str:
    """Name of an event's object."""
    return f"{EVENTS}/{number:010d}.jsonl"


def joined_object(run: range) -> str:
    """Name of the object that copies a run of events."""
    return f"{JOINED}/{run[0]:010d}-{run[-1]:010d}.jsonl"


def replaced_object(number: int) -> str:
    """Name of the object that says that a repair replaced an event, with what was there before."""
    return f"{REPLACED}/{number:010d}.jsonl"


def stored_runs(storage: Storage) -> set[range]:
    """The runs that have been joined.

    Raises:
        OSError: the storage fails.
    """
    matches = (_JOINED.fullmatch(file.name) for file in storage.files(JOINED))
    found = (range(int(match[1]), int(match[2]) + 1) for match in matches if match)
    return {run for run in found if len(run) in RUNS and run[0] % len(run) == 0}


def read_events(
    storage: Storage, first: int = 0, environment: Environment = REAL
) -> list[tuple[int, bytes]]:
    """The lines of all events from a number on, by number; lost ones are left out.

    Args:
        storage: the study's storage.
        first: number of the first event.
        environment: runs the readers.

    Raises:
        OSError: the storage fails.
    """
    replaced = replaced_events(storage)
    while True:
        copies = _copies(storage, first, replaced, environment)
        listed = _numbers(storage, max(copies, default=first - 1) + 1)
        # Again: what a repair says comes after its marks, so who has read it must know them.
        marked, replaced = replaced, replaced_events(storage)
        if marked == replaced:
            break
    # A number that a listing leaves out is asked for itself before it is called lost; not all of
    # them where a name of a foreign object is far off.
    last = max([*copies, *listed], default=first - 1)
    known = copies.keys() | set(listed)
    absent = islice((n for n in range(first, last + 1) if n not in known), MOST_ABSENT)
    numbers = sorted({*listed, *absent} - copies.keys())
    lines = environment.map(partial(_line, storage), numbers, READERS)
    found = copies | {n: line for n, line in zip(numbers, lines, strict=True) if line is not None}
    return sorted(found.items())


def replaced_events(storage: Storage) -> set[int]:
    """Numbers of the events that a repair replaced.

    Raises:
        OSError: the storage fails.
    """
    matches = (_REPLACED.fullmatch(file.name) for file in storage.files(REPLACED))
    return {int(match[1]) for match in matches if match}


def complete_runs(start: int, end: int) -> Iterator[range]:
    """Runs of events that are complete between two numbers and worth a copy."""
    for length in RUNS:
        for first in range(-(-start // length) * length, end - length + 1, length):
            yield range(first, first + length)


def is_run(content: bytes, run: range) -> bool:
    """Whether the content is the whole lines of exactly these events."""
    lines = content.splitlines(keepends=True)
    return len(lines) == len(run) and all(
        is_event(line, number) for line, number in zip(lines, run, strict=True)
    )


def is_event(line: bytes, number: int) -> bool:
    """Whether this is the whole line of an event with this number."""
    entry = decoded(line, Path(EVENTS), 0)
    return entry is not None and entry.seq == number


def _cover(runs: set[range], first: int) -> list[range]:
    """Runs from a number on that do not overlap, the largest at each place."""
    found: list[range] = []
    for run in sorted(runs, key=lambda run: (run[0], -len(run))):
        if run[0] >= first:
            found.append(run)
            first = run[-1] + 1
    return found


def _copies(
    storage: Storage, first: int, replaced: set[int], environment: Environment
) -> dict[int, bytes]:
    """The lines of joined objects from a number on, the largest that are what their names say.

    A copy of an event that a repair has replaced is none.
    """
    usable = {run for run in stored_runs(storage) if replaced.isdisjoint(run)}
    lines: dict[range, list[bytes]] = {}
    while True:
        runs = _cover(usable, first)
        new = [run for run in runs if run not in lines]
        contents = environment.map(lambda run: storage.read(joined_object(run)), new, READERS)
        for run, content in zip(new, contents, strict=True):
            if is_run(content, run):
                lines[run] = content.splitlines(keepends=True)
            else:  # smaller ones may be whole
                usable.remove(run)
        if all(run in lines for run in runs):
            return {n: one for run in runs for n, one in zip(run, lines[run], strict=True)}


def _numbers(storage: Storage, start: int) -> list[int]:
    """Numbers of the stored events from `start` on."""
    after = event_object(start - 1) if start else ""
    matches = (_EVENT.fullmatch(file.name) for file in storage.files(EVENTS, after))
    return sorted(int(match[1]) for match in matches if match)


def _line(storage: Storage, number: int) -> bytes | None:
    """An event's object as one line, which a damaged one may not be; None if it is lost."""
    try:
        content = storage.read(event_object(number))
    except FileNotFoundError:
        return None
    if is_event(content, number):
        return content
    # One line that no reader takes for two.
    return content.replace(b"\n", b" ").replace(LINE_BEGINS, b"") + b"\n"

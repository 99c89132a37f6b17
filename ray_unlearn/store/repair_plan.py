"""What a damaged ledger still says: which events can be kept, what is set aside, and which trials
have to run again.

A line that is lost may have been any trial's. So a trial whose outcome stands, but which may have
lost rows, runs again, unless all the rows it should have are there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_unlearn.store.event import Event
from ray_unlearn.store.record import Record
from ray_unlearn.store.scan import Scan, events_file, read_acknowledged

OF_A_TRIAL = ("row", "outcome", "reopened", "artefact")
"""Kinds of events that mean nothing without their `trial` line."""


@dataclass
class _Trial:
    """What the kept events say of a trial, by their index in the scan."""

    config: dict[str, Any]
    begun: int
    updates: set[int] = field(default_factory=set)
    ended: int | None = None
    status: str = ""

    def doubt(self, gaps: Iterable[int]) -> str:
        """Why its outcome cannot count any more; empty when it can."""
        if self.ended is None:
            return ""
        lost = sorted(set(self.config["evaluate_at"]) - self.updates)
        if self.status == "complete":
            return (
                f"it was complete, and its rows of updates {listed(lost)} are lost" if lost else ""
            )
        doubtful = any(self.begun < gap <= self.ended for gap in gaps)
        return (
            f"it was {self.status}, and rows of it may be among the lost events" if doubtful else ""
        )


@dataclass
class Plan:
    """What a repair will do."""

    events: list[Event]
    """Kept, header apart."""
    aside: list[tuple[int, int]]
    """Offset and length of what is moved out of the file."""
    texts: list[str]
    """What is set aside or lost, one sentence each."""
    reopened: dict[int, str]
    """Number and reason."""


def planned(folder: Path, scan: Scan) -> Plan:
    """What has to be done.

    Raises:
        StorageError: an event of a kind that this code does not know.
    """
    trials, left_out = _judged(scan)
    events = [event for index, event in enumerate(scan.events) if index and index not in left_out]
    record = Record(scan.events[0])
    for event in events:
        record.apply(event)
    gaps = _gaps(scan)
    doubts = {number: trial.doubt(gaps) for number, trial in sorted(trials.items())}
    reopened = {number: doubt for number, doubt in doubts.items() if doubt}
    size = events_file(folder).stat().st_size
    aside = [(line.offset, line.length) for line in scan.damaged]
    aside += [(offset, _length(folder, offset)) for offset in scan.stale_offsets]
    aside += [(scan.offsets[index], _length(folder, scan.offsets[index])) for index in left_out]
    texts = list(_texts(scan, left_out))
    if texts or reopened:  # otherwise opening cuts and notes it
        aside += [(size - scan.torn_bytes, scan.torn_bytes)] if scan.torn_bytes else []
        texts += _end_texts(scan, read_acknowledged(folder))
    return Plan(events, sorted(aside), texts, reopened)


def _judged(scan: Scan) -> tuple[dict[int, _Trial], dict[int, str]]:
    """Trials, and the events (by index) that contradict the others, with the reason."""
    trials: dict[int, _Trial] = {}
    left_out: dict[int, str] = {}
    for index, event in enumerate(scan.events):
        kind = event["kind"]
        trial = trials.get(event["number"]) if kind in ("trial", *OF_A_TRIAL) else None
        if kind == "trial":
            if trial is None:
                trials[event["number"]] = _Trial(event["config"], index)
            else:
                left_out[index] = f"of trial {event['number']}, begun a second time"
        elif kind in OF_A_TRIAL and trial is None:
            left_out[index] = f"of trial {event['number']}, whose beginning is lost"
        elif trial is not None:
            _take_in(trial, event, index, left_out)
    return trials, left_out


def _take_in(trial: _Trial, event: Event, index: int, left_out: dict[int, str]) -> None:
    kind = event["kind"]
    if kind == "row" and event["update"] in trial.updates:
        left_out[index] = f"of trial {event['number']}, a row a second time"
        return
    if kind in ("row", "outcome") and trial.ended is not None:  # its `reopened` is lost
        left_out[trial.ended] = (
            f"of trial {event['number']}, an outcome that did not count any more"
        )
        trial.ended = None
    match kind:
        case "row":
            trial.updates.add(event["update"])
        case "outcome":
            trial.ended, trial.status = index, event["status"]
        case "reopened":
            trial.ended = None


def _gaps(scan: Scan) -> list[int]:
    """Indices of events before which something is lost. By number; a ledger of schema 1 had none,
    there by damaged lines."""
    found = []
    for index in range(1, len(scan.events)):
        before, after = scan.events[index - 1].get("seq"), scan.events[index].get("seq")
        if before is not None and after is not None:
            lost = after > before + 1
        else:
            first, last = scan.offsets[index - 1], scan.offsets[index]
            lost = any(first < line.offset < last for line in scan.damaged)
            lost = lost or any(after == end + 1 for _, end in scan.missing)
        if lost:
            found.append(index)
    return found


def _texts(scan: Scan, left_out: dict[int, str]) -> Iterator[str]:
    if scan.offsets[0] < 0:
        yield "the header line was damaged or gone; it was taken from its copy"
    if scan.damaged:
        yield f"damaged lines were set aside: {listed(line.line for line in scan.damaged)}"
    if scan.missing:
        spans = [
            str(first) if first == last else f"{first} to {last}" for first, last in scan.missing
        ]
        yield f"these events are lost: {listed(spans)}"
    if scan.stale:
        yield f"{len(scan.stale)} event(s) of a process that had lost the study were set aside"
    for reason in dict.fromkeys(left_out.values()):
        yield f"{sum(other == reason for other in left_out.values())} event(s) were set aside: {reason}"


def _end_texts(scan: Scan, acknowledged: int) -> Iterator[str]:
    if scan.torn_bytes:
        yield f"a torn last line of {scan.torn_bytes} bytes was set aside"
    if acknowledged >= scan.next_seq:
        yield (
            f"events {scan.next_seq} to {acknowledged} had been acknowledged and are gone from the end of the file: "
            "what they recorded is computed again"
        )


def _length(folder: Path, offset: int) -> int:
    with open(events_file(folder), "rb") as file:
        file.seek(offset)
        return len(file.readline())


def listed(items: Iterable[object], most: int = 10) -> str:
    """`1, 2, 3 and 4 more`."""
    shown = [str(item) for item in items]
    rest = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + rest

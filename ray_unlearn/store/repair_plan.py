"""Plan of a repair: what is lost, what is set aside, and which trials have to run again.

A lost line may have belonged to any trial. So a trial with an outcome that may have lost rows runs
again, unless all the rows that it should have are there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.event import (
    EventLost,
    Header,
    RowMeasured,
    TrialAsked,
    TrialEnded,
    TrialEvent,
    TrialReopened,
)
from ray_unlearn.store.event_line import Entry
from ray_unlearn.store.record import Record
from ray_unlearn.store.scan import Scan, events_file
from ray_unlearn.store.schema import AS_TRAINED, RowKey

MOST_LOST = 1_000_000


@dataclass
class _Trial:
    """A trial in the events that stay, which are given by their index in the scan."""

    config: dict[str, Any]
    begun: int
    calibrates: bool
    """Whether it may have rows that its configuration does not promise."""
    keys: set[RowKey] = field(default_factory=set)
    ended: int | None = None
    status: str = ""

    def doubt(self, gaps: Iterable[int]) -> str:
        """Why the outcome cannot count any more; empty if it can."""
        if self.ended is None:
            return ""
        trained = {update for update, strength in self.keys if strength == AS_TRAINED}
        lost = sorted(set(self.config["evaluate_at"]) - trained)
        if self.status == "complete" and lost:
            return f"it was complete, and its rows of updates {first_few(lost)} are lost"
        if self.status == "complete" and not self.calibrates:
            return ""
        doubtful = any(self.begun < gap <= self.ended for gap in gaps)
        return (
            f"it was {self.status}, and rows of it may be among the lost events" if doubtful else ""
        )


@dataclass
class RepairPlan:
    """The changes that a repair will make."""

    header_lost: bool
    """Whether the header is its copy."""
    entries: list[Entry]
    """Good lines, without the header."""
    lost: list[int]
    """Numbers of the events that are damaged or gone."""
    withdrawn: dict[str, list[int]]
    """Numbers of the events that contradict others, by reason."""
    aside: list[tuple[int, int]]
    """Offset and length of what is moved out of the file."""
    texts: list[str]
    """What is set aside or lost, one sentence each."""
    reopened: dict[int, str]
    """Trials that run again: number and reason."""

    @property
    def needed(self) -> bool:
        """Whether there is anything to repair; opening cuts a torn end, and says so."""
        return bool(self.texts or self.reopened)


def plan_repair(folder: Path, scan: Scan, acknowledged: int) -> RepairPlan:
    """Plan the repair of a ledger.

    Args:
        folder: the ledger's folder.
        scan: its lines.
        acknowledged: number of the last event that was acknowledged.

    Raises:
        StorageError: an event of a kind that this code does not know, or too much is missing.
    """
    trials, left_out = _judged(scan)
    record = Record(scan.header)
    withdrawn: dict[str, list[int]] = {}
    for index, entry in enumerate(scan.entries[1:], start=1):
        if index in left_out:
            withdrawn.setdefault(left_out[index], []).append(entry.seq)
        else:
            record.apply(entry.event)
    if sum(1 + last - first for first, last in scan.missing) > MOST_LOST:
        raise StorageError(
            f"{events_file(folder)}: not repaired: {MOST_LOST:,} events and more are missing; is "
            "this a part of another study? Restore the file from a copy"
        )
    lost = [number for first, last in scan.missing for number in range(first, last + 1)]
    gaps = _gaps(scan)
    doubts = {number: trial.doubt(gaps) for number, trial in sorted(trials.items())}
    reopened = {number: doubt for number, doubt in doubts.items() if doubt}
    size = events_file(folder).stat().st_size
    aside = [(line.offset, line.length) for line in scan.damaged]
    aside += [(entry.offset, entry.length) for entry in scan.stale]
    texts = list(_texts(scan, withdrawn))
    if texts or reopened:  # otherwise opening cuts and notes the torn end
        aside += [(size - scan.torn_bytes, scan.torn_bytes)] if scan.torn_bytes else []
        texts += _end_texts(scan, acknowledged)
    header_lost = scan.entries[0].offset < 0
    return RepairPlan(
        header_lost, scan.entries[1:], lost, withdrawn, sorted(aside), texts, reopened
    )


def _judged(scan: Scan) -> tuple[dict[int, _Trial], dict[int, str]]:
    """The trials, and the events (by index) that contradict others, with the reason."""
    trials: dict[int, _Trial] = {}
    left_out: dict[int, str] = {}
    evaluation = scan.header.spec.get("evaluation") or {}
    calibrates = evaluation.get("strength", "trained") != "trained"
    for index, entry in enumerate(scan.entries):
        event = entry.event
        if isinstance(event, Header) and index:
            left_out[index] = "a second header"
        elif isinstance(event, TrialAsked):
            if event.number in trials:
                left_out[index] = f"of trial {event.number}, begun a second time"
            else:
                trials[event.number] = _Trial(event.config, index, calibrates)
        elif isinstance(event, TrialEvent):
            if event.number in trials:
                _take_in(trials[event.number], event, index, left_out)
            else:
                left_out[index] = f"of trial {event.number}, whose beginning is lost"
    return trials, left_out


def _take_in(trial: _Trial, event: TrialEvent, index: int, left_out: dict[int, str]) -> None:
    if isinstance(event, RowMeasured) and event.key in trial.keys:
        left_out[index] = f"of trial {event.number}, a row a second time"
        return
    if isinstance(event, RowMeasured | TrialEnded) and trial.ended is not None:
        # The event that reopened the trial is lost.
        left_out[trial.ended] = f"of trial {event.number}, an outcome that did not count any more"
        trial.ended = None
    match event:
        case RowMeasured():
            trial.keys.add(event.key)
        case TrialEnded():
            trial.ended, trial.status = index, event.status
        case TrialReopened():
            trial.begun, trial.ended = index, None


def _gaps(scan: Scan) -> list[int]:
    """Indices of entries before which something is lost, or was lost before an earlier repair."""
    after_gap = {last + 1 for _, last in scan.missing}
    return [
        index
        for index, entry in enumerate(scan.entries)
        if entry.seq in after_gap or isinstance(entry.event, EventLost)
    ]


def _texts(scan: Scan, withdrawn: dict[str, list[int]]) -> Iterator[str]:
    if scan.entries[0].offset < 0:
        yield "the header line was damaged or gone; it was taken from its copy"
    if scan.damaged:
        yield f"damaged lines were set aside: {first_few(line.line for line in scan.damaged)}"
    if scan.missing:
        spans = [
            str(first) if first == last else f"{first} to {last}" for first, last in scan.missing
        ]
        yield f"these events are lost: {first_few(spans)}"
    if scan.stale:
        yield f"{len(scan.stale)} event(s) of a process that had lost the study were set aside"
    for reason, numbers in withdrawn.items():
        yield f"{len(numbers)} event(s) were withdrawn: {reason}"


def _end_texts(scan: Scan, acknowledged: int) -> Iterator[str]:
    if scan.torn_bytes:
        yield f"a torn last line of {scan.torn_bytes} bytes was set aside"
    if acknowledged >= scan.next_seq:
        yield (
            f"events {scan.next_seq} to {acknowledged} had been acknowledged and are gone from the "
            "end of the file: what they recorded is computed again"
        )


def first_few(items: Iterable[object], most: int = 10) -> str:
    """The first items in words: `1, 2, 3 and 4 more`."""
    shown = [str(item) for item in items]
    rest = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + rest

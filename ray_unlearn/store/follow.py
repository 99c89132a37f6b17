"""A ledger's record that keeps up with its file: each look reads only what is new.

What is not plainly the next event (another writer's token, a gap in the numbers, damage, a file
that was repaired) is left to `read_ledger`'s rules: everything is read again.
"""

from pathlib import Path

from ray_unlearn.store.event import Event
from ray_unlearn.store.event_line import decoded
from ray_unlearn.store.ledger import concluded
from ray_unlearn.store.record import Record
from ray_unlearn.store.scan import events_file, scanned

MARK_BYTES = 64
"""Bytes before the place where reading stopped. With the checksum of the last line among them, they
identify the file, even when it was downloaded again."""


class LedgerFollower:
    """The record of the ledger in `folder`, read without a lock: safe beside a running study."""

    def __init__(self, folder: Path) -> None:
        self._path = events_file(folder)
        self._record: Record | None = None
        self._offset = 0
        self._mark = b""
        self._fence = 0
        self._seq = 0

    def poll(self) -> tuple[Record, list[Event] | None]:
        """The record as it is now, and the events that are new; None: all was read from the start.

        Raises:
            StorageError: as `read_ledger`. A later call may succeed.
        """
        if self._record is None:
            return self._from_the_start(), None
        events = self._news()
        if events is None:
            return self._from_the_start(), None
        # When an event cannot be applied, the next call reads everything again.
        record, self._record = self._record, None
        for event in events:
            record.apply(event)
        self._record = record
        return record, events

    def _from_the_start(self) -> Record:
        self._record = None
        scan = scanned(self._path.parent)
        record = concluded(scan, self._path)
        self._offset, self._seq = scan.good_bytes, scan.next_seq
        self._fence = scan.entries[-1].fence
        self._mark = self._from(max(0, self._offset - MARK_BYTES))[:MARK_BYTES]
        self._record = record
        return record

    def _news(self) -> list[Event] | None:
        """The events after the last one known; None when the file does not simply go on."""
        data = self._from(max(0, self._offset - MARK_BYTES))
        if not self._mark or not data.startswith(self._mark):
            return None
        events: list[Event] = []
        offset = self._offset
        # What follows the last line end is still being written.
        *lines, _ = data[len(self._mark) :].split(b"\n")
        for line in lines:
            entry = decoded(line + b"\n", self._path, offset)
            next_seq = self._seq + len(events)
            if entry is None or (entry.fence, entry.seq) != (self._fence, next_seq):
                return None
            events.append(entry.event)
            offset += len(line) + 1
        if events:
            self._mark = data[: len(self._mark) + offset - self._offset][-MARK_BYTES:]
            self._offset, self._seq = offset, self._seq + len(events)
        return events

    def _from(self, offset: int) -> bytes:
        try:
            with open(self._path, "rb") as file:
                file.seek(offset)
                return file.read()
        except FileNotFoundError:  # `scanned` says it better
            return b""

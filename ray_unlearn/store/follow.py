"""A ledger's record that follows its file, of which each look reads only what is new.

Anything but the next event (another writer's fence, a gap in the numbers, damage, a file that was
repaired) is left to the rules of `read_ledger`: everything is read again.
"""

from pathlib import Path

from ray_unlearn.store.event import Event
from ray_unlearn.store.event_line import decoded
from ray_unlearn.store.ledger import concluded
from ray_unlearn.store.record import Record
from ray_unlearn.store.scan import events_file, scanned

MARK_BYTES = 64
"""Number of bytes before the place where reading stopped that identify the file.

The checksum of the last line is among them, so they do so even after a new download.
"""


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
        """The record as it is now, and the new events.

        Returns:
            None in place of the events if everything was read from the start.

        Raises:
            StorageError: as in `read_ledger`; a later call may succeed.
        """
        if self._record is None:
            return self._from_the_start(), None
        events = self._news()
        if events is None:
            return self._from_the_start(), None
        # If an event cannot be applied, the next call reads everything again.
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
        """The events after the last known one; None if the file has changed in another way."""
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
        except FileNotFoundError:  # `scanned` has the better message
            return b""

"""A study's log in an object store, whose fence is the number of each event.

Who opens a study reads its events and creates the next one, if it is absent. From then on each
number that a former writer tries is taken, so it cannot be acknowledged any more; and nothing that
was acknowledged to it is left out, because it was read. The lease only spares a second process its
work.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.store.event import LedgerOpened
from ray_unlearn.store.event_line import encoded
from ray_unlearn.store.folder_log import LinesFile
from ray_unlearn.store.lease import HEARTBEAT_S, Lease, LeasePlace
from ray_unlearn.store.object_events import (
    HEADER_COPY,
    RUNS,
    complete_runs,
    event_object,
    is_event,
    is_run,
    joined_object,
    read_events,
    replaced_object,
    stored_runs,
)
from ray_unlearn.store.scan import Scan, events_file, header_file, lines_of
from ray_unlearn.store.storage import Storage, is_stored

PATIENCE_S = 2 * HEARTBEAT_S
"""Longest wait for a living holder's lease."""
ATTEMPTS = 5
"""Number of times that a process that opens a study gives way to others that do the same."""


class ObjectLog:
    """A `folder_log.Log` in an object store; its lines are also in a local file.

    Args:
        storage: the study's storage.
        folder: local folder of the ledger, for the file of lines.
        environment: clock, host and threads.
    """

    def __init__(self, storage: Storage, folder: Path, environment: Environment = REAL) -> None:
        self.path = events_file(folder)
        self.fence = 1
        self.next_seq = 0
        self.acknowledged = -1
        self._storage = storage
        self._environment = environment
        self._lost = ""
        self._lease: Lease | None = None
        self._lines: LinesFile | None = None
        self._ends: list[int] = []
        """Byte at which each line ends in the local file, one per event if none is lost."""
        self._attempts = 0
        self._lease_fence = 0
        """The fence in the lease, as far as it is known."""
        self._lock = environment.lock()
        self._joined: set[range] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def begun(cls, storage: Storage, folder: Path, environment: Environment = REAL) -> "ObjectLog":
        """A log without events; the process that appends the first one has begun the study."""
        log = cls(storage, folder, environment)
        write_whole(log.path, b"", environment)
        log._reopen()
        return log

    @classmethod
    def opened(cls, storage: Storage, folder: Path, environment: Environment = REAL) -> "ObjectLog":
        """The log of a study as it is now; it is this process's after `take_over`.

        Damaged and lost events are left to the reader of the file (see `scan`).

        Raises:
            StorageError: there is no study, another process writes it, or the storage fails.
        """
        log = cls(storage, folder, environment)
        try:
            log._refuse_if_held()
            log._read()
        except OSError as error:
            raise StorageError(str(error)) from None
        if not log.next_seq:
            raise StorageError(log._why_empty())
        return log

    def _why_empty(self) -> str:
        if header_file(self.path.parent).is_file():
            return (
                f"{self._storage.url}: empty; a process died while it began a study here; nothing "
                "was recorded, remove what is there"
            )
        return f"{self._storage.url}: no study there; is the address right?"

    def _refuse_if_held(self) -> None:
        former = LeasePlace(self._storage, environment=self._environment).refuse_if_held()
        if former is not None:
            self._lease_fence = former.fence
            self.acknowledged = max(self.acknowledged, former.acknowledged)

    def _read(self) -> None:
        """Make the local file anew."""
        events = read_events(self._storage, environment=self._environment)
        write_whole(self.path, b"".join(line for _, line in events), self._environment)
        self.next_seq = events[-1][0] + 1 if events else 0
        self._reopen()

    def _reopen(self) -> None:
        if self._lines is not None:
            self._lines.close()
        self._lines = LinesFile(self.path, "ab", self._environment)
        self._ends = [offset + len(line) for offset, line in lines_of(self.path)]

    def opening(self) -> LedgerOpened:
        """The event that makes the study this process's."""
        here = self._environment
        return LedgerOpened(host=here.host, pid=here.pid, key=here.unique_name())

    def take_over(self, scan: Scan) -> bool:
        """See `folder_log.Log`: creates the next event, unless somebody was quicker."""
        if self._lease is not None:  # it is ours already
            return True
        # Fences do not fall from one event to the next.
        last = scan.entries[-1].fence
        self.fence = 1 + last
        number, time = self.next_seq, self._environment.now().isoformat(timespec="milliseconds")
        line = encoded(self.opening(), number, self.fence, time)
        try:
            if self._lease_fence < last:
                # It is not its last writer's lease: that one is about to write it, or a request of
                # an earlier one was late. If it is alive, it writes it soon.
                self._environment.sleep(PATIENCE_S)
                self._refuse_if_held()
                self._lease_fence = last
            if scan.entries[0].offset == 0:  # else it is the copy
                self._storage.create(HEADER_COPY, next(lines_of(self.path))[1])
            if self._storage.create(event_object(number), line):
                self._append_here(line)
                self._hold()
                return True
            self._attempts += 1
            if self._attempts < ATTEMPTS:
                self._read()  # all of it: it may have been a repair
                return False
        except OSError as error:
            raise StorageError(str(error)) from None
        raise StorageError(
            f"{self._storage.url}: others open this study at the same moment, again and again; try "
            "again"
        )

    def _append_here(self, line: bytes) -> int:
        assert self._lines is not None
        offset = self._lines.append(line)
        self._ends.append(offset + len(line))
        self.next_seq += 1
        return offset

    def _hold(self) -> None:
        """Write the lease, which is advisory: without it the study goes on."""
        place = LeasePlace(self._storage, environment=self._environment)
        self._lease = Lease(place, self.fence, self._renewed)
        self._lease.acknowledged(self.next_seq - 1)

    def _renewed(self, lease: Lease) -> bool:
        number = self.next_seq
        try:
            self._storage.about(event_object(number))
        except FileNotFoundError:
            lease.write()
            return True
        with self._lock:  # it may be the one that is just being written
            if number == self.next_seq:
                self._lost = self._lost or f"event {number} is another process's"
        return not self._lost

    def append(self, seq: int, line: bytes) -> int:
        """See `folder_log.Log`.

        After a failure it is unknown whether the event is in the store, so nothing more is written.
        """
        with self._lock:
            self.check()
            assert seq == self.next_seq, "events are appended in their order"
            try:
                mine = (seq or self._header_is_mine(line)) and self._storage.create(
                    event_object(seq), line
                )
            except OSError as error:
                self._lost = "an earlier event could not be written"
                raise StorageError(
                    f"{error}; then `ray-unlearn resume {self._storage.url}`"
                ) from None
            if not mine:
                self._lost = f"event {seq} is another process's"
                raise StorageError(self._refusal())
            try:
                offset = self._append_here(line)
            except StorageError:
                self._lost = "an earlier event could not be written to its working copy"
                raise
            if self._lease is not None:
                self._lease.acknowledged(seq)
            elif seq:  # the study is begun with the event after its header
                self._begin()
        return offset

    def _header_is_mine(self, line: bytes) -> bool:
        """Whether this process begins the study.

        The header's copy comes first, and only if absent. A late request of another `run` may not
        replace it, and a header may be damaged as soon as it is there.
        """
        begun = is_stored(self._storage, event_object(0))
        return not begun and self._storage.create(HEADER_COPY, line)

    def _begin(self) -> None:
        try:
            self._hold()
        except OSError as error:
            raise StorageError(str(error)) from None

    def _refusal(self) -> str:
        url = self._storage.url
        if self._lease is None:
            return (
                f"{url}: another process has begun a study here meanwhile; nothing of it was "
                f"touched. Go on with it: `ray-unlearn resume {url}`, or choose another location "
                "for this one"
            )
        return (
            f"{url}: this process has lost the study: {self._lost}; it stops here; go on with "
            f"`ray-unlearn resume {url}`"
        )

    def check(self) -> None:
        """See `folder_log.Log`."""
        if self._lost:
            raise StorageError(self._refusal())

    def join(self) -> None:
        """Copy complete runs of events into single objects, so that a long study opens quickly.

        Raises:
            OSError: the storage fails; nothing is lost.
            StorageError: another process has the study by now.
        """
        with self._lock:
            self.check()
            ends = list(self._ends)
        if len(ends) < RUNS[-1]:
            return
        if self._joined is None:
            self._joined = stored_runs(self._storage)
        for run in complete_runs(0, len(ends)):
            if run not in self._joined:
                content = self._content(ends[run[0] - 1] if run[0] else 0, ends[run[-1]])
                if not is_run(content, run):
                    raise StorageError(
                        f"{self.path}: events {run[0]} to {run[-1]} have changed since they were "
                        "written; is the disk failing?"
                    )
                self._storage.create(joined_object(run), content)
                self._joined.add(run)

    def _content(self, start: int, end: int) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(end - start)

    def repair(
        self, lost: Mapping[int, bytes], news: Sequence[bytes], write: Callable[[Path], None]
    ) -> None:
        """See `folder_log.Log`: what makes the log whole again comes last.

        The marks come first: whoever reads the news must not read copies of the events any more.
        """
        self.check()
        stored = {number: self._stored(number) for number in lost}
        # What is whole was damaged on its way only, or another process has repaired it.
        gone = {n: old for n, old in stored.items() if old is None or not is_event(old, n)}
        for number, old in sorted(gone.items()):
            self._storage.create(replaced_object(number), old or b"")
        for line in news:
            self.append(self.next_seq, line)
        for number, old in sorted(gone.items()):
            if old is None:
                self._storage.create(event_object(number), lost[number])
            else:
                self._storage.exchange(event_object(number), old, lost[number])
        self._read()

    def _stored(self, number: int) -> bytes | None:
        try:
            return self._storage.read(event_object(number))
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """See `folder_log.Log`."""
        if self._lease is not None:
            self._lease.stop()
        if self._lines is not None:
            self._lines.close()

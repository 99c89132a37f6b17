"""The working copy: a local folder for a study in an object store.

Whatever reads or writes the study works on the folder, as with a local study. The ledger's events
go to the store one by one, each before `Ledger.append` returns (see `segments`); other files that
have changed follow every few seconds. Losing the working copy loses nothing.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.task_results import TASKS_FILE
from ray_unlearn.store import segments
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.store.event_line import decoded
from ray_unlearn.store.lease import LEASE_FILE
from ray_unlearn.store.object_lease import RemoteLease, newest_claim, read_claim
from ray_unlearn.store.scan import acknowledged_file, events_file, header_file
from ray_unlearn.store.segments import Segment
from ray_unlearn.store.storage import Storage

PUBLISH_S = 10.0
HEADER = "ledger/header.json"
"""The object that begins a study: the process that creates it has begun the study."""
OWN = ("ledger/events.jsonl", "ledger/acknowledged", f"ledger/{LEASE_FILE}", HEADER)
"""Files of the working copy that have another form in the store, or are written once."""
SMALL_FILES = ("study.yaml", "baselines.json", "live.json", TASKS_FILE, "attacks.json")
"""Files that a reader receives beside the ledger."""
TENSORBOARD = "tensorboard/"


class RemoteWriter:
    """The lease and the segments of a ledger that writes to a store as well."""

    def __init__(self, storage: Storage, folder: Path, environment: Environment = REAL) -> None:
        """Take the lease.

        Raises:
            StorageError: another process writes the study, or the storage fails.
        """
        self._storage = storage
        self._folder = folder
        self._broken = False
        self._lines: dict[Segment, bytes] = {}
        self._lock = environment.lock()
        try:
            stored = segments.stored_segments(storage) or [only_header(storage)[0]]
        except FileNotFoundError:
            stored = []
        except OSError as error:
            raise StorageError(str(error)) from None
        highest = max((segment.fence for segment in stored), default=0)
        self.lease = RemoteLease.take(storage, highest, environment)

    def append(self, seq: int, line: bytes) -> None:
        """Put the line of event `seq` into the store.

        Raises:
            StorageError: the line may be in the store or not; nothing more is written.
        """
        if self._broken:
            raise StorageError(
                f"{self._storage.url}: an earlier event could not be written; `ray-unlearn resume` "
                "goes on"
            )
        segment = Segment(self.lease.fence, seq, seq)
        try:
            if seq == 0:
                self._begin(line)
            self._storage.write(segment.name, line)
        except OSError as error:
            self._broken = True
            raise StorageError(f"{error}; then `ray-unlearn resume {self._storage.url}`") from None
        self.lease.heard()
        self.lease.acknowledged = seq
        with self._lock:
            self._lines[segment] = line

    def complete_creation(self) -> None:
        """Write the first segment of a study whose first process died before it did.

        Raises:
            StorageError: there is no study, or the storage fails.
        """
        try:
            if not segments.stored_segments(self._storage):
                segment, line = only_header(self._storage)
                self._storage.write(segment.name, line)
        except OSError as error:
            raise StorageError(str(error)) from None

    def _begin(self, header: bytes) -> None:
        """Begin the study, unless another process has.

        Minutes have passed since this process looked, so the store decides. Segments are checked as
        well, because older versions wrote them before the header.

        Raises:
            OSError: the storage fails.
            StorageError: there is a study already.
        """
        begun = bool(segments.stored_segments(self._storage))
        if begun or not self._storage.create(HEADER, header):
            self._broken = True
            raise StorageError(
                f"{self._storage.url}: another process has begun a study here meanwhile; nothing "
                f"of it was touched. Go on with it: `ray-unlearn resume {self._storage.url}`, or "
                "choose another location for this one"
            )

    def join(self) -> None:
        """Join this writer's small objects, so that a study of 10,000 trials stays quick to read.

        Raises:
            OSError: the storage fails; nothing is lost.
            StorageError: an object is damaged, or another process has the study by now.
        """
        with self._lock:
            mine = list(self._lines)
        for run in segments.worth_joining(mine):
            self.lease.check()
            whole = segments.joined(run)
            content = b"".join(
                segments.check_segment(segment, self._content(segment), self._storage.url)
                for segment in run
            )
            self._storage.write(whole.name, content)
            with self._lock:
                self._lines[whole] = content if whole.events < segments.LEVELS[1] else b""
                for segment in run:
                    del self._lines[segment]
            for segment in run:
                self._storage.remove(segment.name)

    def _content(self, segment: Segment) -> bytes:
        with self._lock:
            kept = self._lines[segment]
        return kept or self._storage.read(segment.name)

    def replace(self) -> None:
        """Write all events again, from the working copy; earlier segments no longer count.

        Raises:
            StorageError: the storage fails; the study is unchanged.
        """
        content = events_file(self._folder / "ledger").read_bytes()
        last = content.count(b"\n") - 1
        whole = Segment(self.lease.fence, 0, last, base=True)
        try:
            self.lease.check()
            self._storage.write(whole.name, content)
            # The ledger counts; this is the copy of its first line.
            self._storage.write(HEADER, content.partition(b"\n")[0] + b"\n")
        except OSError as error:
            raise StorageError(f"{error}; the study is as it was, try again") from None
        self.lease.acknowledged = last


class WorkingCopy:
    """The local folder of a remote study; `refresh` brings it up to date."""

    def __init__(self, storage: Storage, folder: Path, environment: Environment = REAL) -> None:
        self.storage = storage
        self.folder = folder
        self._environment = environment
        self._known: list[tuple[Segment, bytes]] = []

    def refresh(self) -> None:
        """Fetch the ledger and the small files.

        New events are appended to the file if nothing else has changed.

        Raises:
            StorageError: the storage fails.
        """
        try:
            self._refresh_ledger()
            for name in SMALL_FILES:
                with suppress(FileNotFoundError):
                    self.storage.fetch(name, self.folder / name)
        except OSError as error:
            raise StorageError(str(error)) from None

    def _refresh_ledger(self) -> None:
        claim = newest_claim(self.storage)
        holder, acknowledged = (None, -1) if claim is None else read_claim(self.storage, claim)
        now = segments.read_segments(self.storage, dict(self._known), self._environment)
        ledger = self.folder / "ledger"
        if not now:
            try:
                now = [only_header(self.storage)]
            except FileNotFoundError:
                return
        ledger.mkdir(parents=True, exist_ok=True)
        before, content = b"".join(c for _, c in self._known), b"".join(c for _, c in now)
        if before and content.startswith(before):
            with open(events_file(ledger), "ab") as file:
                file.write(content[len(before) :])
        else:
            write_whole(events_file(ledger), content, self._environment)
        self._known = now
        try:
            self.storage.fetch(HEADER, header_file(ledger))
        except FileNotFoundError:
            header_file(ledger).write_bytes(content.partition(b"\n")[0] + b"\n")
        acknowledged_file(ledger).write_bytes(b"%020d\n" % max(acknowledged, now[-1][0].last))
        if holder is not None and claim is not None:
            lease = ledger / LEASE_FILE
            lease.write_bytes(holder.as_json())
            # The claim's age, for readers, which may not write a probe to the store.
            os.utime(lease, (claim.modified, claim.modified))


class Publisher:
    """Uploader of the working copy's changed files to the store."""

    def __init__(
        self,
        storage: Storage,
        folder: Path,
        writer: RemoteWriter,
        environment: Environment = REAL,
    ) -> None:
        self._storage = storage
        self._environment = environment
        self._folder = folder
        self._writer = writer
        self._seen: dict[str, tuple[int, int]] = {}
        self._runs: dict[str, list[str]] | None = None
        """TensorBoard files that were in the store before, by folder."""

    @contextmanager
    def running(self, say: Callable[[str], None]) -> Iterator[None]:
        """A context in which a thread publishes every few seconds.

        `say` is called with the first failure.
        """
        stop = self._environment.event()
        thread = self._environment.start_thread(partial(self._run, stop.wait, say), "publisher")
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _run(self, wait: Callable[[float], bool], say: Callable[[str], None]) -> None:
        failing = False
        while not wait(PUBLISH_S):
            try:
                self.publish()
                failing = False
            # Only the ledger counts; these files are made from it.
            except (OSError, StorageError) as error:
                if not failing:
                    say(f"files beside the ledger lag behind: {error}")
                failing = True

    def publish(self) -> None:
        """Upload what has changed.

        Raises:
            OSError: the storage fails.
            StorageError: another process has the study by now.
        """
        self._writer.lease.check()
        for path in sorted(self._folder.rglob("*")):
            name = path.relative_to(self._folder).as_posix()
            if name in OWN or path.suffix in (".tmp", ".part") or not path.is_file():
                continue
            with suppress(FileNotFoundError):
                about = path.stat()
                state = (about.st_size, about.st_mtime_ns)
                if self._seen.get(name) != state:
                    self._tidy(name)
                    self._storage.put(path, name)
                    self._seen[name] = state
        self._writer.join()

    def _tidy(self, name: str) -> None:
        """Remove a trial's old TensorBoard file, as running it again makes one of another name."""
        if not name.startswith(TENSORBOARD):
            return
        if self._runs is None:
            self._runs = defaultdict(list)
            for file in self._storage.files(TENSORBOARD.rstrip("/")):
                self._runs[file.name.rpartition("/")[0]].append(file.name)
        for old in self._runs.pop(name.rpartition("/")[0], []):
            if not (self._folder / old).exists():
                self._storage.remove(old)


def header_digest_of(storage: Storage) -> str:
    """Digest that tells studies apart; empty if there is no study or it cannot be read."""
    try:
        return hashlib.sha256(storage.read(HEADER)).hexdigest()
    except OSError:
        return ""


def only_header(storage: Storage) -> tuple[Segment, bytes]:
    """The first segment of a study that has no segments yet, made from its header.

    The header is created first. Every process that finds it alone makes the same segment.

    Raises:
        FileNotFoundError: there is no study.
        OSError: the storage fails.
        StorageError: the header is damaged.
    """
    line = storage.read(HEADER)
    entry = decoded(line, Path(HEADER), 0)
    if entry is None:
        raise StorageError(
            f"{storage.url}: {HEADER} is damaged, and nothing else was recorded; remove the "
            "objects below this address, or choose another one"
        )
    return Segment(entry.fence, 0, 0), line

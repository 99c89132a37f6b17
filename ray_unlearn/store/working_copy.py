"""The working copy: a local folder for a study in an object store.

Whatever reads or writes the study works on the folder, as with a local study. The ledger's events
go to the store one by one, each before `Ledger.append` returns (see `object_log`); other files that
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
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.store.lease import LEASE_FILE, LeasePlace
from ray_unlearn.store.object_events import (
    HEADER_COPY,
    event_object,
    is_event,
    read_events,
    replaced_events,
)
from ray_unlearn.store.object_log import ObjectLog
from ray_unlearn.store.older_form import refuse_older_form
from ray_unlearn.store.scan import events_file, write_acknowledged
from ray_unlearn.store.storage import Storage

PUBLISH_S = 10.0
HEADER = "ledger/header.json"
"""The copy of the header; in a store, where that is the name of an older form, `HEADER_COPY`."""
OWN = ("ledger/events.jsonl", "ledger/acknowledged", f"ledger/{LEASE_FILE}")
"""Files of the working copy that have another form in the store."""
SMALL_FILES = ("study.yaml", "baselines.json", "live.json", TASKS_FILE, "attacks.json")
"""Files that a reader receives beside the ledger."""
TENSORBOARD = "tensorboard/"


class WorkingCopy:
    """The local folder of a remote study; `refresh` brings it up to date."""

    def __init__(self, storage: Storage, folder: Path, environment: Environment = REAL) -> None:
        self.storage = storage
        self.folder = folder
        self._environment = environment
        self._next = 0
        """Number of the first event that is not in the file yet."""
        self._replaced: set[int] = set()

    def refresh(self) -> None:
        """Fetch the ledger's new events, which are appended to the file, and the small files.

        Raises:
            StorageError: the storage fails.
        """
        try:
            self._refresh_ledger()
            fetch_small_files(self.storage, self.folder)
        except OSError as error:
            raise StorageError(str(error)) from None

    def _refresh_ledger(self) -> None:
        if not self._next:
            refuse_older_form(self.storage)
        place = LeasePlace(self.storage)
        holder = place.holder()  # before the events: a writer goes on
        events = read_events(self.storage, self._next, self._environment)
        replaced = replaced_events(self.storage)
        if self._next and replaced != self._replaced:  # by a repair: what was read is not so
            events, self._next = read_events(self.storage, 0, self._environment), 0
        self._replaced = replaced
        ledger = self.folder / "ledger"
        ledger.mkdir(parents=True, exist_ok=True)
        if events:
            content = b"".join(line for _, line in events)
            if self._next:
                with open(events_file(ledger), "ab") as file:
                    file.write(content)
            else:
                write_whole(events_file(ledger), content, self._environment)
            whole = all(is_event(line, n) for n, (_, line) in enumerate(events, self._next))
            # Once it is repaired, all of it is read again.
            self._next = events[-1][0] + 1 if whole else 0
        if holder is not None:
            write_acknowledged(ledger, max(holder.acknowledged, self._next - 1))
            lease = ledger / LEASE_FILE
            lease.write_bytes(holder.as_json())
            # The lease's age, for readers, which may not write a probe to the store.
            with suppress(FileNotFoundError):
                touched = self.storage.about(place.name).modified
                os.utime(lease, (touched, touched))


def fetch_small_files(storage: Storage, folder: Path) -> None:
    """Fetch what a study has beside its events, as far as it is there.

    Raises:
        OSError: the storage fails.
    """
    names = {HEADER_COPY: HEADER} | {name: name for name in SMALL_FILES}
    for name, here in names.items():
        with suppress(FileNotFoundError):
            storage.fetch(name, folder / here)


class Publisher:
    """Uploader of the working copy's changed files to the store."""

    def __init__(
        self,
        storage: Storage,
        folder: Path,
        log: ObjectLog,
        environment: Environment = REAL,
    ) -> None:
        self._storage = storage
        self._environment = environment
        self._folder = folder
        self._log = log
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
        self._log.check()
        for path in sorted(self._folder.rglob("*")):
            name = path.relative_to(self._folder).as_posix()
            if name in OWN or path.suffix in (".tmp", ".part") or not path.is_file():
                continue
            with suppress(FileNotFoundError):
                about = path.stat()
                state = (about.st_size, about.st_mtime_ns)
                if self._seen.get(name) != state:
                    self._tidy(name)
                    self._storage.put(path, HEADER_COPY if name == HEADER else name)
                    self._seen[name] = state
        self._log.join()

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
        header = storage.read(event_object(0) if storage.remote else HEADER)
        return hashlib.sha256(header).hexdigest()
    except OSError:
        return ""

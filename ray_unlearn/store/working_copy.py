"""A study in an object store, as seen from the machine that works on it: a working copy in a local
folder.

All that reads or writes a study works on the folder, as with a local study. The ledger's events go
to the store one by one, each before `Ledger.append` returns (see `segments`); other files that have
changed follow every few seconds. Nothing is lost with the working copy.
"""

import hashlib
import json
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store import segments
from ray_unlearn.store.lease import LEASE_FILE
from ray_unlearn.store.object_lease import RemoteLease, newest, read_claim
from ray_unlearn.store.scan import acknowledged_file, events_file, header_file
from ray_unlearn.store.segments import Segment
from ray_unlearn.store.storage import Storage

PUBLISH_S = 10.0
OWN = ("ledger/events.jsonl", "ledger/acknowledged", f"ledger/{LEASE_FILE}")
"""Files of the working copy that have another form in the store."""
SMALL_FILES = ("study.yaml", "baselines.json", "live.json")
"""What a reader gets beside the ledger."""
TENSORBOARD = "tensorboard/"


class RemoteWriter:
    """What a ledger needs to write to a store too: the lease, and where its lines go."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        """Raises:
        StorageError: somebody else writes the study, or the storage fails.
        """
        self._storage = storage
        self._folder = folder
        self._broken = False
        self._lines: dict[Segment, bytes] = {}
        self._lock = threading.Lock()
        try:
            tokens = [segment.token for segment in segments.listed(storage)]
        except OSError as error:
            raise StorageError(str(error)) from None
        self.lease = RemoteLease.take(storage, max(tokens, default=0))

    def append(self, seq: int, line: bytes) -> None:
        """The line of event `seq` is in the store when this returns.

        Raises:
            StorageError: it may be there or not; nothing more is written.
        """
        if self._broken:
            raise StorageError(
                f"{self._storage.url}: an earlier event could not be written; `ray-unlearn resume` goes on"
            )
        segment = Segment(self.lease.token, seq, seq)
        try:
            self._storage.write(segment.name, line)
        except OSError as error:
            self._broken = True
            raise StorageError(f"{error}; then `ray-unlearn resume {self._storage.url}`") from None
        self.lease.heard()
        self.lease.acknowledged = seq
        with self._lock:
            self._lines[segment] = line

    def join(self) -> None:
        """Put this writer's small objects together, so that a study of 10,000 trials stays quick to
        read.

        Raises:
            OSError: the storage fails; nothing is lost.
        """
        with self._lock:
            mine = list(self._lines)
        for run in segments.worth_joining(mine):
            self.lease.check()
            whole = segments.joined(run)
            content = b"".join(self._content(segment) for segment in run)
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
        """All events anew, from the working copy: what is in the store from before does not count
        any more.

        Raises:
            StorageError: the storage fails; the study is as it was.
        """
        content = events_file(self._folder / "ledger").read_bytes()
        last = content.count(b"\n") - 1
        whole = Segment(self.lease.token, 0, last, base=True)
        try:
            self.lease.check()
            self._storage.write(whole.name, content)
        except OSError as error:
            raise StorageError(f"{error}; the study is as it was, try again") from None
        self.lease.acknowledged = last


class WorkingCopy:
    """The local folder of a remote study; `refresh` brings it up to date."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self.storage = storage
        self.folder = folder
        self._known: list[tuple[Segment, bytes]] = []

    def refresh(self) -> None:
        """Fetch the ledger and the small files. New events are added at the end of the file where
        they simply go on.

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
        claim = newest(self.storage)
        holder, acknowledged = (None, -1) if claim is None else read_claim(self.storage, claim)
        now = segments.read(self.storage, dict(self._known))
        ledger = self.folder / "ledger"
        if not now:
            return
        ledger.mkdir(parents=True, exist_ok=True)
        before, content = b"".join(c for _, c in self._known), b"".join(c for _, c in now)
        if before and content.startswith(before):
            with open(events_file(ledger), "ab") as file:
                file.write(content[len(before) :])
        else:
            draft = events_file(ledger).with_suffix(".tmp")
            draft.write_bytes(content)
            draft.replace(events_file(ledger))
        self._known = now
        try:
            self.storage.fetch("ledger/header.json", header_file(ledger))
        except FileNotFoundError:
            header_file(ledger).write_bytes(content.partition(b"\n")[0] + b"\n")
        acknowledged_file(ledger).write_bytes(b"%020d\n" % max(acknowledged, now[-1][0].last))
        if holder is not None and claim is not None:
            lease = ledger / LEASE_FILE
            lease.write_text(json.dumps(asdict(holder)))
            os.utime(
                lease, (claim.modified, claim.modified)
            )  # its age, for those who read: they may not write a probe there


class Publisher:
    """Brings files of the working copy that have changed to the store."""

    def __init__(self, storage: Storage, folder: Path, writer: RemoteWriter) -> None:
        self._storage = storage
        self._folder = folder
        self._writer = writer
        self._seen: dict[str, tuple[int, int]] = {}
        self._runs: dict[str, list[str]] | None = None
        """TensorBoard files that were in the store before, by folder."""

    @contextmanager
    def running(self, say: Callable[[str], None]) -> Iterator[None]:
        """Inside, a thread does so every few seconds; `say` is told once when it cannot."""
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop, say), name="publisher", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _run(self, stop: threading.Event, say: Callable[[str], None]) -> None:
        failing = False
        while not stop.wait(PUBLISH_S):
            try:
                self.publish()
                failing = False
            except (
                OSError,
                StorageError,
            ) as error:  # the ledger is what counts; these files are made from it
                if not failing:
                    say(f"files beside the ledger lag behind: {error}")
                failing = True

    def publish(self) -> None:
        """Upload what has changed.

        Raises:
            OSError: the storage fails.
            StorageError: the study is somebody else's by now.
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
        """A trial that is run again has a TensorBoard file of another name: the old one goes."""
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
    """Tells studies apart; empty when there is none, or when it cannot be read from here."""
    try:
        return hashlib.sha256(storage.read("ledger/header.json")).hexdigest()
    except OSError:
        return ""

"""Locations of studies, with the same functions for a folder and for an object store.

A location is what users write. `opened` gives the process that runs a study its files; `fetched`
gives a reader a folder to read.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.event import Header
from ray_unlearn.store.lease import LEASE_FILE, Holder
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.scan import events_file
from ray_unlearn.store.segments import SEGMENTS
from ray_unlearn.store.storage import Storage, storage_at
from ray_unlearn.store.working_copy import HEADER, Publisher, RemoteWriter, WorkingCopy

SPEC = "study.yaml"
HASTY_S = 20.0
"""Longest wait of a command that only reads, or has not begun, for a storage without an answer."""


@dataclass
class StudyFiles:
    """A study's folder and storage, for the process that works on it (see `opened`)."""

    location: str
    """The folder or address as the user wrote it."""
    folder: Path
    """The study directory, or its working copy."""
    storage: Storage
    """Storage of weights and checkpoints, which lanes on other machines read and write."""
    environment: Environment = REAL
    _writer: RemoteWriter | None = None
    _publisher: Publisher | None = None

    def occupied(self) -> bool:
        """Whether there is a study at the location already.

        Raises:
            StorageError: the storage fails.
        """
        if not self.storage.remote:
            return events_file(self.folder / "ledger").exists() or (self.folder / SPEC).exists()
        try:
            return any(
                file.name in (SPEC, HEADER) or file.name.startswith(SEGMENTS)
                for file in self.storage.files()
            )
        except OSError as error:
            raise StorageError(str(error)) from None

    def create_ledger(self, header: Header) -> Ledger:
        """Begin the study (see `Ledger.create`); of many processes that try, one succeeds."""
        writer = self._take() if self.storage.remote else None
        return Ledger.create(self.folder / "ledger", header, writer, self.environment)

    def open_ledger(self) -> Ledger:
        """Go on with the study (see `Ledger.open`)."""
        if not self.storage.remote:
            return Ledger.open(self.folder / "ledger", environment=self.environment)
        if not self.occupied():
            raise StorageError(f"{self.location}: no study there; is the address right?")
        writer = self._take()  # first, so that nothing is added after it was read
        try:
            writer.complete_creation()
            WorkingCopy(self.storage, self.folder, self.environment).refresh()
        except BaseException:
            writer.lease.release()
            raise
        return Ledger.open(self.folder / "ledger", writer, self.environment)

    def _take(self) -> RemoteWriter:
        self._writer = RemoteWriter(self.storage, self.folder, self.environment)
        self._publisher = Publisher(self.storage, self.folder, self._writer, self.environment)
        return self._writer

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """The study's lease, without opening its ledger, over an up-to-date working copy.

        Raises:
            StorageError: another process holds it, or the storage fails.
        """
        writer = self._take()
        try:
            writer.complete_creation()
            WorkingCopy(self.storage, self.folder, self.environment).refresh()
            # The folder's own lease is free. A repair takes it twice, to write and to open what it
            # wrote. Its last fence is then that of the store's lease, which the next holder
            # outranks.
            here = self.environment
            held = Holder(writer.lease.fence - 2, here.host, here.pid, here.time(), released=True)
            (self.folder / "ledger" / LEASE_FILE).write_bytes(held.as_json())
            yield
        finally:
            writer.lease.release()

    def publish(self, *names: str) -> None:
        """Copy files of the folder to the storage, if it is another place.

        Raises:
            StorageError: the storage fails.
        """
        if self.storage.remote:
            try:
                for name in names:
                    self.storage.put(self.folder / name, name)
            except OSError as error:
                raise StorageError(str(error)) from None

    def remove(self, name: str) -> None:
        """Delete a file of the study.

        Raises:
            StorageError: the storage fails.
        """
        try:
            self.storage.remove(name)
        except OSError as error:
            raise StorageError(str(error)) from None

    def publish_all(self) -> None:
        """Publish all files that have changed.

        Raises:
            StorageError: the storage fails.
        """
        if self._publisher is not None:
            try:
                self._publisher.publish()
            except OSError as error:
                raise StorageError(str(error)) from None

    def replace_ledger(self) -> None:
        """Make the repaired working copy the study's ledger.

        Raises:
            StorageError: the storage fails.
        """
        if self._writer is not None:
            self._writer.replace()

    def publishing(self, say: Callable[[str], None]) -> AbstractContextManager[object]:
        """A context that publishes changed files every few seconds; `say` receives failures."""
        return nullcontext() if self._publisher is None else self._publisher.running(say)


@contextmanager
def opened(location: str | Path, environment: Environment = REAL) -> Iterator[StudyFiles]:
    """The files of a study that is about to be run.

    Raises:
        UserError: not a location (see `storage_at`).
        StorageError: the store cannot be written, or cannot decide which process begins a study.
    """
    storage = storage_at(location, environment)
    if not storage.remote:
        yield StudyFiles(str(location), Path(location), storage, environment)
        return
    with _scratch(location) as folder:
        place = StudyFiles(str(location), folder, storage, environment)
        _check(storage, environment)
        if not place.occupied():
            _check_creation(storage, environment)
        yield place


@contextmanager
def fetched(location: str | Path) -> Iterator[Path]:
    """A study to read, as its folder or as a copy of its ledger and small files.

    Raises:
        UserError: not a location.
        StorageError: the store cannot be read.
    """
    with copied(location) as copy:
        yield copy if isinstance(copy, Path) else copy.folder


@contextmanager
def copied(location: str | Path) -> Iterator[Path | WorkingCopy]:
    """`fetched` for repeated looks: a folder, or a copy that can be refreshed."""
    storage = storage_at(location)
    if not storage.remote:
        yield Path(location)
        return
    storage.patience_s = HASTY_S
    with _scratch(location) as folder:
        copy = WorkingCopy(storage, folder)
        copy.refresh()
        yield copy


def send(location: str | Path, paths: Iterable[Path]) -> None:
    """Copy files that were made in a copy (see `fetched`) to the study's storage.

    Raises:
        StorageError: the storage fails.
    """
    _send(location, {path.name: path for path in paths})


def send_folder(location: str | Path, folder: Path) -> None:
    """`send` for all files of a folder, under their names in it."""
    _send(
        location,
        {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()},
    )


def _send(location: str | Path, paths: Mapping[str, Path]) -> None:
    storage = storage_at(location)
    if storage.remote:
        try:
            for name, path in paths.items():
                storage.put(path, name)
        except OSError as error:
            raise StorageError(str(error)) from None


@contextmanager
def _scratch(location: str | Path) -> Iterator[Path]:
    """A local folder with the study's own name."""
    name = str(location).partition("?")[0].rstrip("/").rpartition("/")[2]
    with tempfile.TemporaryDirectory(prefix="ray-unlearn-", ignore_cleanup_errors=True) as folder:
        (Path(folder) / name).mkdir()
        yield Path(folder) / name


def study_exists(location: str | Path) -> bool:
    """Whether there is a study at a location.

    Raises:
        UserError: not a location.
        StorageError: the store cannot be read.
    """
    storage = storage_at(location)
    storage.patience_s = min(storage.patience_s, HASTY_S)
    return StudyFiles(str(location), Path(location), storage).occupied()


def _check(storage: Storage, environment: Environment) -> None:
    """Refuse a store that cannot write, read, list and delete, before expensive work."""
    name = f"ledger/probe-{environment.unique_name(6)}"
    with _hasty(storage):
        storage.write(name, b"?")
        if storage.read(name) != b"?" or all(file.name != name for file in storage.files("ledger")):
            raise StorageError(
                f"{storage.url}: what was just written is not there; it must list and read its own "
                "writes"
            )
        storage.remove(name)


def _check_creation(storage: Storage, environment: Environment) -> None:
    """Refuse a store that would let a second study replace the first one."""
    name = f"ledger/probe-{environment.unique_name(6)}"
    with _hasty(storage):
        storage.create(name, b"first")
        if storage.create(name, b"second"):
            raise StorageError(
                f"{storage.url}: this store replaces objects that should be created only if they "
                "are absent (`If-None-Match: *`), so that two runs could destroy each other's "
                "study; use a store, or a newer version of its server, that can"
            )
        storage.remove(name)


@contextmanager
def _hasty(storage: Storage) -> Iterator[None]:
    """A context in which failures are waited for briefly and become a StorageError."""
    patience, storage.patience_s = storage.patience_s, HASTY_S
    try:
        yield
    except OSError as error:
        raise StorageError(str(error)) from None
    finally:
        storage.patience_s = patience

"""Locations of studies, with the same functions for a folder and for an object store.

A location is what users write. `opened` gives the process that runs a study its files; `fetched`
gives a reader a folder to read.
"""

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.store.event import Header
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.object_events import EVENTS, HEADER_COPY, event_object
from ray_unlearn.store.object_log import ObjectLog
from ray_unlearn.store.older_form import refuse_older_form
from ray_unlearn.store.scan import events_file
from ray_unlearn.store.storage import Storage, is_stored, storage_at
from ray_unlearn.store.working_copy import (
    HEADER,
    Publisher,
    WorkingCopy,
    fetch_small_files,
)

_log = logging.getLogger(__name__)
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
    _publisher: Publisher | None = None

    def occupied(self) -> bool:
        """Whether there is a study at the location already.

        Raises:
            StorageError: the storage fails.
        """
        if not self.storage.remote:
            return events_file(self.folder / "ledger").exists() or (self.folder / SPEC).exists()
        try:
            for name in (event_object(0), SPEC, HEADER, HEADER_COPY):
                if is_stored(self.storage, name):
                    return True
            return bool(self.storage.files(EVENTS))  # the first event may be lost
        except OSError as error:
            raise StorageError(str(error)) from None

    def create_ledger(self, header: Header) -> Ledger:
        """Begin the study (see `Ledger.create`); of many processes that try, one succeeds."""
        folder, here = self.folder / "ledger", self.environment
        if not self.storage.remote:
            return Ledger.create(folder, header, here)
        refuse_older_form(self.storage)
        log = ObjectLog.begun(self.storage, folder, here)
        self._publisher = Publisher(self.storage, self.folder, log, here)
        return Ledger.begun(log, header, here)

    def open_ledger(self) -> Ledger:
        """Go on with the study (see `Ledger.open`)."""
        if not self.storage.remote:
            return Ledger.open(self.folder / "ledger", self.environment)
        return Ledger.continued(self.taken_log(), self.environment)

    def taken_log(self) -> ObjectLog:
        """The log of a remote study, taken over from whoever wrote it before.

        Raises:
            StorageError: no study there, another process holds it, it has an older form, or the
                storage fails.
        """
        refuse_older_form(self.storage)
        try:
            fetch_small_files(self.storage, self.folder)
        except OSError as error:
            raise StorageError(str(error)) from None
        log = ObjectLog.opened(self.storage, self.folder / "ledger", self.environment)
        self._publisher = Publisher(self.storage, self.folder, log, self.environment)
        return log

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
    _log.info("open the study at %s to write", storage.url)
    if not storage.remote:
        check_no_file(location)
        yield StudyFiles(str(location), Path(location).expanduser(), storage, environment)
        return
    with _scratch(location) as folder:
        _check(storage, environment)
        yield StudyFiles(str(location), folder, storage, environment)


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
    _log.info("read the study at %s", storage.url)
    if not storage.remote:
        yield Path(location).expanduser()
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


def check_no_file(location: str | Path) -> None:
    """Refuse a file, or a place below one, where a study's folder is meant.

    Raises:
        UserError: the file, and what to do.
    """
    path = Path(location).expanduser()
    for one in (path, *path.parents):
        if one.is_file():
            run = f"; a study file is run with `ray-unlearn run {one}`"
            raise UserError(
                f"{one}: is a file, not a folder with a study; name a folder"
                f"{run if one.suffix in ('.yaml', '.yml') else ''}"
            )


def study_exists(location: str | Path) -> bool:
    """Whether there is a study at a location.

    Raises:
        UserError: not a location.
        StorageError: the store cannot be read.
    """
    storage = storage_at(location)
    storage.patience_s = min(storage.patience_s, HASTY_S)
    return StudyFiles(str(location), Path(location).expanduser(), storage).occupied()


def _check(storage: Storage, environment: Environment) -> None:
    """Refuse a store that a study cannot use, before expensive work.

    It must list, read and delete what was written, and must not replace an object that should be
    created only if it is absent: two runs could destroy each other's study.
    """
    name = f"ledger/probe-{environment.unique_name(6)}"
    patience, storage.patience_s = storage.patience_s, HASTY_S
    try:
        storage.create(name, b"first")
        if storage.create(name, b"second"):
            raise StorageError(
                f"{storage.url}: this store replaces objects that should be created only if they "
                "are absent (`If-None-Match: *`), so that two runs could destroy each other's "
                "study; use a store, or a newer version of its server, that can"
            )
        if all(file.name != name for file in storage.files("ledger", after="ledger/probe")):
            raise StorageError(
                f"{storage.url}: what was just written is not there; it must list and read its own "
                "writes"
            )
        storage.remove(name)
    except OSError as error:
        raise StorageError(str(error)) from None
    finally:
        storage.patience_s = patience

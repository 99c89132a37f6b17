"""A study's files: in a folder, or under the same names below a prefix of an object store.

    results/my-study                            a folder, on a disk or a shared file system (NFS)
    s3://bucket/studies/my-study                Amazon S3, and servers with its protocol
                                                (AWS_ENDPOINT_URL names the server)
    gs://bucket/studies/my-study                Google Cloud Storage
    abfss://container@account.dfs.core.windows.net/studies/my-study     Azure

Credentials come from the environment or the identity of the machine, and never from the address,
which appears in messages, logs and process lists.
"""

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.store.atomic_write import create_whole, whole_file, write_whole
from ray_unlearn.store.stored_file import Stored, checked_name

SCHEMES = ("s3", "gs", "abfs", "abfss")
OPTIONS = ("endpoint_override", "region", "scheme")
"""Options that may follow a `?` in an address; none of them is secret."""
PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+@-]{0,254}")


class Storage(Protocol):
    """Files by name, each whole or absent: no reader sees half of one.

    All methods raise OSError if the storage fails (FileNotFoundError if there is no such file); an
    object store is asked again for some time before.
    """

    url: str
    """Folder or address, for messages."""
    remote: bool
    patience_s: float
    """Seconds for which a failing storage is asked again."""

    def files(self, under: str = "", after: str = "") -> list[Stored]:
        """All files below a folder, by name; empty if there is no such folder.

        Args:
            under: the folder, below the study.
            after: leave out files up to this name.
        """

    def about(self, name: str) -> Stored:
        """Size and age of one file."""

    def read(self, name: str) -> bytes:
        """The content of a file."""

    def write(self, name: str, content: bytes) -> None:
        """Make or replace a file."""

    def create(self, name: str, content: bytes) -> bool:
        """Make a file unless there is one of that name; of many processes that try, one succeeds.

        The storage decides, so that nothing can happen between looking and writing.

        Returns:
            True if the file has this content now, False if it existed with another content.
        """

    def exchange(self, name: str, before: bytes, after: bytes) -> bool:
        """Replace a file's content if it is still what it was.

        Returns:
            False if it has another content by now.
        """

    def put(self, path: Path, name: str) -> None:
        """Make or replace a file with the content of the one at `path`."""

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file to `path`."""

    def remove(self, name: str) -> None:
        """Delete a file; nothing happens if there is none."""


def is_remote(location: str | Path) -> bool:
    """Whether this is an address in an object store."""
    return isinstance(location, str) and "://" in location


def storage_at(location: str | Path, environment: Environment = REAL) -> Storage:
    """The storage at a folder or an address, without any request over the network.

    Raises:
        UserError: an unknown scheme, no bucket, credentials in the address, or parts that are no
            names.
    """
    if not is_remote(location):
        return FolderStorage(Path(location).expanduser(), environment)
    from ray_unlearn.store.object_storage import ObjectStorage

    return ObjectStorage(checked_url(str(location)), environment)


def checked_url(url: str) -> str:
    """The address without a slash at its end.

    Raises:
        UserError: as in `storage_at`.
    """
    parts = urlsplit(url)
    # No secret goes into a message.
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.scheme == "file":
        raise UserError(f"{shown}: give a local folder as a plain path: {parts.path}")
    if parts.scheme not in SCHEMES:
        database = parts.scheme.startswith(("sqlite", "mysql", "postgresql", "redis"))
        folder = "; a study is a folder: --storage results/NAME" if database else ""
        raise UserError(
            f"{shown}: unknown kind of storage {parts.scheme!r}"
            f"{folder or nearest(parts.scheme, SCHEMES)}"
        )
    account = parts.scheme.startswith("abfs") or parts.username == "anonymous"
    if parts.password or (parts.username and not account):
        raise UserError(
            f"{shown}: credentials do not belong in an address, which is shown and logged; take "
            "them out and set them in the environment (AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY), or give the machine an identity"
        )
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in OPTIONS:
            raise UserError(f"{shown}: option {name!r} after `?`{nearest(name, OPTIONS)}")
    if not parts.netloc:
        raise UserError(f"{shown}: names no bucket; give {parts.scheme}://BUCKET/FOLDER/NAME")
    names = parts.path.strip("/").split("/")
    if names == [""]:
        raise UserError(
            f"{shown}: a study needs a folder of its own below the bucket: {shown.rstrip('/')}/NAME"
        )
    for name in names:
        if not PART.fullmatch(name):
            raise UserError(
                f"{shown}: {name!r} is no name for a folder; use letters, digits and ._=+@-"
            )
    return url.partition("?")[0].rstrip("/") + (f"?{parts.query}" if parts.query else "")


def below(location: str | Path, *names: str) -> str | Path:
    """The location of something inside another: `below("s3://b/study?region=x", "confirm")`."""
    if not is_remote(location):
        return Path(location).expanduser().joinpath(*names)
    base, mark, query = str(location).partition("?")
    return "/".join([base.rstrip("/"), *names]) + mark + query


@contextmanager
def local_file(storage: Storage, name: str) -> Iterator[Path]:
    """A file of the storage as a local path, for as long as the context lasts.

    Raises:
        OSError: as in `Storage.fetch`.
    """
    if isinstance(storage, FolderStorage):
        yield storage.readable(name)
        return
    with tempfile.TemporaryDirectory(prefix="ray-unlearn-") as folder:
        path = Path(folder) / Path(name).name
        storage.fetch(name, path)
        yield path


def is_stored(storage: Storage, name: str) -> bool:
    """Whether there is a file of that name.

    Raises:
        OSError: the storage fails.
    """
    try:
        storage.about(name)
    except FileNotFoundError:
        return False
    return True


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FolderStorage:
    """A folder as a `Storage`."""

    remote = False

    def __init__(self, folder: Path, environment: Environment = REAL) -> None:
        self.url = str(folder)
        self.patience_s = 0.0
        self._folder = folder
        self._environment = environment

    def path(self, name: str) -> Path:
        """Path of a file, whether it exists or not.

        Raises:
            PermissionError: it is outside the folder, by its name or through a symbolic link.
        """
        # If the file itself is a link, the link is replaced or deleted, not its target.
        self._stay_inside(checked_name(name).rpartition("/")[0])
        return self._folder / name

    def readable(self, name: str) -> Path:
        """Path of a file that is read: a regular one, and no link out of the folder.

        Raises:
            OSError: it is neither, or not there.
        """
        path = self._folder / checked_name(name)
        mode = self._mode(name)
        if mode is None:
            self._stay_inside(name)
            mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(f"{path}: no regular file")
        return path

    def _stay_inside(self, name: str) -> None:
        # Resolving both paths takes longer than writing an event.
        if not name or self._mode(name) is not None:
            return
        path = self._folder / name
        if not path.resolve().is_relative_to(self._folder.resolve()):
            raise PermissionError(
                f"{path} leads out of {self._folder} through a symbolic link, where files would be "
                "deleted; to keep a study on another disk, link the whole folder"
            )

    def _mode(self, name: str) -> int | None:
        """Mode of a file below the folder; None: a symbolic link leads to it, or it is missing."""
        here, mode = self.url, None
        for part in name.split("/"):
            here = f"{here}/{part}"
            try:
                mode = os.lstat(here).st_mode
            except OSError:
                return None
            if stat.S_ISLNK(mode):
                return None
        return mode

    def files(self, under: str = "", after: str = "") -> list[Stored]:
        """See `Storage`."""
        top = self.path(under) if under else self._folder
        self._stay_inside(under)
        return [stored for stored in self._stored(top.rglob("*")) if stored.name > after]

    def about(self, name: str) -> Stored:
        """See `Storage`."""
        found = self.path(name).stat()
        return Stored(name, found.st_size, found.st_mtime)

    def files_at_the_top(self) -> list[Stored]:
        """Files in the folder itself, by name."""
        return self._stored(self._folder.glob("*"))

    def _stored(self, paths: Iterable[Path]) -> list[Stored]:
        found = []
        for path in sorted(paths):
            with suppress(FileNotFoundError):  # a running study replaces files
                if path.is_file():
                    about = path.stat()
                    found.append(
                        Stored(
                            path.relative_to(self._folder).as_posix(), about.st_size, about.st_mtime
                        )
                    )
        return found

    def read(self, name: str) -> bytes:
        """See `Storage`."""
        return self.readable(name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """See `Storage`."""
        write_whole(self.path(name), content, self._environment)

    def create(self, name: str, content: bytes) -> bool:
        """See `Storage`."""
        path = self.path(name)
        return create_whole(path, content, self._environment) or path.read_bytes() == content

    def exchange(self, name: str, before: bytes, after: bytes) -> bool:
        """See `Storage`; only an object store decides between two that do it at once."""
        same = self.read(name) == before
        if same:
            self.write(name, after)
        return same

    def put(self, path: Path, name: str) -> None:
        """See `Storage`."""
        with whole_file(self.path(name), self._environment) as draft:
            shutil.copyfile(path, draft)

    def fetch(self, name: str, path: Path) -> None:
        """See `Storage`."""
        shutil.copyfile(self.readable(name), path)

    def remove(self, name: str) -> None:
        """See `Storage`."""
        self.path(name).unlink(missing_ok=True)

"""Write a file whole or not at all.

Whatever happens, a power cut included, a reader finds the old content or the new one, and a file
that was written stays written. The package replaces files in no other way.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray_unlearn.environment import REAL, Environment

DRAFT_ENDING = ".tmp"


@contextmanager
def whole_file(
    path: Path, environment: Environment = REAL, *, make_folder: bool = True
) -> Iterator[Path]:
    """A draft beside `path`, which replaces it when the context ends without an error.

    Args:
        path: the file.
        environment: makes the draft's name, so that two writers never share a draft.
        make_folder: make the file's folder if it is missing.

    Raises:
        OSError: the file cannot be written; `path` is unchanged.
    """
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    with _draft(path, environment) as draft:
        yield draft
        sync(draft, environment)
        draft.replace(path)
    sync(path.parent, environment)


@contextmanager
def whole_folder(path: Path, environment: Environment = REAL) -> Iterator[Path]:
    """A new folder beside `path`, which becomes `path` when the context ends without an error.

    Args:
        path: the folder; there must be none.
        environment: makes the new folder's name.

    Raises:
        OSError: it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{environment.unique_name()}{DRAFT_ENDING}")
    draft.mkdir()
    try:
        yield draft
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync(path.parent, environment)


def write_whole(path: Path, content: bytes, environment: Environment = REAL) -> None:
    """Make or replace a file.

    Raises:
        OSError: as in `whole_file`.
    """
    with whole_file(path, environment) as draft:
        draft.write_bytes(content)


def create_whole(path: Path, content: bytes, environment: Environment = REAL) -> bool:
    """Make a file unless there is one of that name; of many processes that try, one succeeds.

    Returns:
        Whether it was made.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _draft(path, environment) as draft:
        draft.write_bytes(content)
        sync(draft, environment)
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
    sync(path.parent, environment)
    return True


@contextmanager
def _draft(path: Path, environment: Environment) -> Iterator[Path]:
    draft = path.with_name(f"{path.name}.{environment.unique_name()}{DRAFT_ENDING}")
    try:
        yield draft
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def sync(path: Path, environment: Environment = REAL) -> None:
    """Put a file's content, or a folder's list of names, on disk.

    Raises:
        OSError: the disk is full or fails.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        environment.fsync(handle)
    except OSError as error:
        # Some network file systems cannot sync a folder; their servers do it by themselves.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)

"""A study's weights: the last checkpoint of each unfinished trial, and the best row's weights.

trials/0003/last.2-1.pt             trial 3 has no outcome yet and continues from here
                                    (second run of the study, attempt 1)
trials/0003/last.2-1-6.rank0of2.pt  the same for a sharded trial: update 6, first of two workers
trials/best/0007-48.safetensors     trial 7 after update 48: the lowest score so far
trials/best/0007-48-at-0.87.safetensors
                                    the same at strength 0.87
"""

import shutil
from collections.abc import Iterator
from fnmatch import fnmatch

from ray_unlearn.store.atomic_write import DRAFT_ENDING
from ray_unlearn.store.record import Record
from ray_unlearn.store.schema import AS_TRAINED
from ray_unlearn.store.storage import FolderStorage, Storage, file_sha256, local_file
from ray_unlearn.store.stored_file import Stored

TRIALS = "trials"
BEST = "best"
CHECKPOINT = "last*.pt"


def checkpoint_file(number: int) -> str:
    """Name of an unfinished trial's last checkpoint.

    `checkpoint.attempt_file` adds the attempt to it.
    """
    return f"{TRIALS}/{number:04d}/last.pt"


def best_file(number: int, update: int, strength: float = AS_TRAINED) -> str:
    """Name of the file with the weights of a row."""
    at = "" if strength == AS_TRAINED else f"-at-{strength!r}"
    return f"{TRIALS}/{BEST}/{number:04d}-{update}{at}.safetensors"


def kept_weights(
    storage: Storage, record: Record, number: int, update: int, strength: float = AS_TRAINED
) -> str | None:
    """Name of the file with the weights of a row; None unless it is the file that was written."""
    kept = record.best_weights
    if kept is None or (kept.number, kept.update, kept.strength) != (number, update, strength):
        return None
    try:
        with local_file(storage, kept.file) as path:
            return kept.file if file_sha256(path) == kept.sha256 else None
    except OSError:
        return None


def leftovers(storage: Storage, record: Record) -> Iterator[Stored]:
    """Files that a killed process left behind and that a stopped study does not need.

    They are drafts, checkpoints of finished or unknown trials, and weights of rows other than the
    best.

    Raises:
        OSError: the storage fails.
    """
    trials = storage.files(TRIALS)
    others = (*storage.files("ledger"), *_files_at_the_top(storage))
    drafts = [file for file in (*trials, *others) if file.name.endswith(DRAFT_ENDING)]
    yield from drafts
    unfinished = {f"{TRIALS}/{n:04d}" for n, trial in record.trials.items() if trial.status is None}
    best = None if record.best_weights is None else record.best_weights.file
    for file in trials:
        folder, _, name = file.name.rpartition("/")
        wanted = file.name == best or (folder in unfinished and fnmatch(name, CHECKPOINT))
        if not wanted and file not in drafts:
            yield file


def _files_at_the_top(storage: Storage) -> list[Stored]:
    """Files in the study folder itself; none for an object store, which has no drafts."""
    return storage.files_at_the_top() if isinstance(storage, FolderStorage) else []


def remove_leftovers(storage: Storage, record: Record) -> tuple[int, int]:
    """Delete leftovers and the folders that become empty.

    Returns:
        The number of files and of bytes.

    Raises:
        OSError: the storage fails.
    """
    files = freed = 0
    for file in list(leftovers(storage, record)):
        storage.remove(file.name)
        freed += file.bytes
        files += 1
    if isinstance(storage, FolderStorage):
        for folder in sorted(storage.path(TRIALS).glob("*/")):
            if not any(folder.iterdir()):
                folder.rmdir()
    return files, freed


def remove_checkpoints(storage: Storage, number: int) -> None:
    """Delete the checkpoints of an ended trial; one that cannot be deleted is a leftover."""
    try:
        for file in storage.files(f"{TRIALS}/{number:04d}"):
            storage.remove(file.name)
        if isinstance(storage, FolderStorage):
            shutil.rmtree(storage.path(f"{TRIALS}/{number:04d}"), ignore_errors=True)
    except OSError:
        return

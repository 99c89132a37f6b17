"""Where a study keeps weights, and what may lie there: the last checkpoint of each unfinished trial, the best row's weights.

    trials/0003/last.pt                 trial 3 has no outcome yet; it goes on from here
    trials/0003/last-6.rank0of2.pt      the same of a sharded trial: update 6, the first of two workers
    trials/best/0007-48.safetensors     trial 7 after update 48: the lowest score so far

Written as `*.tmp` and renamed, so that a file with its right name is whole.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ray_unlearn.results.record import Record

TRIALS = "trials"
BEST = "best"
TEMPORARY = "*.tmp"
CHECKPOINT = "last*.pt"


def checkpoint_file(study: Path, number: int) -> Path:
    """The last checkpoint of an unfinished trial."""
    return study / TRIALS / f"{number:04d}" / "last.pt"


def best_file(number: int, update: int) -> str:
    """The kept weights of a row, relative to the study directory."""
    return f"{TRIALS}/{BEST}/{number:04d}-{update}.safetensors"


def kept_weights(study: Path, record: Record, number: int, update: int) -> Path | None:
    """The file with the weights of this row, where they were kept and are still what was written."""
    about = record.artefact
    if about is None or (about["number"], about["update"]) != (number, update):
        return None
    path = study / str(about["file"])
    try:
        with open(path, "rb") as file:
            unchanged = hashlib.file_digest(file, "sha256").hexdigest() == about["sha256"]
    except OSError:
        return None
    return path if unchanged else None


def leftovers(study: Path, record: Record) -> Iterator[Path]:
    """Files that a killed process left behind: half-written ones, checkpoints of finished or unknown trials, weights
    that are not, or no more, the best. A study that is not running may lose them all."""
    for folder in (study / TRIALS, study / "ledger"):
        yield from sorted(folder.rglob(TEMPORARY))
    unfinished = {checkpoint_file(study, n).parent for n, trial in record.trials.items() if trial.status is None}
    best = None if record.artefact is None else study / str(record.artefact["file"])
    for path in sorted((study / TRIALS).rglob("*")):
        wanted = path == best or (path.parent in unfinished and path.match(CHECKPOINT))
        if path.is_file() and not wanted and not path.match(TEMPORARY):
            yield path


def remove_leftovers(study: Path, record: Record) -> tuple[int, int]:
    """Delete them and the folders they leave empty; number of files and of bytes."""
    files = freed = 0
    for path in list(leftovers(study, record)):
        freed += path.stat().st_size
        path.unlink(missing_ok=True)
        files += 1
    for folder in sorted((study / TRIALS).glob("*/")):
        if not any(folder.iterdir()):
            folder.rmdir()
    return files, freed

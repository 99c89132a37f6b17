"""Places for new studies: what is refused, and how a start that fails leaves its place free."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.location import SPEC, StudyFiles

OWN = (
    SPEC, "ledger", "trials", "live.json", "metrics.prom", "baselines.json", "optuna.journal",
    "tensorboard",
)  # fmt: skip
"""What a study that has begun writes into its folder."""
NOBODYS = ("lost+found",)


def check_free(place: StudyFiles) -> None:
    """Refuse a place that holds a study, or other people's files.

    Raises:
        UserError: what is there, and what to do.
        StorageError: the storage fails.
    """
    if place.occupied():
        raise UserError(
            f"{place.location} holds a study already; go on with it: `ray-unlearn resume "
            f"{place.location}`, or choose another place"
        )
    if place.storage.remote or not place.folder.is_dir():
        return
    others = sorted(
        path.name
        for path in place.folder.iterdir()
        if path.name not in (*OWN, *NOBODYS) and not path.name.startswith(".")
    )
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise UserError(
            f"{place.location}: is no empty folder: {others[0]}{more} is there; choose another, "
            f"such as {Path(place.location) / 'study'}"
        )


@contextmanager
def left_free(place: StudyFiles, but: type[UserError] = StorageError) -> Iterator[None]:
    """Take away what a start made, where it is refused before any lane has measured anything.

    Otherwise the place would be taken, and `resume` would fail in the same way. In an object store
    the events stay: another process may read them.

    Args:
        place: of the study.
        but: errors that are no fault of the study's.
    """
    was_there = place.folder.exists()
    try:
        yield
    except UserError as error:
        refused = not isinstance(error, StorageError | but)
        if refused and not place.storage.remote and not _has_measured(place.folder):
            with suppress(OSError):
                _clear(place.folder, was_there)
        raise


def _has_measured(folder: Path) -> bool:
    try:
        record = read_ledger(folder / "ledger")
    except UserError:
        return True  # nobody knows
    return bool(record.trials or record.baselines)


def _clear(folder: Path, was_there: bool) -> None:
    for name in OWN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if not was_there:
        folder.rmdir()

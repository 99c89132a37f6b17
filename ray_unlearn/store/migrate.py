"""Migration of a study in an object store to one object per event.

The first event is written last. Until then the study has its older form, and a migration that was
killed is begun again; from then on it has the new one.
"""

import tempfile
from pathlib import Path

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.lease import Lease, LeasePlace
from ray_unlearn.store.object_events import (
    HEADER_COPY,
    READERS,
    complete_runs,
    event_object,
    joined_object,
    read_events,
)
from ray_unlearn.store.older_form import fetch_older_form, remove_older_form
from ray_unlearn.store.promises import SPEC_FILE
from ray_unlearn.store.repair import repair, set_aside
from ray_unlearn.store.scan import events_file, header_file, lines_of, scanned
from ray_unlearn.store.storage import Storage, is_stored


def migrate(storage: Storage, environment: Environment = REAL) -> list[str]:
    """Give a study in an object store the form of this version.

    Returns:
        What was done, one sentence each.

    Raises:
        StorageError: a process is writing the study, it is damaged beyond repair, or the storage
            fails. The study is as it was.
    """
    try:
        if is_stored(storage, event_object(0)):
            remove_older_form(storage)  # what a killed migration has left
            return ["it has the form of this version already"]
        with tempfile.TemporaryDirectory(prefix="ray-unlearn-") as folder:
            return _migrated(storage, Path(folder), environment)
    except OSError as error:
        raise StorageError(f"{error}; the study is as it was, try again") from None


def _migrated(storage: Storage, study: Path, environment: Environment) -> list[str]:
    ledger = study / "ledger"
    place = LeasePlace(storage, environment=environment)
    place.refuse_if_held()
    lease = Lease(place, 0, _renewed)
    try:
        fetch_older_form(storage, ledger, environment)
        done = repair(study, environment)
        lines = [line for _, line in lines_of(events_file(ledger))]
        lease.outrank(scanned(ledger).entries[-1].fence - 1)
        names = range(1, len(lines))
        environment.map(lambda n: storage.write(event_object(n), lines[n]), names, READERS)
        for run in complete_runs(0, len(lines)):
            storage.write(joined_object(run), b"".join(lines[number] for number in run))
        storage.put(header_file(ledger), HEADER_COPY)
        others = list(ledger.glob("other-study-*.jsonl"))
        for path in (*set_aside(ledger), *others):
            storage.put(path, f"ledger/{path.name}")
            done.append(f"ledger/{path.name} holds what is no part of the study")
        if others:
            storage.remove(SPEC_FILE)  # of the last one; `resume` writes it anew
        if not storage.create(event_object(0), lines[0]) or _read_back(storage) != lines:
            raise StorageError(f"{storage.url}: another process migrates this study; look again")
    finally:
        lease.stop()
    remove_older_form(storage)
    return [f"{len(lines)} events are objects of their own now", *done]


def _renewed(lease: Lease) -> bool:
    lease.write()
    return True


def _read_back(storage: Storage) -> list[bytes]:
    return [line for _, line in read_events(storage)]

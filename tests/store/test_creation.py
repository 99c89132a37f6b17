"""Who begins a study and who may go on with it: if these fail, one run destroys another's."""

import json
from pathlib import Path

import pytest
from ledgers import begin, names_at, notes_at, spec
from object_store import Store

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store import location as locations
from ray_unlearn.store.event import Header, Note
from ray_unlearn.store.folder_log import FolderLog
from ray_unlearn.store.lease import LEASE_FILE
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.location import fetched, opened
from ray_unlearn.store.object_events import HEADER_COPY, event_object
from ray_unlearn.store.object_storage import ObjectStorage
from ray_unlearn.store.storage import FolderStorage, storage_at
from ray_unlearn.store.verify import verify

FIRST = Header(spec=spec().model_dump(mode="json"), domain="first", context="c")
SECOND = Header(spec=spec().model_dump(mode="json"), domain="second", context="c")


def test_a_run_that_prepared_while_another_ran_destroys_nothing(url: str, store: Store) -> None:
    """Both looked, found nothing, and prepared for minutes; the first has even ended by then."""
    with opened(url) as first, opened(url) as second:
        assert not first.occupied()
        assert not second.occupied()
        with first.create_ledger(FIRST) as ledger:
            ledger.append(Note("result"))
        before = {name: storage_at(url).read(name) for name in names_at(url, "ledger/log")}
        with pytest.raises(StorageError, match=r"another process has begun a study here.*resume"):
            second.create_ledger(SECOND)
    assert {name: storage_at(url).read(name) for name in before} == before
    with fetched(url) as folder:
        record = read_ledger(folder / "ledger")
        assert (record.header.domain, record.notes) == ("first", ["result"])
    with opened(url) as third, third.open_ledger() as ledger:
        assert ledger.record.notes == ["result"], "and the lease is free again"


def test_a_study_whose_process_died_right_after_it_was_begun_is_resumed(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the header is there: no event of its own, no lease, no copy."""
    monkeypatch.setattr("ray_unlearn.store.object_log.PATIENCE_S", 0.1)
    begin(url, FIRST)
    for name in names_at(url, ""):
        if name != event_object(0):
            storage_at(url).remove(name)
    with opened(url) as place:
        assert place.occupied()
        with pytest.raises(StorageError, match="another process has begun a study here"):
            place.create_ledger(SECOND)
    with opened(url) as place, place.open_ledger() as ledger:
        assert ledger.record.header.domain == "first"
        ledger.append(Note("on"))
    assert notes_at(url) == ["on"]
    with fetched(url) as folder:
        assert verify(folder, storage_at(url)).problems == []


def test_a_header_has_its_copy_before_it_is_created_and_no_other_run_replaces_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request of a dead `run` that arrived late replaced the copy; once the first event was
    damaged, a repair gave the study the other one's header."""
    asked = []
    create = ObjectStorage.create

    def witnessed(storage: ObjectStorage, name: str, content: bytes) -> bool:
        asked.append(name)
        return create(storage, name, content)

    monkeypatch.setattr(ObjectStorage, "create", witnessed)
    with opened(url) as first, opened(url) as second:
        asked.clear()
        first.create_ledger(FIRST).close()
        assert asked[:2] == [HEADER_COPY, event_object(0)]
        copy = storage_at(url).read(HEADER_COPY)
        assert copy == storage_at(url).read(event_object(0))
        storage_at(url).remove(event_object(0))
        with pytest.raises(StorageError, match="another process has begun a study here"):
            second.create_ledger(SECOND)
    assert storage_at(url).read(HEADER_COPY) == copy


def test_a_place_where_a_process_died_before_the_first_event_says_so(url: str) -> None:
    begin(url, FIRST)
    for name in names_at(url, ""):
        if name != HEADER_COPY:
            storage_at(url).remove(name)
    with opened(url) as place, pytest.raises(StorageError, match="nothing was recorded, remove"):
        place.open_ledger()


def test_a_study_whose_first_event_is_gone_is_not_written_over(url: str) -> None:
    begin(url, FIRST)
    for name in (event_object(0), "ledger/first_event.json"):
        storage_at(url).remove(name)
    with opened(url) as place:
        assert place.occupied()


def test_a_store_that_cannot_decide_is_refused_before_anything_is_prepared(tmp_path: Path) -> None:
    class Replaces(FolderStorage):
        """Ignores the condition, as servers do that do not know it."""

        def create(self, name: str, content: bytes) -> bool:
            self.write(name, content)
            return True

    with pytest.raises(StorageError, match="created only if they are absent"):
        locations._check(Replaces(tmp_path), locations.REAL)
    locations._check(FolderStorage(tmp_path), locations.REAL)
    assert names_in(tmp_path) == ["ledger/probe"], "what the bad store left"


def test_on_a_shared_file_system_it_does_not_take_the_study_back(tmp_path: Path) -> None:
    """It would raise its fence above that of the process that works on the study."""
    Ledger.create(tmp_path, FIRST).close()
    sleeper = FolderLog(tmp_path)
    lease = tmp_path / LEASE_FILE
    lease.write_text(json.dumps(json.loads(lease.read_text()) | {"token": 3, "host": "other"}))
    with pytest.raises(StorageError, match="has lost the study to process"):
        Ledger.continued(sleeper)
    assert json.loads(lease.read_text())["host"] == "other"


def names_in(folder: Path) -> list[str]:
    return [f.name.partition("-")[0] for f in FolderStorage(folder).files()]

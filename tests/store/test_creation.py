"""Who begins a study and who may go on with it: if these fail, one run destroys another's."""

import json
from pathlib import Path

import pytest
from ledgers import begin, names_at, notes_at, outcome_event, row_event, spec, start, trial_event
from object_store import Store

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store import location as locations
from ray_unlearn.store import object_lease
from ray_unlearn.store.event import Event, Header, Note
from ray_unlearn.store.lease import LEASE_FILE, Lease
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.location import fetched, opened
from ray_unlearn.store.repair import repair_remote
from ray_unlearn.store.scan import events_file
from ray_unlearn.store.storage import FolderStorage, storage_at
from ray_unlearn.store.verify import verify
from ray_unlearn.store.working_copy import HEADER, RemoteWriter

FIRST = Header(spec=spec().model_dump(mode="json"), domain="first", context="c")
SECOND = Header(spec=spec().model_dump(mode="json"), domain="second", context="c")


def test_a_run_that_prepared_while_another_ran_destroys_nothing(url: str, store: Store) -> None:
    """Both looked, found nothing, and prepared for minutes; the first has even ended by then."""
    with opened(url) as first, opened(url) as second:
        assert not first.occupied()
        assert not second.occupied()
        with first.create_ledger(FIRST) as ledger:
            ledger.append(Note("result"))
        before = {name: storage_at(url).read(name) for name in names_at(url, "ledger/segments")}
        with pytest.raises(StorageError, match=r"another process has begun a study here.*resume"):
            second.create_ledger(SECOND)
    assert {name: storage_at(url).read(name) for name in before} == before
    with fetched(url) as folder:
        record = read_ledger(folder / "ledger")
        assert (record.header.domain, record.notes) == ("first", ["result"])
    with opened(url) as third, third.open_ledger() as ledger:
        assert ledger.record.notes == ["result"], "and the lease is free again"


def test_a_study_of_an_older_version_whose_header_was_not_copied_yet_counts(url: str) -> None:
    with opened(url) as first, opened(url) as second:
        first.create_ledger(FIRST).close()
        storage_at(url).remove(HEADER)
        with pytest.raises(StorageError, match="another process has begun a study here"):
            second.create_ledger(SECOND)


def test_a_study_whose_process_died_right_after_it_was_begun_is_resumed(url: str) -> None:
    begin(url, FIRST)
    for name in [*names_at(url, "ledger/segments"), *names_at(url, "ledger/lease")]:
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


def test_a_store_that_cannot_decide_is_refused_before_anything_is_prepared(tmp_path: Path) -> None:
    class Replaces(FolderStorage):
        """Ignores the condition, as servers do that do not know it."""

        def create(self, name: str, content: bytes) -> bool:
            self.write(name, content)
            return True

    with pytest.raises(StorageError, match="created only if they are absent"):
        locations._check_creation(Replaces(tmp_path), locations.REAL)
    locations._check_creation(FolderStorage(tmp_path), locations.REAL)
    assert names_in(tmp_path) == ["ledger/probe"], "what the bad store left"


def test_a_process_that_stood_still_between_lease_and_reading_says_that_it_has_lost(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(url, FIRST)
    with opened(url) as sleeper, opened(url) as other:
        writer = sleeper._take()
        writer.lease._stop.set()
        monkeypatch.setattr(object_lease, "_died_here", lambda *_: True)  # taken for dead
        with other.open_ledger() as ledger:
            ledger.append(Note("of the other one"))
        monkeypatch.setattr(sleeper, "_take", lambda: writer)
        with pytest.raises(StorageError, match=r"has lost the study: another process took it over"):
            sleeper.open_ledger()
    assert notes_at(url) == ["of the other one"]


def test_on_a_shared_file_system_it_does_not_take_the_study_back(tmp_path: Path) -> None:
    """It would raise its fence above that of the process that works on the study."""
    Ledger.create(tmp_path, FIRST).close()
    with open(events_file(tmp_path), "ab") as file:
        sleeper = Lease.take(tmp_path, file, "x")
        lease = tmp_path / LEASE_FILE
        lease.write_text(json.dumps(json.loads(lease.read_text()) | {"token": 3, "host": "other"}))
        with pytest.raises(StorageError, match="has lost the study to process"):
            sleeper.outrank(3)
        sleeper.release()
    assert json.loads(lease.read_text())["host"] == "other"


class AsBefore(RemoteWriter):
    """Begins a study as older versions did: whatever is there."""

    def _begin(self, header: bytes) -> None:
        self._storage.write(HEADER, header)


def overwritten(url: str, first: list[Event], second: list[Event]) -> None:
    """Two runs at one address, by an older version."""
    for header, events in ((FIRST, first), (SECOND, second)):
        with opened(url) as place:
            writer = AsBefore(place.storage, place.folder)
            with Ledger.create(place.folder / "ledger", header, writer) as ledger:
                for event in events:
                    ledger.append(event)
            place.storage.write("study.yaml", header.domain.encode())


@pytest.mark.parametrize(
    ("extra", "kept", "other"), [(5, "first", "second"), (0, "second", "first")]
)
def test_a_study_that_was_overwritten_comes_back(
    url: str, extra: int, kept: str, other: str
) -> None:
    trial = [trial_event(0), *(row_event(0, update) for update in (1, 2, 4)), outcome_event(0)]
    first = [*start(1), *trial[:extra]]
    overwritten(url, first, [*start(1), Note("second")])
    with fetched(url) as folder:
        with pytest.raises(StorageError, match=r"two studies were begun.*--repair"):
            read_ledger(folder / "ledger")
        found = verify(folder, storage_at(url)).problems
        assert any("two studies were begun" in problem for problem in found), found
    with opened(url) as place:
        said = repair_remote(place)
    assert any("set aside whole" in text and "study" in text for text in said), said
    with fetched(url) as folder:
        record = read_ledger(folder / "ledger")
        assert record.header.domain == kept
        assert len(record.trials) == (1 if extra else 0)
        assert [p for p in verify(folder, storage_at(url)).problems if "I4" not in p] == []
        assert not (folder / "study.yaml").exists(), "the next `resume` writes it"
    [aside] = names_at(url, "ledger/other-study-")
    assert storage_at(url).read(aside).startswith(b'{"seq": 0')
    assert f'"domain": "{other}"'.encode() in storage_at(url).read(aside)
    with opened(url) as place, place.open_ledger() as ledger:
        ledger.append(Note("goes on"))


def names_in(folder: Path) -> list[str]:
    return [f.name.partition("-")[0] for f in FolderStorage(folder).files()]

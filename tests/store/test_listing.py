"""The list of studies in an object store: one listing and one small object a study."""

from dataclasses import replace
from pathlib import Path

import pytest
from ledgers import begin, spec
from object_store import BUCKET
from test_status import LIVE

from ray_unlearn.environment import REAL
from ray_unlearn.store.event import Header, Note
from ray_unlearn.store.listing import ListedStudy, listed
from ray_unlearn.store.live import LIVE_FILE
from ray_unlearn.store.location import opened
from ray_unlearn.store.object_events import event_object
from ray_unlearn.store.object_storage import ObjectStorage
from ray_unlearn.store.storage import storage_at


def study_at(url: str, running: bool) -> None:
    header = Header(spec=spec().model_dump(mode="json"), domain="test", context="c")
    with opened(url) as place, place.create_ledger(header) as ledger:
        ledger.append(Note("here"))
        if running:
            replace(LIVE, time=REAL.now().isoformat()).write(place.folder)
            place.publish(LIVE_FILE)


def by_name(url: str) -> dict[str, ListedStudy]:
    return {study.name: study for study in listed(url)}


def test_studies_below_an_address_are_listed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study_at(f"{url}/team/one", running=True)
    study_at(f"{url}/two", running=False)
    storage_at(f"{url}/notes").write("readme.txt", b"no study")
    found = by_name(url)
    assert list(found) == ["team/one", "two"]
    one = found["team/one"]
    assert (one.state, one.finished, one.asked_for, one.best) == ("running", 2, 4, 0.1)
    assert one.location == f"{url}/team/one"
    assert one.size_bytes == sum(file.bytes for file in storage_at(f"{url}/team/one").files())
    assert (found["two"].state, found["two"].finished) == ("stopped", 0)
    assert list(by_name(f"{url}/two")) == ["."]
    folder = url.removeprefix(f"s3://{BUCKET}/")
    assert {f"{folder}/team/one", f"{folder}/two"} <= set(by_name(f"s3://{BUCKET}"))

    # A running one's events are not read: there may be 100,000.
    asked = []
    read = ObjectStorage.read
    monkeypatch.setattr(
        ObjectStorage, "read", lambda self, name: asked.append(name) or read(self, name)
    )
    by_name(f"{url}/team")
    assert asked == ["one/live.json"]


def test_a_broken_study_in_a_store_hides_no_other(url: str) -> None:
    study_at(f"{url}/one", running=False)
    study_at(f"{url}/two", running=False)
    storage_at(f"{url}/one").write(event_object(0), b"nonsense\n")
    found = by_name(url)
    assert found["one"].state == "broken"
    assert found["one"].problem
    assert found["two"].state == "stopped"


def test_a_local_study_that_was_begun_is_listed_before_its_first_trial(tmp_path: Path) -> None:
    begin(str(tmp_path / "study"), Header(spec=spec().model_dump(mode="json"), domain="test"))
    assert [study.state for study in listed(str(tmp_path))] == ["stopped"]

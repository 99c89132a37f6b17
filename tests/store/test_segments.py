"""The ledger in an object store: what makes it up, what is put together, who may write, and what a
loser can still do."""

import json
import threading
from pathlib import Path

import pytest
from ledgers import begin, notes_at
from object_store import Store

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store import object_lease as remote_lease
from ray_unlearn.store import segments
from ray_unlearn.store.event import Header, Note, SessionBegan
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.location import StudyFiles, copied, fetched, opened
from ray_unlearn.store.object_lease import RemoteLease
from ray_unlearn.store.repair import repair_remote
from ray_unlearn.store.scan import events_file
from ray_unlearn.store.segments import Segment
from ray_unlearn.store.storage import FolderStorage, Storage, storage_at
from ray_unlearn.store.verify import verify
from ray_unlearn.store.working_copy import RemoteWriter, WorkingCopy

HEADER = Header(spec={"name": "tiny"}, domain="x")


def note(text: object) -> Note:
    return Note(text=str(text))


def writes(store: Store) -> dict[str, int]:
    """Requests that change something, by kind."""
    asked = store.faults()
    return {name: asked[name] for name in ("PUT", "POST", "DELETE") if name in asked}


def test_what_makes_up_the_ledger() -> None:
    small = [Segment(1, n, n) for n in range(4)]
    assert segments.needed([*small, Segment(2, 4, 4)]) == [*small, Segment(2, 4, 4)]
    joined = Segment(1, 0, 2)
    assert segments.needed([*small, joined]) == [joined, small[3]], (
        "a crash left both: the larger counts"
    )
    base = Segment(3, 0, 9, base=True)
    assert segments.needed([*small, base, Segment(2, 4, 9), Segment(4, 10, 10)]) == [
        base,
        Segment(4, 10, 10),
    ]
    for segment in (joined, base, Segment(123456789, 1, 98765432109)):
        assert segments.parsed(segment.name) == segment
    assert segments.parsed("ledger/segments/notes.txt") is None
    names = [Segment(9, 1, 1).name, Segment(10, 1, 1).name, Segment(10, 2, 20).name]
    assert names == sorted(names), "listings come in the ledger's order"


def test_what_is_put_together() -> None:
    run = [Segment(1, n, n) for n in range(64)]
    assert list(segments.worth_joining(run)) == [run]
    assert segments.joined(run) == Segment(1, 0, 63)
    assert list(segments.worth_joining(run[:-1])) == []
    gap = [*run[:40], *(Segment(1, n, n) for n in range(41, 70))]
    assert list(segments.worth_joining(gap)) == [], "never over a gap"
    second = [Segment(1, 64 * n, 64 * n + 63) for n in range(64)]
    assert list(segments.worth_joining([*second, Segment(1, 4096, 4096)])) == [second]


def test_a_ledger_is_written_read_joined_and_opened_again(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "FEW", 4)
    with opened(url) as place:
        assert not place.occupied()
        with place.create_ledger(HEADER) as ledger:
            for number in range(10):
                ledger.append(note(number))
                assert any(f"{number + 1:010d}" in name for name in store.names()), (
                    "in the store when `append` returns"
                )
            assert place._writer is not None
            place._writer.join()
            assert notes_at(url) == [str(n) for n in range(10)]
            for number in range(10, 13):
                ledger.append(note(number))
    names = [name.rpartition("/")[2] for name in store.names() if "/segments/" in name]
    assert names[0] == "00000001-0000000000-0000000010.jsonl"
    assert len(names) == 4, names
    with opened(url) as place, place.open_ledger() as ledger:
        assert ledger.found_at_opening == []
        assert ledger.fence == 2
        assert ledger.record.notes == [str(n) for n in range(13)]
        ledger.append(note("more"))
    assert notes_at(url)[-2:] == ["12", "more"]
    with pytest.raises(StorageError, match="no study there"), opened(url + "x") as place:
        place.open_ledger()


def test_a_copy_keeps_up(url: str) -> None:
    with opened(url) as place, place.create_ledger(HEADER) as ledger, copied(url) as copy:
        assert isinstance(copy, WorkingCopy)
        path = events_file(copy.folder / "ledger")
        before = path.read_bytes()
        inode = path.stat().st_ino
        ledger.append(note("new"))
        copy.refresh()
        assert path.read_bytes().startswith(before)
        assert b'"new"' in path.read_bytes()
        assert path.stat().st_ino == inode, "added at its end: a reader in the middle of it goes on"
        assert path.read_bytes() == events_file(place.folder / "ledger").read_bytes()


def test_who_only_reads_writes_nothing(url: str, store: Store) -> None:
    """Credentials that may read are enough to watch a study."""
    with opened(url) as place, place.create_ledger(HEADER) as ledger:
        ledger.append(note("x"))
    before = writes(store)
    with copied(url) as copy:
        assert isinstance(copy, WorkingCopy)
        copy.refresh()
        assert verify(copy.folder, copy.storage).running == ""
        assert read_ledger(copy.folder / "ledger").notes
    assert writes(store) == before
    assert before["PUT"] > 0


def test_a_second_writer_is_refused_until_the_first_is_gone(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(url) as place, opened(url) as other:
        with (
            place.create_ledger(HEADER),
            pytest.raises(StorageError, match="another process is writing this study"),
        ):
            other.open_ledger()
        other.open_ledger().close()


@pytest.mark.parametrize("again", range(5))
def test_of_many_who_claim_at_once_at_most_one_gets_it(url: str, again: int) -> None:
    storage = storage_at(url)
    won: list[RemoteLease] = []
    refused: list[str] = []

    def claim() -> None:
        try:
            won.append(RemoteLease.take(storage_at(url)))
        except StorageError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=claim) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) <= 1
    assert len(won) + len(refused) == 6, refused
    for lease in won:
        lease.release()
    last = RemoteLease.take(storage)  # nobody is left, whatever happened
    last.release()


def _silenced(monkeypatch: pytest.MonkeyPatch, url: str) -> tuple[StudyFiles, Ledger]:
    """A writer whose claim has become old without its knowledge: cut off, and taken for dead."""
    place = opened(url).__enter__()
    ledger = place.create_ledger(HEADER)
    assert place._writer is not None
    place._writer.lease._stop.set()
    monkeypatch.setattr(remote_lease, "EXPIRY_S", 0.0)
    monkeypatch.setattr(remote_lease, "_died_here", lambda *_: True)
    return place, ledger


def test_what_a_writer_still_writes_after_it_was_replaced_does_not_count(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, stale = _silenced(monkeypatch, url)
    monkeypatch.setattr(
        remote_lease.RemoteLease, "check", lambda self: None
    )  # it never hears that it was replaced
    stale.append(note("before"))
    with opened(url) as place:
        ledger = place.open_ledger()
        ledger.append(note("mine"))
        stale.append(note("stale, under the number of mine"))
        stale.append(note("stale, and beyond"))
        ledger.append(note("mine again"))
        assert notes_at(url) == ["before", "mine", "mine again"]
        ledger.close()
    with opened(url) as place, place.open_ledger() as ledger:
        assert ledger.record.notes[:3] == [
            "before",
            "mine",
            "mine again",
        ]
        assert (
            "2 event(s) of a process that had lost the study do not count"
            in ledger.found_at_opening[0]
        )


def test_a_replaced_writer_stops(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_lease, "BEAT_S", 0.05)
    first = RemoteLease.take(storage_at(url))
    monkeypatch.setattr(remote_lease, "_died_here", lambda *_: True)
    second = RemoteLease.take(storage_at(url))
    assert second.fence == first.fence + 1
    first._beat.join(timeout=20)  # its next heartbeat sees the other claim
    with pytest.raises(StorageError, match="has lost the study"):
        first.check()
    second.check()
    second.release()


def test_a_writer_that_cannot_reach_its_storage_for_too_long_stops(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = RemoteLease.take(storage_at(url))
    lease.check()
    lease._heard -= remote_lease.EXPIRY_S + 1
    with pytest.raises(StorageError, match="could not be reached for 60 s"):
        lease.check()
    lease.release()


def test_an_event_that_may_be_there_or_not_is_the_last(tmp_path: Path) -> None:
    """A failed write is not acknowledged, and nothing is written after it under the same
    numbers."""
    lost = _Lossy(tmp_path / "store")
    writer = RemoteWriter(lost, tmp_path)
    with Ledger.create(tmp_path / "copy" / "ledger", HEADER, writer) as ledger:
        ledger.append(note("kept"))
        lost.failing = True
        with pytest.raises(StorageError, match="injected"):
            ledger.append(note("doubtful"))
        lost.failing = False
        with pytest.raises(StorageError, match="an earlier event could not be written"):
            ledger.append(note("after"))
        assert ledger.record.notes == ["kept"]
        assert read_ledger(tmp_path / "copy" / "ledger").notes == ["kept"]
    copy = WorkingCopy(lost, tmp_path / "again")
    copy.folder.mkdir()
    copy.refresh()
    assert read_ledger(copy.folder / "ledger").notes == [
        "kept",
        "doubtful",
    ]


class _Lossy(FolderStorage):
    """Carries out what it says it could not."""

    failing = False

    def write(self, name: str, content: bytes) -> None:
        super().write(name, content)
        if self.failing:
            raise OSError("injected")


def test_a_lost_object_is_found_and_repaired(url: str, store: Store) -> None:
    storage: Storage = storage_at(url)
    with opened(url) as place, place.create_ledger(HEADER) as ledger:
        ledger.append(SessionBegan(total=0))
        for number in range(5):
            ledger.append(note(number))
    [lost] = [file.name for file in storage.files(segments.SEGMENTS) if "-0000000003-" in file.name]
    storage.remove(lost)
    with fetched(url) as folder:
        problems = verify(folder, storage).problems
    assert any("events 3 are missing" in problem for problem in problems), problems
    with pytest.raises(StorageError, match="events 3 to 3 are missing"), opened(url) as place:
        place.open_ledger()
    with opened(url) as place:
        done = repair_remote(place)
    assert any("3" in sentence for sentence in done), done
    with fetched(url) as folder:
        assert verify(folder, storage).problems == []
        assert read_ledger(folder / "ledger").notes[:4] == [
            "0",
            "2",
            "3",
            "4",
        ]
    with opened(url) as place, place.open_ledger() as ledger:
        ledger.append(note("goes on"))
    assert notes_at(url)[-1] == "goes on"


def test_the_end_of_a_ledger_that_is_lost_is_noticed(url: str) -> None:
    """Objects are not cut; but somebody may delete the last one. The claim says how far the ledger
    had been."""
    storage = storage_at(url)
    with opened(url) as place, place.create_ledger(HEADER) as ledger:
        for number in range(3):
            ledger.append(note(number))
    last = storage.files(segments.SEGMENTS)[-1].name
    storage.remove(last)
    with opened(url) as place, place.open_ledger() as ledger:
        assert "events 3 to 3 had been acknowledged and are gone" in ledger.found_at_opening[0]


def test_claims_that_are_lost_do_not_lower_the_token(url: str) -> None:
    storage = storage_at(url)
    begin(url, HEADER)
    for _ in range(2):
        with opened(url) as place:
            place.open_ledger().append(note("x"))
            assert place._writer is not None
            place._writer.lease.release()
    assert json.loads(storage.read(storage.files(remote_lease.CLAIMS)[-1].name))["token"] == 3
    for claim in storage.files(remote_lease.CLAIMS):
        storage.remove(claim.name)
    with opened(url) as place, place.open_ledger() as ledger:
        assert ledger.fence == 4

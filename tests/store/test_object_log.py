"""The log of a study in an object store: one event per number whoever writes, and none that was
acknowledged is ever left out."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ledgers import names_at, notes_at
from object_store import Store
from obstore.store import MemoryStore

from ray_unlearn.environment import Environment
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store import lease as leases
from ray_unlearn.store import object_events
from ray_unlearn.store.event import EventLost, Header, LedgerOpened, Note, SessionBegan
from ray_unlearn.store.event_line import encoded
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.location import copied, fetched, opened
from ray_unlearn.store.object_events import (
    HEADER_COPY,
    complete_runs,
    event_object,
    joined_object,
    read_events,
    replaced_object,
)
from ray_unlearn.store.object_log import ObjectLog
from ray_unlearn.store.object_storage import ObjectStorage
from ray_unlearn.store.repair import repair_remote, repaired
from ray_unlearn.store.scan import events_file, scanned
from ray_unlearn.store.storage import storage_at
from ray_unlearn.store.verify import verify
from ray_unlearn.store.working_copy import WorkingCopy

HEADER = Header(spec={"name": "tiny"}, domain="x")
LEASE = "ledger/lease.json"


def note(text: object) -> Note:
    return Note(text=str(text))


class Host(Environment):
    """A machine of its own, on which nobody else's processes are seen."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def host(self) -> str:
        return self._name


class Memory(ObjectStorage):
    """An address in the memory of this process."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__("s3://memory/study", store=store)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Nobody waits long for a lease there."""
    monkeypatch.setattr("ray_unlearn.store.object_log.PATIENCE_S", 0.05)
    return Memory(MemoryStore())


def ledger_at(storage: ObjectStorage, folder: Path, host: str = "a") -> Ledger:
    """The ledger in the hands of a process."""
    here = Host(host)
    return Ledger.continued(ObjectLog.opened(storage, folder / "ledger", here), here)


def begun_at(storage: ObjectStorage, folder: Path, host: str = "a") -> Ledger:
    here = Host(host)
    return Ledger.begun(ObjectLog.begun(storage, folder / "ledger", here), HEADER, here)


def stored_notes(storage: ObjectStorage, folder: Path) -> list[str]:
    """What any reader finds, in a working copy of its own."""
    copy = WorkingCopy(storage, folder)
    copy.folder.mkdir(parents=True)
    copy.refresh()
    return read_ledger(copy.folder / "ledger").notes


def writes(store: Store) -> dict[str, int]:
    """Requests that change something, by kind."""
    asked = store.faults()
    return {name: asked[name] for name in ("PUT", "POST", "DELETE") if name in asked}


def test_an_event_is_in_the_store_when_append_returns_and_the_study_goes_on(
    url: str, store: Store
) -> None:
    with opened(url) as place:
        assert not place.occupied()
        with place.create_ledger(HEADER) as ledger:
            for number in range(5):
                ledger.append(note(number))
                assert any(f"{number + 2:010d}" in name for name in store.names())
    with opened(url) as place, place.open_ledger() as ledger:
        assert ledger.found_at_opening == []
        assert ledger.fence == 2
        ledger.append(note("more"))
    assert notes_at(url) == ["0", "1", "2", "3", "4", "more"]
    numbers = [int(Path(name).stem) for name in names_at(url, object_events.EVENTS)]
    assert numbers == list(range(9)), "header, opened, five notes, opened, a note"
    with pytest.raises(StorageError, match="no study there"), opened(url + "x") as place:
        place.open_ledger()


def test_a_second_run_of_the_same_study_file_is_refused(memory: Memory, tmp_path: Path) -> None:
    """Their headers are equal, byte for byte: only one of them may take the study for its own."""
    one = ObjectLog.begun(memory, tmp_path / "1" / "ledger", Host("a"))
    other = ObjectLog.begun(memory, tmp_path / "2" / "ledger", Host("b"))
    with Ledger.begun(one, HEADER, Host("a")) as ledger:
        with pytest.raises(StorageError, match="another process has begun a study here"):
            Ledger.begun(other, HEADER, Host("b"))
        ledger.append(note("of the first"))
    assert stored_notes(memory, tmp_path / "3") == ["of the first"]


def test_a_former_writer_is_acknowledged_nothing_and_what_it_was_is_there(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood still, was taken for dead, and never hears that it was replaced."""
    former = begun_at(memory, tmp_path / "1", "a")
    former.append(note("before"))
    monkeypatch.setattr(leases, "EXPIRY_S", 0.0)
    later = ledger_at(memory, tmp_path / "2", "b")
    assert later.record.notes == ["before"]
    with pytest.raises(StorageError, match="has lost the study"):
        former.append(note("too late"))
    assert not former.held
    later.append(note("mine"))
    former.close()
    with pytest.raises(StorageError, match="has lost the study"):
        former.append(note("again"))
    later.append(note("mine again"))
    assert stored_notes(memory, tmp_path / "3") == ["before", "mine", "mine again"]
    assert json.loads(memory.read(LEASE))["host"] == "b", "the former one did not give it back"


@pytest.mark.parametrize("again", range(3))
def test_of_many_that_open_at_once_one_can_go_on(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: int
) -> None:
    """The lease is of no help: all take the last holder for dead."""
    begun_at(memory, tmp_path / "first").close()
    monkeypatch.setattr(leases, "EXPIRY_S", -1.0)
    acknowledged: list[str] = []

    def work(number: int) -> None:
        try:
            with ledger_at(memory, tmp_path / str(number), f"host{number}") as ledger:
                for event in range(4):
                    ledger.append(note(f"{number}.{event}"))
                    acknowledged.append(f"{number}.{event}")
        except StorageError:
            pass

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    there = stored_notes(memory, tmp_path / "reader")
    assert set(acknowledged) <= set(there)
    assert len(there) == len(set(there))
    numbers = [number for number, _ in read_events(memory)]
    assert numbers == list(range(len(numbers))), "dense"
    fences = [entry.fence for entry in scanned(tmp_path / "reader" / "ledger").entries]
    assert fences == sorted(fences)


def test_a_second_writer_is_refused_until_the_first_is_gone(url: str) -> None:
    with opened(url) as place, opened(url) as other:
        with (
            place.create_ledger(HEADER),
            pytest.raises(StorageError, match="another process is writing this study"),
        ):
            other.open_ledger()
        other.open_ledger().close()


def test_a_writer_hears_between_two_events_that_it_was_replaced(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes compute for minutes between two events, and for nothing once the study is lost."""
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.02)
    former = begun_at(memory, tmp_path / "1", "a")
    time.sleep(0.1)
    assert former.held
    monkeypatch.setattr(leases, "EXPIRY_S", 0.0)
    with ledger_at(memory, tmp_path / "2", "b"):
        deadline = time.monotonic() + 20
        while former.held and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not former.held
    former.close()


class Lossy(Memory):
    """Carries out what it says it could not."""

    failing = False

    def create(self, name: str, content: bytes) -> bool:
        made = super().create(name, content)
        if self.failing:
            raise OSError("injected")
        return made


def test_an_event_that_may_be_there_or_not_is_the_last(tmp_path: Path) -> None:
    """It is not acknowledged, and nothing is written after it."""
    storage = Lossy(MemoryStore())
    with begun_at(storage, tmp_path / "1") as ledger:
        ledger.append(note("kept"))
        storage.failing = True
        with pytest.raises(StorageError, match="injected"):
            ledger.append(note("doubtful"))
        storage.failing = False
        with pytest.raises(StorageError, match="an earlier event could not be written"):
            ledger.append(note("after"))
        assert ledger.record.notes == ["kept"]
    with ledger_at(storage, tmp_path / "2") as ledger:
        assert ledger.record.notes == ["kept", "doubtful"]


def test_an_answer_that_was_lost_is_no_other_process(memory: Memory, tmp_path: Path) -> None:
    """The request is made again, and finds its own object."""
    with begun_at(memory, tmp_path / "1") as ledger:
        seq = ledger._log.next_seq
        line = encoded(note("x"), seq, ledger.fence)
        memory.write(event_object(seq), line)
        ledger._log.append(seq, line)
        ledger.append(note("y"))


def test_a_request_that_arrives_late_is_the_next_event_or_none(
    memory: Memory, tmp_path: Path
) -> None:
    with begun_at(memory, tmp_path / "1") as ledger:
        ledger.append(note("acknowledged"))
        late, fence = ledger._log.next_seq, ledger.fence
    memory.create(event_object(late), encoded(note("late"), late, fence))
    with ledger_at(memory, tmp_path / "2", "b") as ledger:
        assert ledger.record.notes == ["acknowledged", "late"]
        assert not memory.create(event_object(late + 1), encoded(note("x"), late + 1, fence))
        ledger.append(note("on"))
    assert stored_notes(memory, tmp_path / "3") == ["acknowledged", "late", "on"]


def test_who_opens_reads_on_when_an_event_came_in_between(memory: Memory, tmp_path: Path) -> None:
    former = begun_at(memory, tmp_path / "1")
    former.append(note("1"))
    former.close()
    log = ObjectLog.opened(memory, tmp_path / "2" / "ledger", Host("b"))
    number = log.next_seq
    memory.create(event_object(number), encoded(note("2"), number, 1))
    with Ledger.continued(log, Host("b")) as ledger:
        assert ledger.record.notes == ["1", "2"]
        ledger.append(note("3"))
    assert stored_notes(memory, tmp_path / "3") == ["1", "2", "3"]


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


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("object_events", "object_log"):
        monkeypatch.setattr(f"ray_unlearn.store.{module}.RUNS", (8, 2))


def test_runs_begin_at_multiples_of_their_length(short_runs: None) -> None:
    assert list(complete_runs(0, 5)) == [range(2), range(2, 4)]
    assert list(complete_runs(3, 17)) == [
        range(8, 16),
        *(range(n, n + 2) for n in (4, 6, 8, 10, 12, 14)),
    ]


def joined_study(storage: ObjectStorage, folder: Path, notes: int) -> None:
    with begun_at(storage, folder) as ledger:
        for number in range(notes):
            ledger.append(note(number))
        log = ledger._log
        assert isinstance(log, ObjectLog)
        log.join()


def test_joined_events_are_read_as_single_ones_are(
    memory: Memory, tmp_path: Path, short_runs: None
) -> None:
    joined_study(memory, tmp_path / "1", 19)
    singles = [memory.read(event_object(n)) for n in range(21)]
    names = {file.name for file in memory.files(object_events.JOINED)}
    assert {joined_object(range(8)), joined_object(range(8, 16)), joined_object(range(18, 20))} <= (
        names
    )
    for first in (0, 1, 2, 8, 15, 20, 21):
        assert read_events(memory, first) == list(enumerate(singles))[first:]
    read: list[str] = []

    class Watched(Memory):
        def read(self, name: str) -> bytes:
            read.append(name)
            return super().read(name)

    assert read_events(Watched(memory._given)) == list(enumerate(singles))
    assert len(read) == 5, "two of eight, two of two, and one event"


@pytest.mark.parametrize("how", ["torn", "flipped", "another", "empty", "gone"])
def test_a_joined_object_that_is_wrong_costs_nothing(
    memory: Memory, tmp_path: Path, short_runs: None, how: str
) -> None:
    joined_study(memory, tmp_path / "1", 19)
    whole = read_events(memory)
    name = joined_object(range(8, 16))
    content = memory.read(name)
    if how == "gone":
        memory.remove(name)
    else:
        flipped = content[:100] + bytes([content[100] ^ 1]) + content[101:]
        other = memory.read(joined_object(range(8)))
        memory.write(
            name, {"torn": content[:-9], "flipped": flipped, "another": other, "empty": b""}[how]
        )
    assert read_events(memory) == whole


def damaged(line: bytes) -> bytes:
    return line[:60] + bytes([line[60] ^ 4]) + line[61:]


@pytest.mark.parametrize("how", ["gone", "flipped", "two lines", "empty"])
@pytest.mark.parametrize("number", [3, 6])
def test_a_lost_object_is_found_and_repaired(
    memory: Memory, tmp_path: Path, how: str, number: int
) -> None:
    """Also the last one; and whoever holds the study meanwhile keeps it."""
    with begun_at(memory, tmp_path / "1") as ledger:
        ledger.append(SessionBegan(total=0))
        for text in range(4):
            ledger.append(note(text))
    name = event_object(number)
    line = memory.read(name)
    match how:
        case "gone":
            memory.remove(name)
        case "flipped":
            memory.write(name, damaged(line))
        case "two lines":
            memory.write(name, damaged(line) + line)
        case "empty":
            memory.write(name, b"")
    if (how, number) == ("gone", 6):
        with ledger_at(memory, tmp_path / "2") as ledger:
            assert "events 6 to 6 had been acknowledged and are gone" in ledger.found_at_opening[0]
        return
    with pytest.raises(StorageError, match=r"verify .*--repair"):
        ledger_at(memory, tmp_path / "2")
    assert event_object(7) not in {file.name for file in memory.files()}, "no session of its own"
    done = repaired(ObjectLog.opened(memory, tmp_path / "3" / "ledger", Host("b")), Host("b"))
    assert any(f"these events are lost: {number}" in sentence for sentence in done), done
    expected = [str(n) for n in range(4) if n != number - 3]
    assert stored_notes(memory, tmp_path / "4")[: len(expected)] == expected
    assert [n for n, _ in read_events(memory)] == list(range(len(memory.files("ledger/log"))))
    if how != "gone":
        assert memory.read(replaced_object(number)) != line
    with ledger_at(memory, tmp_path / "5", "b") as ledger:
        assert ledger.found_at_opening == []
        ledger.append(note("on"))
    assert repaired(ObjectLog.opened(memory, tmp_path / "6" / "ledger")) == []


def test_a_repair_that_is_killed_lets_nobody_go_on_and_is_done_again(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the lost event has its place again, nobody could run its trials again."""
    with begun_at(memory, tmp_path / "1") as ledger:
        for text in range(4):
            ledger.append(note(text))
    memory.remove(event_object(3))

    def killed(*what: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ObjectLog, "_stored", killed)
        with pytest.raises(KeyboardInterrupt):
            repaired(ObjectLog.opened(memory, tmp_path / "2" / "ledger"))
    with pytest.raises(StorageError, match="events 3 to 3 are missing"):
        ledger_at(memory, tmp_path / "3")
    assert repaired(ObjectLog.opened(memory, tmp_path / "4" / "ledger"))
    ledger_at(memory, tmp_path / "5").close()


def test_a_copy_of_a_replaced_event_is_not_read_any_more(
    memory: Memory, tmp_path: Path, short_runs: None
) -> None:
    """A writer that was cut off may still make one, minutes after the repair."""
    joined_study(memory, tmp_path / "1", 9)
    whole = dict(read_events(memory))
    for run in (range(8), range(2, 4)):
        memory.write(joined_object(run), b"damaged")
    memory.write(event_object(3), damaged(whole[3]))
    repaired(ObjectLog.opened(memory, tmp_path / "2" / "ledger"))
    memory.write(joined_object(range(2, 4)), whole[2] + whole[3])
    lines = dict(read_events(memory))
    assert lines[2] == whole[2]
    assert b'"kind": "lost"' in lines[3]
    kinds = [type(entry.event) for entry in scanned(tmp_path / "2" / "ledger").entries]
    assert kinds[3] is EventLost
    assert kinds.count(LedgerOpened) == 2


def test_a_watching_copy_recovers_from_damage_that_is_repaired(
    memory: Memory, tmp_path: Path
) -> None:
    with begun_at(memory, tmp_path / "1") as ledger:
        for text in range(4):
            ledger.append(note(text))
    memory.write(event_object(3), damaged(memory.read(event_object(3))))
    copy = WorkingCopy(memory, tmp_path / "copy")
    copy.folder.mkdir()
    copy.refresh()
    with pytest.raises(StorageError, match="is damaged"):
        read_ledger(copy.folder / "ledger")
    repaired(ObjectLog.opened(memory, tmp_path / "2" / "ledger"))
    copy.refresh()
    assert read_ledger(copy.folder / "ledger").notes[:3] == ["0", "2", "3"]


def test_the_header_comes_back_from_its_copy(url: str) -> None:
    with opened(url) as place, place.create_ledger(HEADER) as ledger:
        ledger.append(note("x"))
    storage = storage_at(url)
    header = storage.read(event_object(0))
    storage.write(event_object(0), damaged(header))
    with opened(url) as place, pytest.raises(StorageError, match="the header line is damaged"):
        place.open_ledger()
    with opened(url) as place:
        assert any("taken from its copy" in text for text in repair_remote(place))
    assert storage.read(event_object(0)) == header
    assert notes_at(url)[0] == "x"
    with fetched(url) as folder:
        assert verify(folder, storage).problems == []


def test_a_lease_that_is_lost_lowers_no_fence(memory: Memory, tmp_path: Path) -> None:
    begun_at(memory, tmp_path / "1").close()
    ledger_at(memory, tmp_path / "2").close()
    memory.remove(LEASE)
    with ledger_at(memory, tmp_path / "3") as ledger:
        assert ledger.fence == 3


def test_a_reader_that_has_read_a_copy_reads_anew_after_a_repair(
    memory: Memory, tmp_path: Path, short_runs: None
) -> None:
    """It would have the old event and what runs again for its loss: a row twice."""
    joined_study(memory, tmp_path / "1", 9)
    copy = WorkingCopy(memory, tmp_path / "copy")
    copy.folder.mkdir()
    copy.refresh()
    assert read_ledger(copy.folder / "ledger").notes[1] == "1"
    whole = dict(read_events(memory))
    for run in (range(8), range(2, 4)):
        memory.remove(joined_object(run))
    memory.write(event_object(3), damaged(whole[3]))
    repaired(ObjectLog.opened(memory, tmp_path / "2" / "ledger"))
    copy.refresh()
    assert "1" not in read_ledger(copy.folder / "ledger").notes
    there = events_file(copy.folder / "ledger").read_bytes()
    assert there == b"".join(line for _, line in read_events(memory))


def test_who_loses_the_race_to_a_repair_reads_what_it_has_replaced(
    memory: Memory, tmp_path: Path, short_runs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had read the event whole, before it was damaged."""
    monkeypatch.setattr(leases, "EXPIRY_S", -1.0)
    with begun_at(memory, tmp_path / "1") as ledger:
        for number in range(5):
            ledger.append(note(number))
    slow = ObjectLog.opened(memory, tmp_path / "2" / "ledger", Host("slow"))
    memory.write(event_object(3), damaged(memory.read(event_object(3))))
    repaired(ObjectLog.opened(memory, tmp_path / "3" / "ledger", Host("b")), Host("b"))
    with Ledger.continued(slow, Host("slow")) as ledger:
        assert "1" not in ledger.record.notes


def test_a_repair_marks_what_it_replaces_before_it_says_so(memory: Memory, tmp_path: Path) -> None:
    """A copy that a former writer still makes could make the damage unseen in between."""
    with begun_at(memory, tmp_path / "1") as ledger:
        for number in range(5):
            ledger.append(note(number))
    memory.write(event_object(3), damaged(memory.read(event_object(3))))
    changed: list[str] = []

    class Seen:
        def __getattr__(self, what: str) -> Any:
            def ask(name: str, *rest: Any, **more: Any) -> Any:
                if what == "put":
                    changed.append(name)
                return getattr(memory._given, what)(name, *rest, **more)

            return ask

    storage = ObjectStorage("s3://memory/study", store=Seen())
    repaired(ObjectLog.opened(storage, tmp_path / "2" / "ledger"))
    events = [name for name in changed if "lease" not in name]
    news = [event_object(number) for number in range(8, len(memory.files("ledger/log")))]
    expected = [HEADER_COPY, event_object(7), replaced_object(3), *news, event_object(3)]
    assert len(news) > 1
    assert events == expected, "its own event, the marks, the news, and last what it replaces"


def test_a_smaller_copy_stands_in_for_a_larger_one_that_cannot_be_used(
    memory: Memory, tmp_path: Path, short_runs: None
) -> None:
    """An event that is whole in one copy alone is not lost, also after a repair beside it."""
    joined_study(memory, tmp_path / "1", 9)
    whole = dict(read_events(memory))
    memory.write(event_object(5), damaged(whole[5]))
    memory.write(joined_object(range(8)), b"damaged")
    assert dict(read_events(memory)) == whole
    memory.write(event_object(3), damaged(whole[3]))
    memory.write(joined_object(range(2, 4)), b"damaged")
    assert repaired(ObjectLog.opened(memory, tmp_path / "2" / "ledger"))
    memory.write(joined_object(range(8)), b"".join(whole[number] for number in range(8)))
    lines = dict(read_events(memory))
    assert lines[5] == whole[5]
    assert b'"kind": "lost"' in lines[3]
    ledger_at(memory, tmp_path / "3").close()


def test_a_name_far_off_costs_no_memory_and_is_refused_in_words(
    memory: Memory, tmp_path: Path
) -> None:
    """Somebody has put an object there, or a listing is forged."""
    begun_at(memory, tmp_path / "1").close()
    memory.write(event_object(9_999_999_999), b"x")
    assert len(read_events(memory)) == 3
    with pytest.raises(StorageError, match=r"verify .*--repair"):
        ledger_at(memory, tmp_path / "2")
    with pytest.raises(StorageError, match="events and more are missing"):
        repaired(ObjectLog.opened(memory, tmp_path / "3" / "ledger"))


def test_a_lease_that_a_dead_process_wrote_late_ousts_no_holder(
    memory: Memory, tmp_path: Path
) -> None:
    """The request was on its way for minutes. The holder writes its own again soon."""
    begun_at(memory, tmp_path / "1", "a").close()
    late = memory.read(LEASE)
    with ledger_at(memory, tmp_path / "2", "b") as holder:
        mine = memory.read(LEASE)
        memory.write(LEASE, late)

        class Waits(Host):
            def sleep(self, seconds: float) -> None:
                memory.write(LEASE, mine)

        there = Waits("c")
        with pytest.raises(StorageError, match=r"another host is writing this study.*host b"):
            Ledger.continued(ObjectLog.opened(memory, tmp_path / "3" / "ledger", there), there)
        holder.append(note("undisturbed"))


def test_who_loses_the_race_to_a_holder_that_is_well_is_refused(
    memory: Memory, tmp_path: Path
) -> None:
    """Not: takes the study from it at once."""
    begun_at(memory, tmp_path / "1").close()
    log = ObjectLog.opened(memory, tmp_path / "2" / "ledger", Host("slow"))
    with (
        ledger_at(memory, tmp_path / "3", "b") as quick,
        pytest.raises(StorageError, match="another host is writing this study"),
    ):
        Ledger.continued(log, Host("slow"))
    assert quick.record.notes == []

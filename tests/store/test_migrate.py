"""Studies of older versions in an object store: nothing of them is lost when they are migrated."""

from pathlib import Path

import pytest
from ledgers import (
    finished,
    lines_of,
    names_at,
    notes_at,
    outcome_event,
    row_event,
    spec,
    start,
    trial_event,
)

import ray_unlearn as ru
from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.store.event import Event, Header, Note
from ray_unlearn.store.event_line import encoded
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.location import fetched, opened
from ray_unlearn.store.migrate import migrate
from ray_unlearn.store.object_events import event_object, read_events
from ray_unlearn.store.storage import Storage, storage_at
from ray_unlearn.store.verify import verify

FIRST = Header(spec=spec().model_dump(mode="json"), domain="first", context="c")
SECOND = Header(spec=spec().model_dump(mode="json"), domain="second", context="c")
TRIAL = [trial_event(0), *(row_event(0, update) for update in (1, 2, 4)), outcome_event(0)]


def segment(fence: int, first: int, last: int, base: str = "") -> str:
    return f"ledger/segments/{fence:08d}-{first:010d}-{last:010d}{base}.jsonl"


def put_segments(storage: Storage, lines: list[bytes], joined: int) -> None:
    """As version 0.1 left a study: some events joined, the others single."""
    storage.write("ledger/header.json", lines[0])
    storage.write(segment(1, 0, joined - 1), b"".join(lines[:joined]))
    for number, line in enumerate(lines[joined:], start=joined):
        storage.write(segment(1, number, number), line)
    storage.write(segment(1, 1, 1), lines[1])  # joined, and not deleted yet
    holder = b'{"token": 1, "host": "gone", "pid": 1, "started": 1.0, "released": true}'
    storage.write("ledger/lease/00000001-abcdef.json", holder)


@pytest.fixture
def old(url: str, tmp_path: Path) -> tuple[str, list[bytes]]:
    """A study of the older form, and its lines."""
    study = finished(tmp_path / "made")
    storage, lines = storage_at(url), lines_of(study)
    put_segments(storage, lines, 5)
    best = "trials/best/0002-4.safetensors"
    storage.put(study / best, best)
    return url, lines


def test_an_older_study_is_refused_with_the_command_that_migrates_it(
    old: tuple[str, list[bytes]],
) -> None:
    url, _ = old
    for ask in (lambda: ru.open(url).best, lambda: notes_at(url)):
        with pytest.raises(StorageError, match=f"ray-unlearn migrate {url}"):
            ask()
    with opened(url) as place:
        assert place.occupied()
        with pytest.raises(StorageError, match="ray-unlearn migrate"):
            place.open_ledger()
        with pytest.raises(StorageError, match="ray-unlearn migrate"):
            place.create_ledger(FIRST)


def test_a_migrated_study_has_every_event_and_goes_on(old: tuple[str, list[bytes]]) -> None:
    url, lines = old
    assert ru.open(url).migrate() == [f"{len(lines)} events are objects of their own now"]
    assert [line for _, line in read_events(storage_at(url))] == lines
    assert not [*names_at(url, "ledger/segments"), *names_at(url, "ledger/lease/")]
    with fetched(url) as folder:
        assert verify(folder, storage_at(url)).problems == []
    with opened(url) as place, place.open_ledger() as ledger:
        ledger.append(Note("on"))
    assert migrate(storage_at(url)) == ["it has the form of this version already"]
    assert notes_at(url) == ["on"]


def test_a_migration_that_was_killed_is_done_again(
    old: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, lines = old
    storage = storage_at(url)

    def killed(name: str, content: bytes) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "create", killed)
    with pytest.raises(KeyboardInterrupt):
        migrate(storage)
    assert event_object(0) not in names_at(url, "ledger")
    with pytest.raises(StorageError, match="ray-unlearn migrate"):
        notes_at(url)
    migrate(storage_at(url))
    assert [line for _, line in read_events(storage_at(url))] == lines


def test_a_study_that_runs_is_not_migrated(old: tuple[str, list[bytes]]) -> None:
    url, _ = old
    holder = b'{"token": 1, "host": "elsewhere", "pid": 1, "started": 1.0, "released": false}'
    storage_at(url).write("ledger/lease/00000001-abcdef.json", holder)
    with pytest.raises(StorageError, match="another host is writing this study"):
        migrate(storage_at(url))


def test_what_a_replaced_writer_wrote_and_what_a_repair_left_behind_stays_out(url: str) -> None:
    storage = storage_at(url)
    events: list[Event] = [FIRST, *start(1), *TRIAL]
    whole = b"".join(encoded(event, seq, 2) for seq, event in enumerate(events))
    storage.write(segment(1, 0, 3), b"before the repair\n")
    storage.write(segment(2, 0, len(events) - 1, ".base"), whole)
    late = encoded(Note("late"), len(events), 2)
    storage.write(segment(2, len(events), len(events)), late)
    mine = encoded(Note("mine"), len(events), 3)
    storage.write(segment(3, len(events), len(events)), mine)
    said = migrate(storage)
    assert any("of a process that had lost the study" in text for text in said), said
    with fetched(url) as folder:
        notes = read_ledger(folder / "ledger").notes
        assert "mine" in notes
        assert "late" not in notes
        assert [p for p in verify(folder, storage_at(url)).problems if "I5" not in p] == []


@pytest.mark.parametrize(
    ("extra", "kept", "other"), [(5, "first", "second"), (0, "second", "first")]
)
def test_a_study_that_was_overwritten_comes_back(
    url: str, extra: int, kept: str, other: str
) -> None:
    """Older versions could begin a study over another one."""
    storage = storage_at(url)
    for fence, (header, events) in enumerate(
        [(FIRST, [*start(1), *TRIAL[:extra]]), (SECOND, [*start(1), Note("second")])], start=1
    ):
        for number, event in enumerate([header, *events]):
            storage.write(segment(fence, number, number), encoded(event, number, fence))
        storage.write("ledger/header.json", encoded(header, 0, fence))
    storage.write("study.yaml", b"of the second")
    said = migrate(storage)
    assert any("other-study-1.jsonl" in text for text in said), said
    with fetched(url) as folder:
        record = read_ledger(folder / "ledger")
        assert record.header.domain == kept
        assert len(record.trials) == (1 if extra else 0)
        assert [p for p in verify(folder, storage).problems if "I4" not in p] == []
        assert not (folder / "study.yaml").exists(), "the next `resume` writes it"
    [aside] = names_at(url, "ledger/other-study-")
    assert f'"domain": "{other}"'.encode() in storage.read(aside)


def test_a_study_in_a_folder_needs_no_migration(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to migrate"):
        ru.open(finished(tmp_path / "s")).migrate()

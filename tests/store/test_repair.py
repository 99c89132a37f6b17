"""A ledger never loses a row silently, whatever happens to its bytes; repair saves what can be
trusted, and only that."""

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledgers import (
    copied,
    finished,
    interleaved,
    lines_of,
    outcome_event,
    resealed,
    row_event,
    rows_of,
    start,
    told,
    whole_trial,
    written,
)

from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.store.event import Note
from ray_unlearn.store.event_line import encoded
from ray_unlearn.store.folder_log import FolderLog
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.repair import repair, repaired
from ray_unlearn.store.scan import events_file, header_file, restore_header_copy, scanned
from ray_unlearn.store.table import result_table, write_table
from ray_unlearn.store.verify import verify

EXAMPLES = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("whole") / "s", interleaved())


def content_of(study: Path) -> bytes:
    return events_file(study / "ledger").read_bytes()


def flipped(content: bytes, bit: int) -> bytes:
    byte = bytes([content[bit // 8] ^ 1 << bit % 8])
    return content[: bit // 8] + byte + content[bit // 8 + 1 :]


def line_with(study: Path, **keys: Any) -> int:
    """Index of the first line with these values."""
    events = [json.loads(line) for line in lines_of(study)]
    return next(i for i, event in enumerate(events) if keys.items() <= event.items())


def without(study: Path, *indices: int) -> bytes:
    return b"".join(line for i, line in enumerate(lines_of(study)) if i not in indices)


# --- what no damage can do: lose something silently


@EXAMPLES
@given(data=st.data())
def test_cut_at_any_byte_every_whole_line_counts_and_what_is_gone_is_named(
    study: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = content_of(study)
    size = data.draw(st.integers(0, len(content)))
    cut = copied(study, tmp_path / "cut", content[:size])
    whole = content[:size].count(b"\n")
    if whole == 0:
        with pytest.raises(StorageError, match="had been acknowledged and are gone"):
            Ledger.open(cut / "ledger")
        return
    reference = copied(study, tmp_path / "reference", b"".join(lines_of(study)[:whole]))
    expected = told(read_ledger(reference / "ledger"))
    with Ledger.open(cut / "ledger") as ledger:
        assert told(ledger.record) == expected
        texts = ledger.record.notes
    last = len(lines_of(study)) - 1
    if whole <= last:
        assert len(texts) == 1
        assert texts[0].startswith(f"events {whole} to {last} had been acknowledged and are gone")
    else:
        assert texts == []


@EXAMPLES
@given(data=st.data())
def test_a_flipped_bit_never_passes_for_data(
    study: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = content_of(study)
    bit = data.draw(
        st.integers(0, 8 * len(content) - 1)
        | st.integers(8 * len(content) - 8, 8 * len(content) - 1)
    )
    bad = copied(study, tmp_path / "bad", flipped(content, bit))
    number = content[: bit // 8].count(b"\n") + 1
    named = (
        "header line is damaged"
        if number == 1
        else f"line {number} .*is damaged|line {number} is damaged"
    )
    if bit // 8 < len(content) - 1:
        with pytest.raises(StorageError, match=named):
            read_ledger(bad / "ledger")
        return
    last = number - 1  # its line end is gone: a torn tail
    shorter = copied(study, tmp_path / "shorter", without(study, last))
    assert told(read_ledger(bad / "ledger")) == told(read_ledger(shorter / "ledger"))
    with Ledger.open(bad / "ledger") as ledger:
        assert (
            f"events {last} to {last} had been acknowledged and are gone" in ledger.record.notes[-1]
        )


def damages(content: bytes) -> st.SearchStrategy[bytes]:
    lines = content.splitlines(keepends=True)
    flips = st.integers(0, 8 * len(content) - 1).map(lambda bit: flipped(content, bit))
    deleted = st.sets(st.integers(0, len(lines) - 1), min_size=1, max_size=3).map(
        lambda gone: b"".join(line for i, line in enumerate(lines) if i not in gone)
    )
    return flips | deleted


@EXAMPLES
@given(data=st.data())
def test_after_repair_an_outcome_stands_only_with_all_its_rows(
    study: Path, tmp_path: Path, data: st.DataObject
) -> None:
    bad = copied(study, tmp_path / "bad", data.draw(damages(content_of(study))))
    before = read_ledger(study / "ledger")
    repair(bad)
    with Ledger.open(bad / "ledger") as ledger:
        after = ledger.record
    for trial in after.finished:
        assert trial.status == before.trials[trial.number].status
        assert rows_of(after, trial.number) == rows_of(before, trial.number)
    for number in after.trials:
        assert all(row in rows_of(before, number) for row in rows_of(after, number))
    assert not [p for p in verify(bad).problems if p.startswith(("I1", "I2"))]
    assert repair(bad) == []


# --- what repair does


def test_nothing_wrong_nothing_done(study: Path, tmp_path: Path) -> None:
    whole = copied(study, tmp_path / "s")
    before = content_of(whole)
    assert repair(whole) == []
    assert content_of(whole) == before
    with pytest.raises(UserError, match="no study there"):
        repair(tmp_path / "none")


def test_a_lost_row_of_a_complete_trial_lets_that_trial_run_again_and_no_other(
    study: Path, tmp_path: Path
) -> None:
    lost = line_with(study, kind="row", number=2, update=2)
    lines = lines_of(study)
    bad = copied(
        study, tmp_path / "s", b"".join([*lines[:lost], b"x" * 40 + b"\n", *lines[lost + 1 :]])
    )
    texts = repair(bad)
    assert any("trial 2 runs again" in text and "updates 2" in text for text in texts)
    record = read_ledger(bad / "ledger")
    assert {n: t.status for n, t in record.trials.items()} == {
        0: "complete",
        1: "pruned",
        2: None,
        3: None,
    }
    assert [row["update"] for row in record.trials[2].rows] == [1, 4]
    [kept] = (bad / "ledger").glob("damaged-*.jsonl")
    assert kept.read_bytes() == b"x" * 40 + b"\n"
    assert kept.name in " ".join(texts)


def test_a_pruned_trial_runs_again_when_what_is_lost_may_be_its_own(
    study: Path, tmp_path: Path
) -> None:
    during = line_with(
        study, kind="row", number=0, update=2
    )  # between begin and end of trial 1, but a row of trial 0
    bad = copied(study, tmp_path / "s", without(study, during))
    repair(bad)
    record = read_ledger(bad / "ledger")
    assert [record.trials[n].status for n in (0, 1, 2)] == [None, None, "complete"]
    later = line_with(study, kind="row", number=2, update=1)
    bad = copied(study, tmp_path / "t", without(study, later))
    repair(bad)
    record = read_ledger(bad / "ledger")
    assert [record.trials[n].status for n in (0, 1, 2)] == ["complete", "pruned", None]


def test_events_of_a_trial_whose_beginning_is_lost_do_not_count(
    study: Path, tmp_path: Path
) -> None:
    bad = copied(study, tmp_path / "s", without(study, line_with(study, kind="trial", number=2)))
    texts = repair(bad)
    assert any(
        "4 event(s) were withdrawn: of trial 2, whose beginning is lost" in text for text in texts
    )
    assert sorted(read_ledger(bad / "ledger").trials) == [0, 1, 3]
    for line in lines_of(study)[1:]:
        assert line in lines_of(bad) or b'"kind": "trial", "number": 2' in line, "nothing else goes"
    assert repair(bad) == [], "what is withdrawn is no damage"


@pytest.mark.parametrize("how", ["garbled", "deleted", "empty"])
def test_the_header_comes_back_from_its_copy(study: Path, tmp_path: Path, how: str) -> None:
    lines = lines_of(study)
    content = {
        "garbled": b"#" + content_of(study)[1:],
        "deleted": b"".join(lines[1:]),
        "empty": b"",
    }[how]
    bad = copied(study, tmp_path / "s", content)
    texts = repair(bad)
    assert any("header line" in text for text in texts)
    assert lines_of(bad)[0] == lines[0]
    if how == "empty":
        assert any(
            f"events 1 to {len(lines) - 1} had been acknowledged and are gone" in text
            for text in texts
        )
    else:
        assert told(read_ledger(bad / "ledger")) == told(read_ledger(study / "ledger")) | {
            "sessions": read_ledger(bad / "ledger").sessions
        }


def test_a_header_that_is_damaged_while_it_is_opened_does_not_cost_its_copy(
    study: Path, tmp_path: Path
) -> None:
    bad = copied(study, tmp_path / "s", b"#" + content_of(study)[1:])
    whole = header_file(bad / "ledger").read_bytes()
    restore_header_copy(bad / "ledger")
    assert header_file(bad / "ledger").read_bytes() == whole


def test_a_damaged_line_end_costs_its_own_line_and_not_the_next(
    study: Path, tmp_path: Path
) -> None:
    lines = lines_of(study)
    bad = copied(study, tmp_path / "s", b"".join([*lines[:3], lines[3][:-1] + b"?", *lines[4:]]))
    scan = scanned(bad / "ledger")
    assert [damaged.line for damaged in scan.damaged] == [4]
    assert [entry.seq for entry in scan.entries] == [n for n in range(len(lines)) if n != 3]
    assert scan.missing == [(3, 3)]


def test_a_torn_line_before_the_line_of_a_process_that_woke_up_needs_no_repair(
    study: Path, tmp_path: Path
) -> None:
    """The holder died inside a write, and a former one, on a file system without locks, then
    finished its own; both count for nothing."""
    lines = lines_of(study)
    late = encoded(Note("late"), len(lines), fence=0)
    bad = copied(study, tmp_path / "s", content_of(study) + lines[-1][:20] + late)
    assert told(read_ledger(bad / "ledger")) == told(read_ledger(study / "ledger"))
    with Ledger.open(bad / "ledger") as ledger:
        ledger.append(Note("on"))
    assert read_ledger(bad / "ledger").notes[-1] == "on"


def test_without_header_and_copy_it_says_so_and_changes_nothing(
    study: Path, tmp_path: Path
) -> None:
    bad = copied(study, tmp_path / "s", b"#" + content_of(study)[1:])
    header_file(bad / "ledger").unlink()
    with pytest.raises(StorageError, match="missing or damaged too"):
        repair(bad)
    assert content_of(bad) == b"#" + content_of(study)[1:]


def test_a_torn_tail_and_a_lost_end_are_named(study: Path, tmp_path: Path) -> None:
    bad = copied(study, tmp_path / "s", content_of(study)[:-10])
    [text] = repair(bad)
    last = len(lines_of(study)) - 1
    assert f"events {last} to {last} had been acknowledged" in text


def test_contradictions_do_not_count(tmp_path: Path) -> None:
    """A lost `reopened` line leaves an outcome before rows; a row or a beginning may stand
    twice."""
    bad = written(
        tmp_path / "s",
        [
            *whole_trial(0, "pruned"),
            row_event(0, 2),
            row_event(0, 2),
            row_event(0, 4),
            outcome_event(0),
            whole_trial(0)[0],
        ],
    )
    assert any(problem.startswith("I2") for problem in verify(bad).problems)
    assert len(repair(bad)) == 3
    assert verify(bad).problems == []
    [trial] = read_ledger(bad / "ledger").finished
    assert (trial.status, [row["update"] for row in trial.rows]) == ("complete", [1, 2, 4])


def test_it_refuses_while_the_study_runs(study: Path, tmp_path: Path) -> None:
    bad = copied(study, tmp_path / "s")
    with (
        Ledger.open(bad / "ledger"),
        pytest.raises(StorageError, match="another process is writing"),
    ):
        repair(bad)


def test_killed_before_the_new_file_is_in_place_nothing_has_changed(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = copied(study, tmp_path / "s", without(study, 5))
    before = content_of(bad)

    def killed(self: Path, target: Path) -> None:
        if self.name.startswith("events"):
            raise KeyboardInterrupt
        rename(self, target)

    rename = Path.replace
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        repair(bad)
    monkeypatch.undo()
    assert content_of(bad) == before
    assert repair(bad)
    assert not [p for p in verify(bad).problems if p.startswith(("I1", "I2"))]


def test_killed_right_after_the_new_file_is_in_place_the_repair_is_done(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = copied(
        study, tmp_path / "s", without(study, line_with(study, kind="row", number=0, update=2))
    )

    def killed(*what: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ray_unlearn.store.repair.Ledger.continued", killed)
    log = FolderLog(bad / "ledger")
    with pytest.raises(KeyboardInterrupt):
        repaired(log)
    monkeypatch.undo()
    log.close()  # the kernel does that
    with Ledger.open(bad / "ledger") as ledger:
        assert [ledger.record.trials[n].status for n in (0, 1, 2)] == [None, None, "complete"]


def test_a_table_that_is_wrong_is_written_anew(tmp_path: Path) -> None:
    whole = finished(tmp_path / "s")
    table = whole / "ledger" / "rows.parquet"
    write_table(result_table(read_ledger(whole / "ledger")).slice(1), table)
    assert [problem[:16] for problem in verify(whole).problems] == ["I1: rows.parquet"]
    assert any("rows.parquet" in text for text in repair(whole))
    assert verify(whole).problems == []


# --- the ledger itself


def test_a_study_of_schema_1_is_refused_in_words(study: Path, tmp_path: Path) -> None:
    old = copied(study, tmp_path / "s")
    first, *rest = lines_of(old)
    first = resealed(first.replace(b'"schema_version": 3', b'"schema_version": 1'))
    events_file(old / "ledger").write_bytes(b"".join([first, *rest]))
    with pytest.raises(StorageError, match="read it with the version that wrote it"):
        Ledger.open(old / "ledger")


def test_what_the_old_holder_wrote_after_the_new_one_had_read_does_not_count(
    tmp_path: Path,
) -> None:
    """Both gave the same number: the newer token wins, as it does when the old holder's line comes
    later."""
    study = written(tmp_path / "s", [*start(4), *whole_trial(0)[:-1]])
    with open(events_file(study / "ledger"), "ab") as file:
        file.write(encoded(outcome_event(0, "failed"), seq=7, fence=1))
        file.write(encoded(outcome_event(0), seq=7, fence=2))
    assert read_ledger(study / "ledger").trials[0].status == "complete"
    assert any("had lost the study" in problem for problem in verify(study).problems)
    repair(study)
    assert verify(study).problems == []


@pytest.fixture
def file_limit() -> Iterator[Any]:
    """The largest size of a file, as a full disk would set it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_that_did_not_fit_does_not_follow_later(
    study: Path, tmp_path: Path, file_limit: Any
) -> None:
    whole = copied(study, tmp_path / "s")
    before = content_of(whole)
    with Ledger.open(whole / "ledger") as ledger:
        file_limit(len(before) + 20)
        with pytest.raises(StorageError, match="free some space"):
            ledger.append(Note(text="does not fit"))
        assert content_of(whole) == before
        file_limit(resource.RLIM_INFINITY)
        ledger.append(Note(text="fits"))
    assert read_ledger(whole / "ledger").notes == ["fits"]

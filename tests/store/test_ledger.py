"""The ledger: durable, one writer, repaired when torn, readable with pandas alone."""

import errno
import json
import math
import zlib
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pytest

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.event import (
    BaselineMeasured,
    BestWeightsGone,
    BestWeightsKept,
    Event,
    Header,
    Note,
    RowMeasured,
    SessionBegan,
    StudyExtended,
    TrialAsked,
    TrialEnded,
    TrialReopened,
)
from ray_unlearn.store.event_line import decoded, encoded
from ray_unlearn.store.folder_log import FolderLog, LinesFile
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.scan import events_file, header_file

CONFIG = {"method": "gradient_ascent", "steps": 4, "learning_rate": 0.1}


def lines_file(ledger: Ledger) -> LinesFile:
    """The file that a ledger writes."""
    log = ledger._log
    assert isinstance(log, FolderLog)
    return log._lines


def filled(folder: Path) -> None:
    with Ledger.create(folder, Header(spec={"name": "x"})) as ledger:
        ledger.append(BaselineMeasured(name="vanilla", metrics={"forget_nll": 3.0}))
        ledger.append(TrialAsked(number=0, trial_id="a", config=CONFIG))
        for update in (2, 4):
            metrics = {"forget_nll": 3.0 + update, "forget_ppl": math.inf}
            ledger.append(
                RowMeasured(number=0, trial_id="a", attempt=0, update=update, metrics=metrics)
            )
        ledger.append(TrialEnded(number=0, trial_id="a", attempt=0, status="complete", reason=""))


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    filled(tmp_path)
    record = read_ledger(tmp_path)
    assert record.header.spec == {"name": "x"}
    assert record.baselines["vanilla"] == {"forget_nll": 3.0}
    [trial] = record.finished
    assert [row["update"] for row in trial.rows] == [2, 4]
    assert math.isnan(trial.rows[0]["forget_ppl"])  # not finite: null in the file
    with Ledger.open(tmp_path) as ledger:
        assert repr(ledger.record) == repr(record)


def test_pandas_alone_reads_it(tmp_path: Path) -> None:
    filled(tmp_path)
    events = pd.read_json(events_file(tmp_path), lines=True)
    rows = pd.json_normalize(events[events["kind"] == "row"]["metrics"].tolist())
    assert rows["forget_nll"].tolist() == [5.0, 7.0]


def test_a_replayed_row_counts_once(tmp_path: Path) -> None:
    filled(tmp_path)
    with Ledger.open(tmp_path) as ledger:
        ledger.append(
            RowMeasured(number=0, trial_id="a", attempt=1, update=2, metrics={"forget_nll": 9.0})
        )
        assert len(ledger.record.trials[0].rows) == 2
    assert read_ledger(tmp_path).trials[0].rows[0]["forget_nll"] == 5.0


def test_torn_at_every_byte_it_opens_with_every_whole_line_and_says_so(tmp_path: Path) -> None:
    filled(tmp_path / "whole")
    content = events_file(tmp_path / "whole").read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for size in range(ends[0], len(content)):
        folder = tmp_path / str(size)
        folder.mkdir()
        events_file(folder).write_bytes(content[:size])
        whole = sum(end <= size for end in ends)
        torn = size - ends[whole - 1]
        with Ledger.open(folder) as ledger:
            assert bool(ledger.record.notes) == bool(torn)
        lines = events_file(folder).read_text().splitlines()
        assert lines[:whole] == content.decode().splitlines()[:whole]
        assert len(lines) == whole + bool(torn)


def test_damage_before_the_last_line_is_never_silent(tmp_path: Path) -> None:
    filled(tmp_path)
    lines = events_file(tmp_path).read_bytes().splitlines(keepends=True)
    events_file(tmp_path).write_bytes(b"".join([*lines[:2], b'{"kind": "tri', b"\n", *lines[3:]]))
    with pytest.raises(StorageError, match="line 3 is damaged"):
        read_ledger(tmp_path)


def test_one_writer(tmp_path: Path) -> None:
    with (
        Ledger.create(tmp_path, Header()),
        pytest.raises(StorageError, match="another process is writing"),
    ):
        Ledger.open(tmp_path)
    Ledger.open(tmp_path).close()


def test_create_refuses_an_existing_ledger_and_open_a_missing_one(tmp_path: Path) -> None:
    Ledger.create(tmp_path, Header()).close()
    with pytest.raises(StorageError, match="resume"):
        Ledger.create(tmp_path, Header())
    with pytest.raises(StorageError, match="no ledger there"):
        Ledger.open(tmp_path / "none")


def test_a_header_has_its_copy_before_it_is_written(tmp_path: Path) -> None:
    """Else a study whose first process died in between could not be opened again after damage."""
    copies = []

    class Witness(FolderLog):
        def append(self, seq: int, line: bytes) -> int:
            copies.append((header_file(tmp_path).read_bytes(), line))
            return super().append(seq, line)

    Ledger.begun(Witness(tmp_path, new=True), Header()).close()
    [(copy, line)] = copies
    assert copy == line


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    events_file(tmp_path).write_text(json.dumps({"kind": "header", "schema_version": 999}) + "\n")
    with pytest.raises(StorageError, match="newer"):
        read_ledger(tmp_path)


@pytest.mark.parametrize("content", ["", "not json\n", '{"kind": "row"}\n'])
def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path, content: str) -> None:
    events_file(tmp_path).write_text(content)
    with pytest.raises(StorageError):
        read_ledger(tmp_path)


def test_full_disk_is_a_storage_error_and_keeps_what_was_there(tmp_path: Path) -> None:
    """A real full file system: writes to /dev/full fail with ENOSPC."""
    filled(tmp_path)
    before = events_file(tmp_path).read_bytes()
    with Ledger.open(tmp_path) as ledger:
        lines = lines_file(ledger)
        real = lines.file
        with open("/dev/full", "wb", buffering=0) as full:
            lines.file = full
            with pytest.raises(StorageError, match="free some space") as caught:
                ledger.append(Note(text="x"))
            lines.file = real
    assert caught.value.exit_code == 4
    assert events_file(tmp_path).read_bytes() == before


COLD = b'"grad_norm": 3.83'


def cold(folder: Path) -> Path:
    """A ledger with one row, of which `grad_norm` stays in the file; the file of events."""
    with Ledger.create(folder, Header()) as ledger:
        ledger.append(TrialAsked(number=0, trial_id="a", config=CONFIG))
        metrics = {"forget_nll": 3.0, "grad_norm": 3.83, "retain_loss": 1.0}
        ledger.append(RowMeasured(number=0, update=2, metrics=metrics))
    return events_file(folder)


@pytest.mark.parametrize("session", ["first", "later"])
def test_what_follows_a_write_that_failed_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: str
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    ledger = Ledger.create(tmp_path, Header())
    if session == "later":
        ledger.close()
        ledger = Ledger.open(tmp_path)
    with ledger:
        for text in ("one", "two"):
            with monkeypatch.context() as patch:
                patch.setattr("os.fsync", full)
                with pytest.raises(StorageError, match="No space"):
                    ledger.append(Note("lost"))
            ledger.append(Note(text))
    assert b"\0" not in events_file(tmp_path).read_bytes()
    assert read_ledger(tmp_path).notes == ["one", "two"]


def test_nothing_is_written_behind_a_torn_event_that_cannot_be_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(file: IO[bytes], line: bytes) -> None:
        file.write(line[:10])
        raise OSError(errno.EIO, "Input/output error")

    with Ledger.create(tmp_path, Header()) as ledger:
        ledger.append(Note("one"))
        with monkeypatch.context() as patch:
            patch.setattr("ray_unlearn.store.folder_log._write_all", torn)
            patch.setattr(lines_file(ledger), "file", _Stubborn(lines_file(ledger).file))
            with pytest.raises(StorageError, match="Input/output"):
                ledger.append(Note("lost"))
        with pytest.raises(StorageError, match="an earlier event"):
            ledger.append(Note("two"))
    with Ledger.open(tmp_path) as ledger:
        ledger.append(Note("three"))
    assert read_ledger(tmp_path).notes[::2] == ["one", "three"]  # between them: what was cut


class _Stubborn:
    """A file that cannot be cut."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def truncate(self, size: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_byte_that_changes_after_opening_never_reaches_a_table(tmp_path: Path) -> None:
    path = cold(tmp_path / "study" / "ledger")
    [row] = read_ledger(path.parent).trials[0].rows
    content = path.read_bytes()
    for damaged in (
        content.replace(COLD, b'"grad_norm": 9.83'),
        content.replace(b'"update": 2', b'"update": 4'),
        content[: content.index(COLD)],
    ):
        path.write_bytes(damaged)
        for read in (lambda: row["grad_norm"], lambda: dict(row.items()), lambda: len(row)):
            with pytest.raises(StorageError, match=r"events.jsonl: line 3 \(byte \d+\).*--repair"):
                read()
    path.write_bytes(content)
    assert row["grad_norm"] == 3.83


def test_a_row_of_a_file_that_was_replaced_is_no_other_row(tmp_path: Path) -> None:
    """Somebody put another study's file there: a whole line with a checksum of its own."""
    path = cold(tmp_path / "ledger")
    [row] = read_ledger(path.parent).trials[0].rows
    other = cold(tmp_path / "other").read_bytes().replace(b"3.83", b"4.83")
    lines = other.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2]]))
    with pytest.raises(StorageError, match="is not what it was"):
        row["grad_norm"]
    path.unlink()
    with pytest.raises(StorageError, match="cannot be read"):
        row["grad_norm"]


def test_the_bytes_of_each_event_are_those_of_older_versions() -> None:
    """Ledgers are read by other programs, and by older versions of this one."""
    row = {"forget_nll": 3.0, "grad_norm": math.inf}
    least = {"method": "m", "learning_rate": 0.1, "steps": 4}
    events: list[tuple[Event, str]] = [
        (
            Header(2, {"name": "x"}, "d", "1", {"forget": "9"}, "2", "3", 4.0, "0.1", {"ray": "2"}),
            '"header", "schema_version": 2, "spec": {"name": "x"}, "domain": "d", '
            '"data_digest": "1", "split_digests": {"forget": "9"}, "model_digest": "2", '
            '"context": "3", "retraining_flops": 4.0, '
            '"code_version": "0.1", "libraries": {"ray": "2"}',
        ),
        (
            SessionBegan(8, "h", 7, "0.1", {"ray": "2"}),
            '"session", "total": 8, "host": "h", "pid": 7, "code_version": "0.1", '
            '"libraries": {"ray": "2"}',
        ),
        (StudyExtended(9), '"amendment", "trials_per_method": 9'),
        (
            BaselineMeasured("vanilla", row),
            '"baseline", "name": "vanilla", "metrics": {"forget_nll": 3.0}, "time": "t", '
            '"more": {"grad_norm": null}',
        ),
        (
            TrialAsked(number=0, trial_id="a", source="tpe", config=least),
            '"trial", "number": 0, "trial_id": "a", "source": "tpe", "config": {"method": "m", '
            '"learning_rate": 0.1, "steps": 4}',
        ),
        (
            RowMeasured(number=0, trial_id="a", attempt=1, update=2, metrics=row),
            '"row", "number": 0, "trial_id": "a", "attempt": 1, "update": 2, '
            '"metrics": {"forget_nll": 3.0}, "time": "t", "more": {"grad_norm": null}',
        ),
        (
            BestWeightsKept(number=0, trial_id="a", update=2, file="f", sha256="s", bytes=3),
            '"artefact", "number": 0, "trial_id": "a", "update": 2, "file": "f", "sha256": "s", '
            '"bytes": 3',
        ),
        (BestWeightsGone(0, 2), '"artefact", "number": 0, "update": 2, "file": ""'),
        (
            TrialEnded(number=0, trial_id="a", attempt=1, status="pruned", reason="r"),
            '"outcome", "number": 0, "trial_id": "a", "attempt": 1, "status": "pruned", '
            '"reason": "r"',
        ),
        (TrialReopened(0, "r"), '"reopened", "number": 0, "reason": "r"'),
        (Note("n"), '"note", "text": "n"'),
    ]
    for event, expected in events:
        line = encoded(event, 7, 2, "t")
        time = "" if '"time"' in expected else ', "time": "t"'
        start = '{"seq": 7, "token": 2, "kind": ' + expected + time
        assert line == f'{start}, "crc": "{zlib.crc32(start.encode()):08x}"}}\n'.encode()
        entry = decoded(line, Path(), 0)
        assert entry is not None
        assert (entry.seq, entry.fence, type(entry.event)) == (7, 2, type(event))
        if not isinstance(event, BaselineMeasured | RowMeasured):
            assert entry.event == event

"""The ledger: durable, one writer, repaired when torn, readable with pandas alone."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.scan import events_file

CONFIG = {"method": "gradient_ascent", "steps": 4, "learning_rate": 0.1}


def filled(folder: Path) -> None:
    with Ledger.create(folder, {"spec": {"name": "x"}}) as ledger:
        ledger.append({"kind": "baseline", "name": "vanilla", "metrics": {"forget_nll": 3.0}})
        ledger.append({"kind": "trial", "number": 0, "trial_id": "a", "config": CONFIG})
        for update in (2, 4):
            metrics = {"forget_nll": 3.0 + update, "forget_ppl": math.inf}
            ledger.append(
                {
                    "kind": "row",
                    "number": 0,
                    "trial_id": "a",
                    "attempt": 0,
                    "update": update,
                    "metrics": metrics,
                }
            )
        ledger.append(
            {
                "kind": "outcome",
                "number": 0,
                "trial_id": "a",
                "attempt": 0,
                "status": "complete",
                "reason": "",
            }
        )


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    filled(tmp_path)
    record = read_ledger(tmp_path)
    assert record.header["spec"] == {"name": "x"}
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
            {
                "kind": "row",
                "number": 0,
                "trial_id": "a",
                "attempt": 1,
                "update": 2,
                "metrics": {"forget_nll": 9.0},
            }
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
        Ledger.create(tmp_path, {}),
        pytest.raises(StorageError, match="another process is writing"),
    ):
        Ledger.open(tmp_path)
    Ledger.open(tmp_path).close()


def test_create_refuses_an_existing_ledger_and_open_a_missing_one(tmp_path: Path) -> None:
    Ledger.create(tmp_path, {}).close()
    with pytest.raises(StorageError, match="resume"):
        Ledger.create(tmp_path, {})
    with pytest.raises(StorageError, match="no ledger there"):
        Ledger.open(tmp_path / "none")


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
        real = ledger._file
        with open("/dev/full", "wb", buffering=0) as full:
            ledger._file = full
            with pytest.raises(StorageError, match="free some space") as caught:
                ledger.append({"kind": "note", "text": "x"})
            ledger._file = real
    assert caught.value.exit_code == 4
    assert events_file(tmp_path).read_bytes() == before

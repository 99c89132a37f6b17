"""The result table of a large study. If these fail, it loses lines, or takes hours to write."""

from collections import Counter
from pathlib import Path

import pytest
from ledgers import finished

from ray_unlearn.store import table
from ray_unlearn.store.event_line import StoredRow
from ray_unlearn.store.ledger import read_ledger


def test_a_table_made_in_parts_is_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = read_ledger(finished(tmp_path / "study") / "ledger")
    whole = table.result_table(record)
    monkeypatch.setattr(table, "LINES_AT_A_TIME", 2)
    parts = table.result_table(record)
    assert parts.num_rows == 7
    assert parts["update"].num_chunks > 1
    assert parts.equals(whole, check_metadata=True)


def test_each_row_is_read_from_the_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = read_ledger(finished(tmp_path / "study") / "ledger")
    reads: Counter[int] = Counter()
    read = StoredRow._all

    def counted(row: StoredRow) -> dict[str, object]:
        reads[id(row)] += 1
        return read(row)

    monkeypatch.setattr(StoredRow, "_all", counted)
    table.result_table(record)
    assert sorted(reads.values()) == [1] * 7


def test_the_table_says_who_chose_each_trial(tmp_path: Path) -> None:
    """Without it, curves and importance of adaptive trials would be taken for those of random
    ones."""
    found = table.result_table(read_ledger(finished(tmp_path / "study") / "ledger"))
    chosen = dict(zip(found["number"].to_pylist(), found["sampled_by"].to_pylist(), strict=True))
    assert chosen == {0: "tpe", 1: "quasi_random", 2: "tpe"}

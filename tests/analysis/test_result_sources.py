"""Reading results: what a user has (a study directory, a table) becomes the same numbers, or an
error that helps."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from planted import demo_spec, quick_ledger

from ray_unlearn.analysis.read.study_results import load
from ray_unlearn.analysis.report.verdict import verdict
from ray_unlearn.spec.errors import UserError
from ray_unlearn.store.event import Header
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.table import baseline_table, result_table, write_table


@pytest.fixture
def table_of(planted_study: Path, tmp_path: Path):
    """Writes the planted study's rows, and on request its baselines, in a format."""

    def write(ending: str, baselines: bool = True) -> Path:
        record = read_ledger(planted_study / "ledger")
        path = tmp_path / f"rows{ending}"
        write_table(result_table(record), path)
        if baselines:
            write_table(baseline_table(record), tmp_path / f"rows.baselines{ending}")
        return path

    return write


def test_facts_of_a_study_directory(planted_study: Path) -> None:
    study = load([planted_study]).studies[0]
    assert (study.name, study.domain, study.model) == (
        "demo",
        "Shakespeare scenes",
        "demo:shakespeare",
    )
    assert study.source == "demo-study/ledger/events.jsonl"
    assert study.planned == 42
    assert sum(study.outcomes.values()) == 42
    assert study.outcomes["diverged"] > 0
    assert study.outcomes["out_of_memory"] == 1
    assert study.header["versions.torch"] == "2.9.0"
    assert list(study.baselines.index) == ["vanilla", "exact_retrain"]


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_a_table_gives_the_same_verdict_as_its_study(
    planted_study: Path, table_of, ending: str
) -> None:
    from_ledger = verdict(load([planted_study]).studies[0])
    from_table = verdict(load([table_of(ending)]).studies[0])
    pd.testing.assert_frame_equal(from_table, from_ledger, check_dtype=False, rtol=1e-12)


def test_without_baselines_the_target_is_withheld(table_of) -> None:
    study = load([table_of(".parquet", baselines=False)]).studies[0]
    assert study.baseline("vanilla") is None
    table = verdict(study)
    assert table["target_ppl"].isna().all()
    assert table["feasible_rows"].sum() == 0


def test_baselines_of_another_study_are_refused(table_of, tmp_path: Path) -> None:
    path = table_of(".csv")
    beside = tmp_path / "rows.baselines.csv"
    frame = pd.read_csv(beside)
    frame["approximate_nll_selection"] += 0.5
    frame.to_csv(beside, index=False)
    with pytest.raises(UserError, match=r"rows\.baselines\.csv: does not belong to"):
        load([path])


def test_a_study_named_twice_is_refused(planted_study: Path, table_of) -> None:
    with pytest.raises(UserError, match="already in"):
        load([planted_study, planted_study])
    with pytest.raises(UserError, match="already in"):
        load([planted_study, table_of(".parquet")])


def test_no_source_missing_source_wrong_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name one study directory"):
        load([])
    with pytest.raises(UserError, match=r"nowhere: no such file or folder"):
        load([tmp_path / "nowhere"])
    (tmp_path / "notes.pdf").write_text("x")
    with pytest.raises(
        UserError, match=r"notes\.pdf: neither a study directory nor a result table"
    ):
        load([tmp_path / "notes.pdf"])
    with pytest.raises(UserError, match=r"no `ledger/events\.jsonl` in it"):
        load([tmp_path])


def test_empty_and_foreign_tables(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UserError, match=r"empty\.csv: cannot be read as a table"):
        load([tmp_path / "empty.csv"])
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"torn\.parquet: cannot be read as a table"):
        load([tmp_path / "torn.parquet"])
    almost = pd.DataFrame({"status": ["complete"], "method": ["npo"], "update": [1], "lr": [1e-5]})
    almost.to_csv(tmp_path / "almost.csv", index=False)
    with pytest.raises(
        UserError,
        match=r"almost\.csv: lacks the columns number, candidate, .*lacks the column score",
    ):
        load([tmp_path / "almost.csv"])


def test_a_study_without_trials_says_so(tmp_path: Path) -> None:
    with quick_ledger(tmp_path / "fresh", demo_spec()):
        pass
    with pytest.raises(UserError, match="holds no trial yet"):
        load([tmp_path / "fresh"])


def test_a_ledger_of_another_program(tmp_path: Path) -> None:
    with quick_ledger(tmp_path / "odd", demo_spec(), header=Header(spec={"name": "x"})):
        pass
    with pytest.raises(UserError, match="the header lacks `domain`"):
        load([tmp_path / "odd"])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("forget_nll", "much", "column `forget_nll` must hold numbers, got 'much'"),
        ("status", "fine", "status 'fine' is not one of complete"),
        ("candidate", "perhaps", "column `candidate` must hold true or false, got 'perhaps'"),
        ("number", None, "has no trial `number`"),
    ],
)
def test_bad_values_are_named(table_of, column: str, value: object, message: str) -> None:
    path = table_of(".csv", baselines=False)
    frame = pd.read_csv(path, dtype=str)
    frame.loc[0, column] = value
    frame.to_csv(path, index=False)
    with pytest.raises(UserError, match=message):
        load([path])


def test_repeated_rows(table_of) -> None:
    path = table_of(".csv", baselines=False)
    frame = pd.read_csv(path, dtype=str)
    once = load([path]).studies[0]
    pd.concat([frame, frame.tail(3)]).to_csv(path, index=False)
    assert len(load([path]).studies[0].rows) == len(once.rows)  # an exact copy says nothing new
    changed = frame.tail(1).assign(forget_nll="9.0")
    pd.concat([frame, changed]).to_csv(path, index=False)
    with pytest.raises(UserError, match="two different rows at update"):
        load([path])


def test_a_newer_schema_is_refused(table_of) -> None:
    path = table_of(".parquet", baselines=False)
    table = pa.parquet.read_table(path).replace_schema_metadata({"schema_version": "99"})
    pa.parquet.write_table(table, path)
    with pytest.raises(UserError, match="schema version 99 is newer"):
        load([path])

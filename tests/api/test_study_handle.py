"""A finished study through `ru.open`: one best trial, whole data frames, no side effects."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
from object_store import BUCKET, object_store

import ray_unlearn as ru
from ray_unlearn.api import Study
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.object_events import event_object
from ray_unlearn.store.storage import storage_at
from ray_unlearn.store.table import result_table


@pytest.fixture
def study(finished: str) -> Study:
    return ru.open(finished)


def test_best_status_trials_rows_and_export_name_the_same_trial(
    study: Study, tmp_path: Path
) -> None:
    best, trials, rows = study.best, study.trials, study.rows
    shown = study.status().best
    assert [(b.method, b.number, b.update) for b in shown] == [
        (b.method, b.number, b.update) for b in (study.best_of(b.method) for b in shown)
    ]
    assert (best.number, best.update) == (shown[0].number, shown[0].update)
    first = trials.sort_values(["score_selection", "number"]).iloc[0]
    assert (first["number"], first["trial_id"], first["update"]) == (
        best.number,
        best.trial_id,
        best.update,
    )
    row = rows[(rows["number"] == best.number) & (rows["update"] == best.update)].iloc[0]
    assert row["score_selection"] == best.score_selection == first["score_selection"]
    assert row["score_reporting"] == best.score_reporting == first["score_reporting"]
    assert best.hyperparameters["steps"] == best.update
    assert best.hyperparameters["learning_rate"] == row["learning_rate"]
    said: list[str] = []
    model = study.export(tmp_path / "model", trial="best", say=said.append)
    assert json.loads((model / "config.json").read_text())["use_cache"] is True
    assert best.trial_id in (model / "README.md").read_text()
    assert f"kept of trial {best.number}, update {best.update}" in said[-1]


def test_frames_are_the_result_table_and_belong_to_the_caller(study: Study, finished: str) -> None:
    rows = study.rows
    pd.testing.assert_frame_equal(
        rows, result_table(read_ledger(Path(finished) / "ledger")).to_pandas()
    )
    assert list(study.trials["number"]) == [0, 1, 2, 3]
    assert list(study.trials["rows"]) == [3, 3, 3, 3]
    rows.drop(rows.index, inplace=True)
    trials = study.trials
    trials["status"] = "mine"
    assert len(study.rows) == 12
    assert set(study.trials["status"]) == {"complete"}


def test_reading_changes_nothing(study: Study, finished: str) -> None:
    """Somebody else may be running it."""
    before = {p: p.stat().st_mtime_ns for p in Path(finished).rglob("*")}
    _ = study.best, study.trials, study.rows, study.status(), study.verify(), repr(study)
    assert {p: p.stat().st_mtime_ns for p in Path(finished).rglob("*")} == before


def test_what_was_handed_out_is_valid_when_the_study_is_gone(finished: str, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "s")
    study = ru.open(tmp_path / "s")
    best = study.best
    shutil.rmtree(tmp_path / "s")
    assert math.isfinite(best.metrics["retain_ppl_reporting"])
    assert study.rows["retain_ppl_reporting"].notna().all()
    assert study.best == best
    with pytest.raises(ru.UserError, match="no study there"):
        study.refresh()


def test_a_study_in_an_object_store_reads_as_the_same_study(
    finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its working copy is gone as soon as it is read."""
    with object_store() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        url = f"s3://{BUCKET}/my-study"
        storage, events = storage_at(url), Path(finished) / "ledger" / "events.jsonl"
        for number, line in enumerate(events.read_bytes().splitlines(keepends=True)):
            storage.write(event_object(number), line)
        storage.put(Path(finished) / "study.yaml", "study.yaml")
        there, here = ru.open(url), ru.open(finished)
        assert there.best == here.best
        pd.testing.assert_frame_equal(there.rows, here.rows)
        assert there.status().folder == url


def test_wrong_requests_say_what_there_is(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ru.UserError, match="did you mean 'gradient_ascent'"):
        study.best_of("gradient_asent")
    with pytest.raises(ru.UserError, match=r"no trial '17'.*from 0 to 3"):
        study.export(tmp_path / "m", trial=17)
    with pytest.raises(ru.UserError, match=r"give a \.csv or \.parquet file"):
        study.export(tmp_path / "rows.xlsx")
    with pytest.raises(ru.UserError, match="updates 1 to 4"):
        study.export(tmp_path / "m", trial="best", update=5)
    with pytest.raises(ru.UserError, match="the table has all updates; name a trial"):
        study.export(tmp_path / "rows.csv", update=2)
    for top in (0, -1):
        with pytest.raises(ru.UserError, match=f"can be confirmed, got {top}"):
            study.confirm(top=top, seeds=2)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(ru.UserError, match="exists and is not empty"):
        study.export(tmp_path / "used", trial="best")


def test_a_study_that_is_there_is_not_run_over(finished: str, my_study: Path) -> None:
    with pytest.raises(ru.UserError, match="holds a study already"):
        ru.run(my_study, finished, quiet=True)


def test_lanes_given_from_python_are_checked_as_those_of_a_file(
    my_study: Path, study: Study, tmp_path: Path
) -> None:
    for given in (my_study, study.spec):
        with pytest.raises(ru.UserError, match=r"operations\.lanes"):
            ru.run(given, tmp_path / "s", lanes=0, quiet=True)

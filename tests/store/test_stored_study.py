"""Studies that earlier versions stored. If these fail, people lose studies they paid for.

`tests/fixtures/study_schema_2` was written by version 0.1.0 with ledger schema 2, `study_schema_3`
by the first version of schema 3; neither is ever written again. Each has twelve trials of two
methods that search Adam's first beta, and what its version would have tried next. Model and texts
are those of `study_schema_2`.
"""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tiny import REPOSITORY

import ray_unlearn as ru
from ray_unlearn.analysis.read.study_results import load
from ray_unlearn.analysis.trials import trial_table
from ray_unlearn.execution.search import Search
from ray_unlearn.store.event import StudyExtended
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.status import open_study, status
from ray_unlearn.store.table import CONFIG_COLUMNS, result_table
from ray_unlearn.store.verify import verify

FIXTURES = REPOSITORY / "tests/fixtures"


@pytest.fixture(params=[2, 3], ids=lambda version: f"schema_{version}")
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def study(tmp_path: Path, version: int) -> Path:
    return shutil.copytree(FIXTURES / f"study_schema_{version}/study", tmp_path / "study")


def test_a_study_that_moved_says_where_its_model_and_texts_are_now(study: Path) -> None:
    """What is narrowed from it, or begun from its spec, must find them."""
    text = (study / "study.yaml").read_text()
    before = ru.open(study).spec.model.source
    (study / "study.yaml").write_text(text.replace(before, "/new/model"))
    assert ru.open(study).spec.model.source == "/new/model"


def test_it_opens_and_verifies(study: Path) -> None:
    found = verify(study)
    assert (found.problems, found.complete, found.trials, found.rows) == ([], True, 12, 36)
    assert (status(study).outcomes["complete"], status(study).finished) == (12, 12)


def test_its_spec_has_the_number_of_trials_that_it_was_extended_to(study: Path) -> None:
    """Otherwise the next study, narrowed from it, would have fewer."""
    began = ru.open(study).spec
    with Ledger.open(study / "ledger") as ledger:
        ledger.append(StudyExtended(9))
    now = ru.open(study).spec
    assert (began.search.trials_per_method, now.search.trials_per_method) == (6, 9)
    wanted = began.search.model_copy(update={"trials_per_method": 9})
    assert now == began.model_copy(update={"search": wanted})
    assert load([study]).studies[0].planned == 18


def test_it_gives_the_table_it_gave_and_the_searched_beta_beside_it(
    study: Path, version: int
) -> None:
    _, record = open_study(study)
    assert record.header.schema_version == version
    stored, table = pq.read_table(study / "ledger/rows.parquet"), result_table(record)
    for name in stored.column_names:
        assert table[name].equals(stored[name]), name
    searched = {trial.config["adam_beta1"] for trial in record.trials.values()}
    assert len(searched) == 12
    assert set(table["adam_beta1"].to_pylist()) == searched


def test_it_tries_next_what_it_would_have_tried(study: Path, version: int) -> None:
    spec, record = open_study(study)
    more = spec.search.model_copy(update={"trials_per_method": 9})
    search = Search(spec.model_copy(update={"search": more}), record.header.context)
    search.replay(record)
    planned = (FIXTURES / f"study_schema_{version}/next_trials.json").read_text()
    for wanted in json.loads(planned):
        config = search.ask(wanted["number"])
        assert config is not None
        assert config.model_dump(mode="json", include=set(wanted["config"])) == wanted["config"]
        assert record.trial_id(config) == wanted["trial_id"]
        assert search.source(wanted["number"]) == wanted["source"]


def test_its_best_trial_and_table_are_exported(study: Path, tmp_path: Path) -> None:
    opened = ru.open(study)
    assert opened.best.score_rule == "best_row"
    opened.export(tmp_path / "rows.csv")
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert len(lines) == 1 + 36
    assert opened.best.trial_id in "".join(lines)


def test_a_table_of_schema_2_is_read_without_the_columns_of_now() -> None:
    old = FIXTURES / "study_schema_2/study/ledger/rows.parquet"
    later = {"optimizer", "adam_beta1", "adam_beta2"}
    assert set(CONFIG_COLUMNS) - set(pq.read_schema(old).names) == later
    table = trial_table(load([old]))
    assert len(table.trials) == 12
    assert all("adam_beta1" not in [a.name for a in axes] for axes in table.axes.values())


def test_the_searched_beta_is_an_axis(study: Path) -> None:
    table = trial_table(load([study]))
    for axes in table.axes.values():
        assert "adam_beta1" in [axis.name for axis in axes]
    assert table.trials["adam_beta1"].between(0.8, 0.95).all()

"""A study that watches one more set, from its file to the report: every table has its columns."""

from pathlib import Path

import pandas as pd
import pytest
import yaml
from tiny import study_file

from ray_unlearn.analysis.numerals import DASH
from ray_unlearn.analysis.read.study_results import load
from ray_unlearn.analysis.report.own_columns_section import own_columns_section
from ray_unlearn.analysis.report.page import Table
from ray_unlearn.execution.exports.run_facts import tag
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event import BaselineMeasured, Header, RowMeasured, TrialAsked, TrialEnded
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.promises import table_fault
from ray_unlearn.store.schema import COLUMNS, row_key
from ray_unlearn.store.snapshot import taken
from ray_unlearn.store.study_columns import extra_columns, study_columns
from ray_unlearn.store.table import baseline_table, result_table, write_table
from ray_unlearn.unlearn.baselines import measure_baselines
from ray_unlearn.unlearn.single_trial import Single


@pytest.fixture(scope="module")
def watching_study(
    tmp_path_factory: pytest.TempPathFactory, text_files: Path, tiny_model: Path
) -> Path:
    """A study of two trials of the tiny model, which ran here, in its ledger."""
    folder = tmp_path_factory.mktemp("watching")
    evaluation = {
        "at": [1, 4],
        "batch_size": 8,
        "sets": {"near_by": {"path": str(text_files / "retain.jsonl"), "role": "near", "limit": 6}},
        "generate": {"sets": ["near_by"], "max_new_tokens": 4, "documents": 3, "at": "last"},
    }
    spec = load_study(study_file(folder, text_files, tiny_model, evaluation=evaluation))
    ran(folder, spec)
    return folder


def ran(folder: Path, spec: StudySpec) -> None:
    single = Single(spec)
    header = Header(spec=spec.model_dump(mode="json"), domain="code", context=single.context)
    (folder / "study.yaml").write_text(yaml.safe_dump(spec.model_dump(mode="json")))
    with Ledger.create(folder / "ledger", header) as ledger:
        for name, row in measure_baselines(single.workspace, spec.model).items():
            ledger.append(BaselineMeasured(name, row))
        baselines = single.baselines()
        for number, rate in enumerate((1e-3, 3e-3)):
            space = spec.spaces["gradient_ascent"]
            point = space.resolve({"learning_rate": rate, "steps": 2})
            config = spec.trial_config(point, "gradient_ascent", number, single.context)
            content = config.model_dump(mode="json")
            about = {"number": number, "trial_id": config.id}
            ledger.append(TrialAsked(**about, source="random", config=content))
            found: list = []
            ended = single.run(config, baselines, found.append)
            for row in found:
                ledger.append(RowMeasured(**about, update=row_key(row)[0], metrics=row))
            ledger.append(TrialEnded(**about, status=ended.status, reason=ended.reason))


def test_every_table_has_the_study_s_own_columns(watching_study: Path, tmp_path: Path) -> None:
    record = read_ledger(watching_study / "ledger")
    spec = load_study(watching_study / "study.yaml")
    own = list(extra_columns(spec))
    assert own[:2] == ["near_by_nll", "near_by_ppl"]
    assert own[-1] == "near_by_exact_match"
    table = result_table(record)
    assert set(study_columns(spec)) <= set(table.column_names)
    frame = table.to_pandas()
    assert len(frame) == 4
    assert frame["near_by_nll"].notna().all()
    assert frame["near_by_rouge_l"].notna().tolist() == [False, True, False, True]
    baselines = baseline_table(record).to_pandas().set_index("baseline")
    assert baselines.loc["vanilla", own].notna().all()
    trials = taken(watching_study).trials.to_pandas()
    assert trials["near_by_ppl"].notna().all()
    path = tmp_path / "rows.parquet"
    write_table(table, path)
    assert table_fault(path, record) == ""
    write_table(pd_changed(path, "near_by_nll"), path)
    assert "near_by_nll" in table_fault(path, record)


def pd_changed(path: Path, name: str):
    import pyarrow as pa

    return pa.Table.from_pandas(pd.read_parquet(path).assign(**{name: 0.5}), preserve_index=False)


@pytest.mark.parametrize("kind", ["folder", ".parquet", ".csv"])
def test_a_report_shows_them_from_the_study_and_from_its_tables(
    watching_study: Path, tmp_path: Path, kind: str
) -> None:
    source = watching_study
    if kind != "folder":
        record = read_ledger(watching_study / "ledger")
        source = tmp_path / f"rows{kind}"
        write_table(result_table(record), source)
        write_table(baseline_table(record), tmp_path / f"baselines{kind}")
    (study,) = load([source]).studies
    (section,) = own_columns_section(study, "watching")
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    names = [line[0] for line in table.lines]
    assert names[:3] == ["`near_by_ppl`", "`near_by_accuracy`", "`near_by_kl`"]
    assert "`near_by_rouge_l`" in names
    assert all(line[2] != DASH for line in table.lines), "vanilla has every column"


def test_each_column_has_a_place_in_tensorboard(watching_study: Path) -> None:
    spec = load_study(watching_study / "study.yaml")
    tags = {name: tag(name) for name in study_columns(spec)}
    assert tags["near_by_rouge_l"] == "near_by/rouge_l"
    assert tag("model_utility") == "benchmark/model_utility"
    assert len(set(tags.values())) == len(tags)
    assert [tags[name] for name in COLUMNS] == [tag(name) for name in COLUMNS]

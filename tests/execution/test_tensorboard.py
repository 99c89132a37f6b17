"""TensorBoard files are read back with TensorBoard's own reader. If these fail, its tabs are empty
or wrong."""

import threading
from pathlib import Path

import pytest
from specs import finished, record, row, run, space, study
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata

from ray_unlearn.execution.exports.run_facts import tag
from ray_unlearn.execution.exports.tensorboard_log import TensorBoardObserver
from ray_unlearn.execution.search import Search
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import ATTACKS, COLUMNS, HALVES
from ray_unlearn.store.score import ScoreRule

BATCHES = {"type": "choice", "choices": [4, 8]}


def read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, round(event.value, 6)) for event in read(folder).Scalars(name)]


def a_trial(spec: StudySpec) -> Trial:
    config = Search(spec, "c").ask(0)
    assert config is not None
    return finished(7, config, [], None)


def observed(folder: Path, spec: StudySpec, trial: Trial) -> Path:
    """A whole life of a trial: rows one after another, then its outcome."""
    observer = TensorBoardObserver(folder, ScoreRule(spec, {}))
    observer.on_trial(trial)
    for known in (
        row(1, 0.9, forget_ppl=20.0),
        row(9, 0.2, forget_ppl=30.0),
        row(30, 0.5, forget_ppl=90.0),
    ):
        trial.rows.append(known)
        observer.on_row(trial, known)
    trial.status = "complete"
    observer.on_outcome(trial)
    return folder / "0007-gradient_ascent"


def test_scalars_are_read_back_by_update(tmp_path: Path) -> None:
    folder = observed(tmp_path, study(), a_trial(study()))
    assert scalars(folder, "objective/score_selection") == [(1, 0.9), (9, 0.2), (30, 0.5)]
    assert scalars(folder, "forget/ppl") == [(1, 20.0), (9, 30.0), (30, 90.0)]
    assert scalars(folder, "best/score_selection") == [(0, 0.2)]
    assert scalars(folder, "best/update") == [(0, 9)]


def test_a_calibrated_row_does_not_bend_the_curve_of_what_was_trained(tmp_path: Path) -> None:
    """It has the update of a row as trained."""
    spec = study()
    evaluation = spec.evaluation.model_copy(update={"strength": "both"})
    spec = spec.model_copy(update={"evaluation": evaluation})
    trial, mixed = a_trial(spec), row(9, 0.1, forget_ppl=33.0, strength=0.75)
    trial.rows.append(mixed)
    folder = observed(tmp_path, spec, trial)
    assert scalars(folder, "objective/score_selection") == [(1, 0.9), (9, 0.2), (30, 0.5)]
    assert scalars(folder, "calibrated/objective/score_selection") == [(9, 0.1)]
    assert scalars(folder, "calibrated/training/strength") == [(9, 0.75)]
    assert scalars(folder, "best/strength") == [(0, 0.75)]


def test_every_column_has_a_tag_of_its_own_in_a_readable_group() -> None:
    tags = {name: tag(name) for name in COLUMNS}
    assert len(set(tags.values())) == len(COLUMNS)
    groups = {"forget", "approximate", "retain", "general", "mia", "objective", "training", "cost"}
    assert {t.partition("/")[0] for t in tags.values()} == groups
    assert tags["retain_ppl_selection"] == "retain/ppl_selection"
    assert tags["mia_loss_auc_reporting"] == "mia/loss_auc_reporting"
    assert tags["forget_loss"] == "training/forget_loss"
    assert {t for t in tags.values() if t.startswith("mia/")} == {
        f"mia/{a}_auc_{h}" for a in ATTACKS for h in HALVES
    }


def test_the_hparams_tab_knows_experiment_configuration_and_end(tmp_path: Path) -> None:
    spec = study(space(batch_size=BATCHES), space("random_labels"))
    trial = a_trial(spec)
    folder = observed(tmp_path, spec, trial)
    experiment = metadata.parse_experiment_plugin_data(
        read(tmp_path).SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    )
    assert [h.name for h in experiment.hparam_infos] == [
        "method",
        "seed",
        "learning_rate",
        "batch_size",
    ]
    assert "best/score_selection" in [m.name.tag for m in experiment.metric_infos]
    run_data = read(folder)
    start = metadata.parse_session_start_info_plugin_data(
        run_data.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    )
    assert start.hparams["learning_rate"].number_value == trial.config["learning_rate"]
    assert start.hparams["batch_size"].number_value == trial.config["batch_size"]
    assert start.hparams["method"].string_value == "gradient_ascent"
    end = metadata.parse_session_end_info_plugin_data(
        run_data.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    )
    assert end.status == api_pb2.STATUS_SUCCESS
    assert run_data.Tensors("outcome")[0].tensor_proto.string_val == [b"complete"]


@pytest.mark.parametrize("status", ["diverged", "out_of_memory", "failed"])
def test_a_trial_without_rows_has_its_outcome_and_reason(tmp_path: Path, status: str) -> None:
    trial = a_trial(study())
    trial.status, trial.reason = status, "loss is not finite at update 3"
    TensorBoardObserver(tmp_path, ScoreRule(study(), {})).on_outcome(trial)
    run_data = read(tmp_path / "0007-gradient_ascent")
    said = run_data.Tensors("outcome")[0].tensor_proto.string_val
    assert said == [f"{status}: loss is not finite at update 3".encode()]
    content = run_data.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    assert metadata.parse_session_end_info_plugin_data(content).status == api_pb2.STATUS_FAILURE


def test_a_resumed_trial_starts_its_files_anew_and_keeps_the_rows_of_the_ledger(
    tmp_path: Path,
) -> None:
    spec = study()
    trial = a_trial(spec)
    first = TensorBoardObserver(tmp_path, ScoreRule(spec, {}))
    first.on_trial(trial)
    trial.rows.append(row(1, 0.9))
    first.on_row(trial, trial.rows[0])
    first.close()
    resumed = TensorBoardObserver(tmp_path, ScoreRule(spec, {}))
    resumed.on_trial(trial)
    trial.rows.append(row(9, 0.5))
    resumed.on_row(trial, trial.rows[1])
    resumed.close()
    folder = tmp_path / "0007-gradient_ascent"
    assert scalars(folder, "objective/score_selection") == [(1, 0.9), (9, 0.5)]
    assert len(list(folder.iterdir())) == len(list(tmp_path.glob("events*"))) == 1


def test_rows_are_readable_while_the_trial_runs(tmp_path: Path) -> None:
    trial = a_trial(study())
    observer = TensorBoardObserver(tmp_path, ScoreRule(study(), {}))
    observer.on_trial(trial)
    observer.on_row(trial, row(1, 0.9))
    assert scalars(tmp_path / "0007-gradient_ascent", "objective/score_selection") == [(1, 0.9)]
    observer.close()


def test_no_thread_and_no_open_file_is_left_behind(tmp_path: Path) -> None:
    spec = study()
    threads, files = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    observer = TensorBoardObserver(tmp_path, ScoreRule(spec, {}))
    for trial in record(spec, *run(spec, lambda _: 0.5)).finished:
        observer.on_trial(trial)
        observer.on_outcome(trial)
    assert threading.active_count() == threads
    assert len(list(Path("/proc/self/fd").iterdir())) == files
    assert len(list(tmp_path.glob("*-gradient_ascent"))) == 20

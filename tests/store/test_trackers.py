"""A study in the real MLflow (SQLite) and the real W&B (offline). If these fail, runs are missing,
doubled, or say something else than the ledger."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ledgers import interleaved, outcome_event, row_event, spec, written

from ray_unlearn.execution.exports import log_process
from ray_unlearn.execution.exports.trackers import send_to_trackers
from ray_unlearn.execution.study import resume_study, run_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event import Event, Header
from ray_unlearn.store.ledger import Ledger, read_ledger

needs_mlflow = pytest.mark.skipif(
    find_spec("mlflow") is None, reason="MLflow is missing: pip install 'ray-unlearn[mlflow]'"
)
needs_wandb = pytest.mark.skipif(
    find_spec("wandb") is None, reason="W&B is missing: pip install 'ray-unlearn[wandb]'"
)
POINTS = {(0, 1), (0, 2), (0, 4), (1, 1), (2, 1), (2, 2), (2, 4), (3, 1)}
"""Trial and update of each row of `interleaved`."""


def sent(study: Path, name: str, said: list[str] | None = None) -> None:
    send_to_trackers(str(study), [name], [].append if said is None else said.append, 1, once=True)
    if name == "wandb":
        import wandb

        wandb.teardown()  # as the end of a process does: its last lines are on disk then


def grown(study: Path, events: list[Event]) -> Path:
    """A study of the first of these events, to which `more` adds."""
    header = Header(spec=spec().model_dump(mode="json"), domain="test", context="c")
    with Ledger.create(study / "ledger", header) as ledger:
        for event in events:
            ledger.append(event)
    return study


def more(study: Path, events: list[Event]) -> None:
    """What another session writes."""
    with Ledger.open(study / "ledger") as ledger:
        for event in events:
            ledger.append(event)


# -- MLflow ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make its tables."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "m.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def mlflow(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'm.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    return MlflowClient(uri)


def mlflow_runs(client: Any) -> dict[str, Any]:
    """By `parent` or number of the trial."""
    experiment = client.get_experiment_by_name("ray-unlearn")
    runs = client.search_runs([experiment.experiment_id])
    found = {run.data.tags["ray_unlearn.trial"]: run for run in runs}
    assert len(found) == len(runs), "no trial has two runs"
    return found


def mlflow_points(client: Any) -> list[tuple[int, int]]:
    """Trial and update of each point of the score; each as often as it is there."""
    return [
        (int(trial), point.step)
        for trial, run in mlflow_runs(client).items()
        if trial != "parent"
        for point in client.get_metric_history(run.info.run_id, "objective/score_selection")
    ]


@needs_mlflow
def test_mlflow_has_a_run_per_trial_with_all_that_the_ledger_says(
    mlflow: Any, tmp_path: Path
) -> None:
    said: list[str] = []
    sent(written(tmp_path / "s", interleaved()), "mlflow", said)
    assert said == ["sent: 3 trials, 8 rows to mlflow"]
    runs = mlflow_runs(mlflow)
    assert sorted(mlflow_points(mlflow)) == sorted(POINTS)
    parent, one = runs["parent"], runs["2"]
    assert parent.info.run_name == "test"
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs.values()} == {
        None, parent.info.run_id,
    }  # fmt: skip
    assert one.info.run_name == "0002-gradient_ascent"
    assert one.data.params["learning_rate"] == "0.03"
    assert (one.data.tags["study"], one.data.tags["method"]) == ("test", "gradient_ascent")
    assert one.data.metrics["best/score_selection"] == pytest.approx(1 / 7)
    assert one.data.metrics["training/grad_norm"] == pytest.approx(0.4), (
        "a column that stays in the ledger's file until it is read"
    )
    outcomes = {name: (run.info.status, run.data.tags.get("outcome")) for name, run in runs.items()}
    assert outcomes["1"] == ("FINISHED", "pruned")
    assert outcomes["3"] == ("RUNNING", None)


@needs_mlflow
def test_a_resumed_study_goes_on_in_the_same_runs_of_mlflow(mlflow: Any, tmp_path: Path) -> None:
    events = interleaved()
    study = grown(tmp_path / "s", events[:9])
    sent(study, "mlflow")
    before = {name: run.info.run_id for name, run in mlflow_runs(mlflow).items()}
    more(study, events[9:])
    sent(study, "mlflow")
    sent(study, "mlflow")  # once more, for nothing
    assert Counter(mlflow_points(mlflow)) == Counter(POINTS)
    after = {name: run.info.run_id for name, run in mlflow_runs(mlflow).items()}
    assert {name: after[name] for name in before} == before


@needs_mlflow
def test_killed_between_two_rows_mlflow_lacks_none_and_has_none_twice(
    mlflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    study = written(tmp_path / "s", interleaved())
    log, calls = MlflowClient.log_batch, iter(range(100))

    def dies(self: Any, *args: Any, **named: Any) -> None:
        if next(calls) == 5:
            raise KeyboardInterrupt
        log(self, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", dies)
        with pytest.raises(KeyboardInterrupt):
            sent(study, "mlflow")
    assert 0 < len(mlflow_points(mlflow)) < len(POINTS)
    sent(study, "mlflow")
    assert Counter(mlflow_points(mlflow)) == Counter(POINTS)


@needs_mlflow
def test_a_run_s_own_process_sends_what_comes_until_the_run_ends(
    mlflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_process, "LEAVE_S", 300.0)  # it has just been started, here
    events, said = interleaved(), list[str]()
    study = grown(tmp_path / "s", events[:5])
    with log_process.LogProcess(["mlflow"], str(study), said.append):
        more(study, events[5:])
    assert said == []
    assert Counter(mlflow_points(mlflow)) == Counter(POINTS)


@needs_mlflow
@pytest.mark.slow
def test_a_study_sends_itself_and_goes_on_in_the_same_runs(
    mlflow: Any, tmp_path: Path, tiny_study: StudySpec, ray_here: None
) -> None:
    operations = tiny_study.operations.model_copy(update={"loggers": ("mlflow",)})
    said: list[str] = []
    place = tmp_path / "s"
    run_study(
        tiny_study.model_copy(update={"operations": operations}), place, quiet=True, say=said.append
    )
    first = {name: run.info.run_id for name, run in mlflow_runs(mlflow).items()}
    resume_study(place, add_trials=1, quiet=True, say=said.append)
    rows = read_ledger(place / "ledger").trials
    expected = [(n, row["update"]) for n, trial in rows.items() for row in trial.rows]
    assert len(rows) == 6
    assert Counter(mlflow_points(mlflow)) == Counter(expected)
    after = {name: run.info.run_id for name, run in mlflow_runs(mlflow).items()}
    assert {name: after[name] for name in first} == first
    assert [text for text in said if "mlflow" in text] == []


# -- W&B -------------------------------------------------------------------------------------------


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which W&B keeps what it would send."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    wandb.teardown()  # what it has read of the environment
    return tmp_path / "wandb"


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a run's file: after seven bytes a log of LevelDB, in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def wandb_runs(folder: Path) -> dict[str, dict[str, Any]]:
    """By name, what a server would be told of each run."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("offline-run-*/*.wandb")):
        told: dict[str, Any] = {"rows": [], "summary": {}}
        for record in wandb_records(file):
            if record.HasField("run") and record.run.display_name:
                told |= {"name": record.run.display_name, "group": record.run.run_group}
                told |= {"tags": [*record.run.tags], "id": record.run.run_id}
                told["config"] = {
                    item.key: json.loads(item.value_json) for item in record.run.config.update
                }
            elif record.HasField("history"):
                told["rows"].append(
                    {
                        "/".join([item.key, *item.nested_key]).strip("/"): json.loads(
                            item.value_json
                        )
                        for item in record.history.item
                    }
                )
            elif record.HasField("summary"):
                for item in record.summary.update:
                    told["summary"][item.key or item.nested_key[0]] = json.loads(item.value_json)
            elif record.HasField("exit"):
                told["exit"] = record.exit.exit_code
        assert told["name"] not in found, "no trial has two folders"
        found[told["name"]] = told
    return found


def wandb_points(folder: Path) -> list[tuple[int, int]]:
    return [
        (int(name[:4]), row["update"])
        for name, run in wandb_runs(folder).items()
        for row in run["rows"]
    ]


@needs_wandb
def test_wandb_has_a_run_per_trial_with_all_that_the_ledger_says(
    offline: Path, tmp_path: Path
) -> None:
    sent(written(tmp_path / "s", interleaved()), "wandb")
    runs = wandb_runs(offline)
    assert Counter(wandb_points(offline)) == Counter(POINTS)
    one = runs["0002-gradient_ascent"]
    assert [row["_step"] for row in one["rows"]] == [0, 1, 2]
    assert one["rows"][2]["objective/score_selection"] == pytest.approx(1 / 7)
    assert one["rows"][2]["training/grad_norm"] == pytest.approx(0.4)
    assert one["config"]["learning_rate"] == pytest.approx(0.03)
    assert set(one["tags"]) == {"test", "gradient_ascent"}
    assert one["summary"]["outcome"] == "complete"
    assert one["exit"] == 0
    assert len({run["group"] for run in runs.values()}) == 1
    assert one["group"].startswith("test ")


@needs_wandb
def test_a_resumed_study_goes_on_in_the_same_runs_of_wandb(offline: Path, tmp_path: Path) -> None:
    events = interleaved()
    study = grown(tmp_path / "s", events[:9])
    sent(study, "wandb")
    before = {name: run["id"] for name, run in wandb_runs(offline).items()}
    more(study, events[9:])
    sent(study, "wandb")
    folders = sorted(path.name for path in offline.glob("offline-run-*"))
    assert Counter(wandb_points(offline)) == Counter(POINTS)
    after = {name: run["id"] for name, run in wandb_runs(offline).items()}
    assert {name: after[name] for name in before} == before
    more(study, [row_event(3, 2), row_event(3, 4), outcome_event(3)])
    sent(study, "wandb")
    assert Counter(wandb_points(offline)) == Counter(POINTS | {(3, 2), (3, 4)})
    kept = {path.name for path in offline.glob("offline-run-*")} & set(folders)
    assert len(kept) == 3, "what had ended is not written again"

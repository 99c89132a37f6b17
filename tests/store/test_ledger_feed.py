"""Trackers fed from a study's ledger. If these fail, a dashboard lacks rows, shows some twice, or a
tracker that is down costs the others theirs."""

from pathlib import Path

import pytest
from ledgers import interleaved, outcome_event, row_event, spec, start, written
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ray_unlearn.execution.exports.ledger_feed import LedgerFeed
from ray_unlearn.execution.exports.log_process import LogProcess
from ray_unlearn.execution.exports.tensorboard_log import TensorBoardObserver
from ray_unlearn.execution.exports.trackers import TRACKERS, send_to_trackers
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event import Header, TrialReopened
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import Row
from ray_unlearn.store.status import Follower
from ray_unlearn.unlearn.tracker_extras import missing_trackers


class Listener:
    """A tracker that keeps what it is told; `broken` is the number of calls that fail."""

    def __init__(self, broken: int = 0) -> None:
        self.points: list[tuple[int, int]] = []
        self.outcomes: dict[int, str] = {}
        self.broken = broken
        self.closed = 0

    def _answer(self) -> None:
        if self.broken:
            self.broken -= 1
            raise ConnectionError("no route to host")

    def on_trial(self, trial: Trial) -> None:
        self._answer()
        has = {update for number, update in self.points if number == trial.number}
        self.points += [
            (trial.number, row["update"]) for row in trial.rows if row["update"] not in has
        ]

    def on_row(self, trial: Trial, row: Row) -> None:
        self._answer()
        self.points.append((trial.number, row["update"]))

    def on_outcome(self, trial: Trial) -> None:
        self._answer()
        self.outcomes[trial.number] = str(trial.status)

    def close(self) -> None:
        self.closed += 1


def fed(study: Path, said: list[str], *listeners: Listener) -> LedgerFeed:
    made = [(f"tracker {n}", lambda _, one=one: one) for n, one in enumerate(listeners)]
    return LedgerFeed(Follower(study), made, said.append)


def test_each_row_and_outcome_arrives_once_while_the_ledger_grows(tmp_path: Path) -> None:
    header = Header(spec=spec().model_dump(mode="json"), domain="test", context="c")
    listener, late, said = Listener(), Listener(), list[str]()
    with Ledger.create(tmp_path / "ledger", header) as ledger:
        feed = fed(tmp_path, said, listener)
        for event in interleaved():
            ledger.append(event)
            feed.poll()
        assert sorted(listener.points) == sorted(set(listener.points))
        fed(tmp_path, said, late).poll()
        assert sorted(late.points) == sorted(listener.points), "after the fact: the same"
        assert len(late.points) == 8
        assert late.outcomes == listener.outcomes == {0: "complete", 1: "pruned", 2: "complete"}
        ledger.append(TrialReopened(1, "asked for"))
        feed.poll()
        ledger.append(row_event(1, 2))
        ledger.append(outcome_event(1))
        feed.poll()
    assert listener.outcomes[1] == "complete", "a trial that runs again ends again"
    assert listener.points.count((1, 2)) == 1
    assert said == []


def test_a_tracker_that_is_down_is_said_once_and_has_all_in_the_end(tmp_path: Path) -> None:
    study = written(tmp_path / "s", interleaved())
    down, well, said = Listener(broken=3), Listener(), list[str]()
    feed = fed(study, said, down, well)
    feed.poll()
    assert len(well.points) == 8, "the other one does not wait for it"
    assert len(feed.problems) == 1
    for _ in range(3):
        feed.poll()
    assert feed.problems == []
    assert sorted(down.points) == sorted(well.points)
    assert down.outcomes == well.outcomes
    assert said == [
        "tracker 0: no route to host; nothing is lost, and the study does not wait for it"
    ]


def test_tensorboard_can_be_fed_so_too(tmp_path: Path) -> None:
    """One seam: what a run tells its observers, a ledger tells them later."""
    study = written(tmp_path / "s", interleaved())
    made = [("tensorboard", lambda rule: TensorBoardObserver(tmp_path / "tb", rule))]
    feed = LedgerFeed(Follower(study), made, print)
    feed.poll()
    feed.close()
    reader = EventAccumulator(str(tmp_path / "tb" / "0002-gradient_ascent"))
    reader.Reload()
    assert [e.step for e in reader.Scalars("objective/score_selection")] == [1, 2, 4]


def test_a_tracker_that_is_not_installed_is_refused_with_the_remedy(tmp_path: Path) -> None:
    absent = [name for name in TRACKERS if missing_trackers([name], "--to")]
    if not absent:
        pytest.skip("both trackers are installed")
    study = written(tmp_path / "s", start(1))
    remedy = rf"{absent[0]} is not installed: pip install 'ray-unlearn\[{absent[0]}\]'"
    with pytest.raises(UserError, match=remedy):
        send_to_trackers(str(study), absent[:1], print, 1.0, once=True)


def test_a_process_that_cannot_send_is_said_and_costs_the_run_nothing(tmp_path: Path) -> None:
    """Here: because there is no study where it is told to look."""
    said: list[str] = []
    with LogProcess(["wandb"], str(tmp_path / "nowhere"), said.append):
        pass
    assert said[-1] == (
        "wandb may lack the last rows; send them with: "
        f"ray-unlearn log {tmp_path / 'nowhere'} --to wandb"
    )


def test_no_loggers_no_process() -> None:
    with LogProcess([], "nowhere", print) as process:
        assert process._process is None


def test_study_files_name_loggers_that_there_are() -> None:
    content = spec().model_dump(mode="json")
    content["operations"]["loggers"] = ["mlflow", "wandb"]
    assert StudySpec.model_validate(content).operations.loggers == ("mlflow", "wandb")
    assert StudySpec.model_validate(content).decisive() == spec().decisive()
    content["operations"]["loggers"] = ["comet"]
    with pytest.raises(ValueError, match=r"operations\.loggers"):
        StudySpec.model_validate(content)

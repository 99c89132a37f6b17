"""Lanes through the real Ray Train and Ray Tune, over a stand-in for model and data.

What lanes do is tested in one process (`test_core`, `test_lanes_hub`); here is what only Ray can do
wrong."""

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from processes import descendants
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.train.torch import TorchTrainer
from ray.tune.experiment import Trial as TuneTrial
from stand_in import NLL, OpenStandIn, config

from ray_unlearn.execution.cluster import died_with_node
from ray_unlearn.execution.conductor import LaneError, first_job
from ray_unlearn.execution.hub import Hub
from ray_unlearn.execution.interrupt import Interrupt
from ray_unlearn.execution.lane_fleet import Fleet
from ray_unlearn.execution.lane_trainer import end_of_controller
from ray_unlearn.execution.messages import Delivery, JobEnded, RowReported, RunTrial
from ray_unlearn.execution.ray_hub import RayHub, summary
from ray_unlearn.execution.ray_tune import run_trials
from ray_unlearn.execution.recorder import Recorder
from ray_unlearn.execution.trial_errors import classify
from ray_unlearn.spec.operations import Operations
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.event import BaselineMeasured, Header
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.schema import Row

NEVER = Interrupt(print)
OPERATIONS = Operations(lanes=1, max_retries=1)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stand-in") / "log"


@pytest.fixture(scope="module")
def fleet(ray_here: None, log: Path) -> Iterator[Fleet]:
    """One lane of one worker for all tests here: each test is also a test that the one before left
    it clean."""
    with Fleet(OPERATIONS, OpenStandIn(log)) as fleet:
        first = first_job(fleet.hub, True, NEVER)
        assert first is not None
        assert first.rows["vanilla"]["update"] == 0
        yield fleet


def vanilla() -> Row:
    return NLL | {"update": 0}


def pull(fleet: Fleet, number: int, trial: TrialConfig, handled: int = 0) -> Delivery:
    order = RunTrial(trial.model_dump(mode="json"))
    return RayHub(fleet.hub.actor, 120).ask(Hub.pull, number, handled, order)


def run(fleet: Fleet, number: int, trial: TrialConfig) -> list[Delivery]:
    """All items of a trial, the way Tune's side pulls them."""
    found: list[Delivery] = []
    while not found or isinstance(found[-1].item, RowReported):
        found.append(pull(fleet, number, trial, found[-1].sequence if found else 0))
    fleet.hub.ask(Hub.release, number)
    return found


def updates(found: list[Delivery]) -> list[int]:
    return [one.item.update for one in found if isinstance(one.item, RowReported)]


def end(found: list[Delivery]) -> JobEnded:
    item = found[-1].item
    assert isinstance(item, JobEnded)
    return item


def worker(fleet: Fleet) -> int:
    deadline = time.monotonic() + 60
    while not (pids := fleet.hub.ask(Hub.state).lanes[0].pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return int(pids[0])


def test_a_killed_worker_costs_its_trial_a_retry_with_all_rows(
    fleet: Fleet, tmp_path: Path
) -> None:
    before = worker(fleet)
    items = run(fleet, 60, config(f"die-once:{tmp_path / 'died'}", seed=60))
    assert end(items).status == "complete"
    assert items[-1].attempt == 1
    assert updates(items) == [1, 1, 2, 3], "replayed from the start; the ledger drops twins"
    assert items[0].item == items[1].item
    assert end(items).reason == "adopted labels", (
        "the new process is given what the first one computed"
    )
    assert worker(fleet) != before
    notes = [note for item in items for note in item.notes]
    assert any("lane 0 restarts" in note for note in notes), notes


class ReadsTheDisk:
    """Search and pruner in one: at every word it hears it looks what a power cut would have
    left."""

    def __init__(self, folder: Path, stop: int) -> None:
        self.folder = folder
        self.stop = stop
        self.total = 6
        self.heard: list[str] = []
        self.kept_by_tune: list[int] = []
        """At each question, the ended trials of which Tune has results and statistics."""

    def ask(self, number: int) -> TrialConfig | None:
        self.kept_by_tune.append(sum(map(bool, map(kept, ended_in_tune(number)))))
        if number == 4:
            kill_tune_actors()  # the idle one: Tune resets a dead actor, and gives the trial up
        return config("wait:1" if number == 3 else "ok", seed=number + 200)

    def source(self, number: int) -> str:
        return "planted"

    def verdict(self, record: Record, number: int, row: Row) -> str | None:
        on_disk = read_ledger(self.folder).trials[number]
        assert row["update"] in [known["update"] for known in on_disk.rows], (
            "the pruner heard of a row before the disk"
        )
        self.heard.append(f"row {number}.{row['update']}")
        return "planted verdict" if number == self.stop else None

    def tell(self, trial: Trial) -> None:
        assert read_ledger(self.folder).trials[trial.number].status == trial.status, (
            "told before the disk"
        )
        self.heard.append(f"end {trial.number}")


def ended_in_tune(number: int) -> list[Any]:
    """Tune's ended trials among those that it keeps beside this one."""
    found = [one for one in gc.get_objects() if isinstance(one, TuneTrial)]
    return [one for one in found if one.config["number"] < number and one.is_finished()]


def kept(trial: TuneTrial) -> dict[str, Any]:
    about = trial.run_metadata
    return about.last_result | about.metric_analysis | about.metric_n_steps


class Broken:
    """An observer with a bug."""

    def on_trial(self, trial: Trial) -> None:
        raise OSError("the log disk is full")

    on_row = on_outcome = on_trial


def kill_tune_actors() -> list[int]:
    """All of them; returns when they are gone."""
    victims = [pid for pid in descendants(os.getpid()) if b"ThinTrial" in command(pid)]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    while any(command(pid) for pid in victims):
        time.sleep(0.01)
    return victims


def test_through_tune_rows_are_on_disk_before_anybody_is_told_and_dead_actors_cost_nothing(
    fleet: Fleet, log: Path, tmp_path: Path, tiny_study: StudySpec
) -> None:
    """The order in which Tune tells scheduler and searcher is Tune's own: this fails if a new
    version changes it. Trial 1 is stopped by a verdict. In trial 3 its Tune actor is killed: the
    lane goes on, and the next actor gets the row that waits. Before trial 4 the idle actor is
    killed: Tune gives the trial up, and it is asked again."""
    search = ReadsTheDisk(tmp_path, stop=1)
    killed: list[int] = []

    def kill() -> None:
        while "seed 203 update 1" not in log.read_text():
            time.sleep(0.05)
        killed.extend(kill_tune_actors())

    log.write_text("")
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with Ledger.create(tmp_path, Header(retraining_flops=6.0)) as ledger:
        ledger.append(BaselineMeasured(name="vanilla", metrics=vanilla()))
        recorder = Recorder(tiny_study, ledger, search, search, [Broken()])
        run_trials(recorder, search, fleet, OPERATIONS, NEVER)
        trials = recorder.record.trials
    killer.join(timeout=10)
    assert killed
    statuses = {number: trial.status for number, trial in trials.items()}
    assert statuses == dict.fromkeys(range(6), "complete") | {1: "pruned"}
    assert trials[1].reason == "planted verdict"
    assert [row["update"] for row in trials[1].rows] == [1]
    assert "seed 201 update 2" not in log.read_text(), "the stopped trial went on"
    assert [row["forget_loss"] for row in trials[2].rows] == [20201.0, 20202.0, 20203.0]
    assert (trials[3].attempt, log.read_text().count("seed 203")) == (0, 3), "computed twice"
    assert all([row["update"] for row in trials[n].rows] == [1, 2, 3] for n in (3, 4, 5))
    assert max(search.kept_by_tune) <= 1, "Tune keeps results of all that have ended"
    assert search.heard[:6] == ["row 0.1", "row 0.2", "row 0.3", "end 0", "row 1.1", "end 1"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory"),
        (
            RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            ),
            "out_of_memory",
        ),
        (RuntimeError("shape '[2, 3]' is invalid for input of size 5"), "failed"),
        (ValueError("out of memory of this word"), "failed"),
    ],
)
def test_only_a_lack_of_memory_is_called_out_of_memory(error: Exception, status: str) -> None:
    assert classify(error)[0] == status


def test_a_broken_collective_does_not_say_whether_a_process_or_a_node_died() -> None:
    """The words are gloo's. Ray Train passes on a text of it."""
    broken = (
        "[/__w/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:544] "
        "Connection closed by peer [192.0.2.2]:57"
    )
    assert died_with_node(RuntimeError(broken)) == "unknown"
    assert died_with_node(RuntimeError("shape '[2, 3]' is invalid for input of size 5")) == ""


def test_the_line_of_a_remote_error_that_says_what_went_wrong() -> None:
    assert (
        summary(RuntimeError("Traceback:\n  File x\nValueError: no luck\n"))
        == "RuntimeError: ValueError: no luck"
    )
    assert summary(KeyError()) == "KeyError"


def test_a_killed_controller_is_told_in_a_sentence() -> None:
    """It was ten lines of Ray's, in which the reader was told to look for OOM three times."""
    context = ActorDiedErrorContext(
        class_name="TrainController",
        actor_id=b"\1" * 16,
        pid=9287,
        error_message="The actor is dead because its worker process has died. Worker exit type: "
        "SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a connection error code "
        "2. End of file. Some common causes include: (1) the process was killed by the OOM killer",
    )
    said = end_of_controller(ray.exceptions.ActorDiedError(context))
    assert said.startswith("its controller (pid 9287) was killed, or memory ran out")
    assert "\n" not in said
    by_node = ActorDiedErrorContext(error_message="The actor died because its node has died.")
    by_node.actor_id = b"\1" * 16
    assert "its node has died" in end_of_controller(ray.exceptions.ActorDiedError(by_node))
    assert end_of_controller(ValueError("no luck\n")) == "no luck"
    assert end_of_controller(KeyError()) == "KeyError"


def test_the_private_hook_that_saves_two_actors_per_lane_is_still_there() -> None:
    """Without it lanes still run, but each costs 240 MB and seconds more: then `training.Trainer`
    wants another way."""
    assert callable(TorchTrainer._create_default_callbacks)


# -- the last tests have fleets of their own: they need the machine that the shared one holds ------


@pytest.mark.slow
def test_a_lane_that_cannot_start_ends_the_study_with_the_workers_words(
    ray_here: None, tmp_path: Path
) -> None:
    with (
        pytest.raises(LaneError, match=r"failed to start 3 times.*not_on_this_worker"),
        Fleet(Operations(lanes=1), OpenStandIn(tmp_path / "log", fails=True)) as broken,
    ):
        first_job(broken.hub, True, NEVER)


def test_two_workers_an_error_or_the_death_of_one_does_not_hang_the_other(
    ray_here: None, tmp_path: Path
) -> None:
    """Rank 0 waits in a collective that rank 1 never joins: the trial ends at once, and the group
    is restarted."""
    operations = Operations(lanes=1, workers_per_lane=2, cpus_per_worker=0.5)
    with Fleet(operations, OpenStandIn(tmp_path / "log")) as pair:
        assert first_job(pair.hub, False, NEVER) is not None
        assert end(run(pair, 0, config())).status == "complete"
        ended = end(run(pair, 1, config("raise-on-rank-1")))
        assert ended == JobEnded("failed", "ValueError: rank 1 only")
        assert end(run(pair, 2, config())).status == "complete"
        # Rank 0 hears of a dead peer before Ray does, as a broken collective: no fault of the
        # trial.
        items = run(pair, 3, config(f"die-on-rank-1-once:{tmp_path / 'died'}"))
        assert (end(items).status, items[-1].attempt) == ("complete", 1), items[-1]


@pytest.mark.slow
def test_a_hung_trial_is_killed_by_the_watchdog_and_runs_again(
    ray_here: None, tmp_path: Path
) -> None:
    """A sleeping training thread, and a process that hears no signal but the last: Ray Train
    notices neither."""
    operations = Operations(lanes=1, max_retries=1, stall_timeout_s=3.0)
    with Fleet(operations, OpenStandIn(tmp_path / "log")) as watched:
        assert first_job(watched.hub, False, NEVER) is not None
        for number, behaviour in enumerate(("hang-once", "stop-once")):
            items = run(watched, number, config(f"{behaviour}:{tmp_path / behaviour}"))
            assert (end(items).status, items[-1].attempt) == ("complete", 1)
            notes = [note for item in items for note in item.notes]
            assert any(
                "no sign of life for 3 s (operations.stall_timeout_s)" in note for note in notes
            ), notes
        time.sleep(4)
        assert run(watched, 2, config())[-1].attempt == 0, "an idle lane gives signs of life"


@pytest.mark.slow
def test_a_killed_train_controller_costs_its_trial_a_retry_and_not_the_lane(
    ray_here: None, tmp_path: Path
) -> None:
    with Fleet(Operations(lanes=1, max_retries=1), OpenStandIn(tmp_path / "log")) as orphaned:
        assert first_job(orphaned.hub, False, NEVER) is not None
        first = pull(orphaned, 0, config("wait:0.5"))
        controllers = [
            pid for pid in descendants(os.getpid()) if b"TrainController" in command(pid)
        ]
        newest = max(controllers, key=lambda pid: int(descendants(os.getpid())[pid]))
        os.kill(newest, signal.SIGKILL)
        second = pull(orphaned, 0, config("wait:0.5"), first.sequence)
        assert second.attempt == 1
        orphaned.hub.ask(Hub.release, 0)
        assert end(run(orphaned, 1, config())).status == "complete"
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, (
            "the dead controller's placement group still holds its CPU"
        )
        time.sleep(0.2)


def command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""

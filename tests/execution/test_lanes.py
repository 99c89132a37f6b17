"""Lanes over a stand-in world: what becomes of a trial, its rows and its neighbours when something
goes wrong."""

import contextlib
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
from ray.train.torch import TorchTrainer
from worlds import NLL, OpenStandIn, config

from ray_unlearn.execution.cluster import died_with_node
from ray_unlearn.execution.interrupt import Interrupt
from ray_unlearn.execution.lane import classify
from ray_unlearn.execution.lanes import Fleet, LaneError, summary
from ray_unlearn.execution.recorder import Recorder
from ray_unlearn.execution.tune import run_trials
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.operations import Operations
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.event import BaselineMeasured, Event, Header, TrialEnded
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.schema import Row

NEVER = Interrupt(print)
Item = dict[str, Any]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("world") / "log"


@pytest.fixture(scope="module")
def fleet(ray_here: None, log: Path) -> Iterator[Fleet]:
    """One lane of one worker for all tests here: each test is also a test that the one before left
    it clean."""
    with Fleet(Operations(lanes=1, max_retries=1), OpenStandIn(log)) as fleet:
        first = fleet.first_job(baselines=True, interrupt=NEVER)
        assert first is not None
        assert first["result"]["rows"]["vanilla"]["update"] == 0
        yield fleet


def vanilla() -> Row:
    return NLL | {"update": 0}


def pull(fleet: Fleet, number: int, trial: TrialConfig, handled: int = 0) -> Item:
    payload = {"kind": "trial", "config": trial.model_dump(mode="json"), "known": []}
    item: Item = ray.get(fleet.hub.pull.remote(number, handled, payload), timeout=120)
    return item


def run(fleet: Fleet, number: int, trial: TrialConfig) -> list[Item]:
    """All items of a trial, the way Tune's side pulls them."""
    items: list[Item] = []
    while not items or items[-1]["kind"] == "row":
        items.append(pull(fleet, number, trial, items[-1]["sequence"] if items else 0))
    fleet.release(number)
    return items


def worker(fleet: Fleet) -> int:
    deadline = time.monotonic() + 60
    while not (pids := ray.get(fleet.hub.state.remote())["lanes"][0]["pids"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return int(pids[0])


def test_a_trial_gives_its_rows_in_order_and_then_its_end(fleet: Fleet) -> None:
    items = run(fleet, 0, config(seed=1))
    assert [item.get("update") for item in items] == [1, 2, 3, None]
    assert items[-1]["status"] == "complete"
    assert items[-1]["reason"] == "adopted None", (
        "the lane that computed what is shared has it already"
    )
    assert {item["attempt"] for item in items} == {0}


def test_a_warm_lane_costs_a_trial_milliseconds(fleet: Fleet) -> None:
    run(fleet, 0, config())
    start = time.monotonic()
    for number in range(1, 11):
        run(fleet, number, config())
    assert (time.monotonic() - start) / 10 < 0.5


def test_a_row_waits_for_its_verdict(fleet: Fleet, log: Path) -> None:
    """Otherwise early stopping overruns, and an update is computed from a row that is not yet on
    disk."""
    item = pull(fleet, 20, config(seed=20))
    time.sleep(0.3)
    assert "seed 20 update 1" in log.read_text()
    assert "seed 20 update 2" not in log.read_text()
    again = pull(fleet, 20, config(seed=20))
    assert again["update"] == item["update"] == 1, (
        "a Tune actor that died and came back gets the same row"
    )
    fleet.release(20)


def test_a_released_trial_is_dropped_at_its_row_and_the_next_is_unaffected(
    fleet: Fleet, log: Path
) -> None:
    pull(fleet, 30, config(seed=30, steps=50))
    fleet.release(30)
    start = time.monotonic()
    items = run(fleet, 31, config(seed=31))
    assert time.monotonic() - start < 5
    assert [item["metrics"]["forget_loss"] for item in items[:-1]] == [3101.0, 3102.0, 3103.0]
    assert "seed 30 update 2" not in log.read_text()


def test_an_exception_is_the_outcome_of_its_trial_and_not_of_the_lane(fleet: Fleet) -> None:
    before = worker(fleet)
    items = run(fleet, 40, config("raise"))
    assert [item.get("update") for item in items] == [1, None], "rows before the failure are kept"
    assert (items[-1]["status"], items[-1]["reason"]) == ("failed", "ValueError: no such luck")
    assert run(fleet, 41, config())[-1]["status"] == "complete"
    assert worker(fleet) == before, "no restart for a trial's own error"


def test_out_of_memory_has_its_own_outcome_and_a_hint(fleet: Fleet) -> None:
    end = run(fleet, 50, config("memory"))[-1]
    assert end["status"] == "out_of_memory"
    assert "micro_batch_size" in end["reason"]
    assert run(fleet, 51, config())[-1]["status"] == "complete"


def test_a_killed_worker_costs_its_trial_a_retry_with_all_rows(
    fleet: Fleet, tmp_path: Path
) -> None:
    before = worker(fleet)
    items = run(fleet, 60, config(f"die-once:{tmp_path / 'died'}", seed=60))
    assert items[-1]["status"] == "complete"
    assert items[-1]["attempt"] == 1
    assert [item.get("update") for item in items] == [1, 1, 2, 3, None], (
        "replayed from the start; the ledger drops twins"
    )
    assert items[0]["metrics"] == items[1]["metrics"]
    assert items[-1]["reason"] == "adopted labels", (
        "the new process is given what the first one computed"
    )
    assert worker(fleet) != before
    notes = [note for item in items for note in item["notes"]]
    assert any("lane 0 restarts" in note for note in notes), notes


def test_a_worker_killed_from_outside_between_two_rows(fleet: Fleet) -> None:
    first = pull(fleet, 65, config(seed=65))
    os.kill(worker(fleet), signal.SIGKILL)
    second = pull(fleet, 65, config(seed=65), first["sequence"])
    assert (second["update"], second["attempt"]) == (1, 1)
    assert second["metrics"] == first["metrics"]
    fleet.release(65)


def test_a_trial_that_kills_its_worker_every_time_fails_and_the_next_one_runs(fleet: Fleet) -> None:
    items = run(fleet, 70, config("die"))
    assert items[-1]["status"] == "failed"
    assert "worker died or hung 2 times" in items[-1]["reason"]
    assert run(fleet, 71, config())[-1]["status"] == "complete"


def test_a_killed_tune_actor_costs_its_trial_nothing(
    fleet: Fleet, log: Path, tmp_path: Path, tiny_study: StudySpec
) -> None:
    """The lane goes on, and the actor that replaces it gets the row that waits."""
    search = ReadsTheDisk(tmp_path, stop=-1)
    search.behaviour = "wait:1.5"
    search.total = 1
    victims: list[int] = []

    def kill() -> None:
        while "seed 200 update 1" not in log.read_text():
            time.sleep(0.05)
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if b"ThinTrial" in path.read_bytes() and int(path.parent.name) in descendants(
                    os.getpid()
                ):
                    victims.append(int(path.parent.name))
                    os.kill(victims[-1], signal.SIGKILL)

    log.write_text("")
    killer = threading.Thread(target=kill)
    killer.start()
    with Ledger.create(tmp_path, Header(retraining_flops=0.0)) as ledger:
        ledger.append(BaselineMeasured("vanilla", vanilla()))
        recorder = Recorder(tiny_study, ledger, search, search)
        run_trials(recorder, search, fleet, 1, NEVER)
        trial = recorder.record.trials[0]
    killer.join()
    assert victims
    assert (trial.status, trial.attempt) == ("complete", 0)
    assert [row["update"] for row in trial.rows] == [1, 2, 3]
    assert log.read_text().count("seed 200") == 3, "no update was computed twice"


class ReadsTheDisk:
    """Search and pruner in one: at every word it hears it looks what a power cut would have
    left."""

    def __init__(self, folder: Path, stop: int) -> None:
        self.folder = folder
        self.stop = stop
        self.total = 4
        self.behaviour = "ok"
        self.heard: list[str] = []

    def ask(self, number: int) -> TrialConfig | None:
        return config(self.behaviour, seed=number + 200)

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


class Broken:
    """An observer with a bug."""

    def on_trial(self, trial: Trial) -> None:
        raise OSError("the log disk is full")

    on_row = on_outcome = on_trial


class KillsTuneActors(ReadsTheDisk):
    """Kills Tune's idle actor whenever a trial is asked for: Tune then resets a dead one, and gives
    the trial up at once."""

    def ask(self, number: int) -> TrialConfig | None:
        for pid in descendants(os.getpid()):
            if b"ThinTrial" in command(pid):
                os.kill(pid, signal.SIGKILL)
                while command(pid):
                    time.sleep(0.01)
        return config(seed=number + 900)


def test_trials_that_tune_gives_up_for_a_dead_actor_are_asked_again(
    fleet: Fleet, tmp_path: Path, tiny_study: StudySpec
) -> None:
    search = KillsTuneActors(tmp_path, stop=-1)
    with Ledger.create(tmp_path, Header(retraining_flops=0.0)) as ledger:
        ledger.append(BaselineMeasured("vanilla", vanilla()))
        recorder = Recorder(tiny_study, ledger, search, search)
        run_trials(recorder, search, fleet, 1, NEVER)
        trials = recorder.record.trials
    assert {number: trial.status for number, trial in trials.items()} == dict.fromkeys(
        range(4), "complete"
    )
    assert all([row["update"] for row in trial.rows] == [1, 2, 3] for trial in trials.values())


def test_through_tune_rows_are_on_disk_before_anybody_hears_and_a_verdict_stops_its_trial_only(
    fleet: Fleet, log: Path, tmp_path: Path, tiny_study: StudySpec
) -> None:
    """The order in which Tune tells scheduler and searcher is Tune's own: this fails if a new
    version changes it."""
    search = ReadsTheDisk(tmp_path, stop=1)
    with Ledger.create(tmp_path, Header(retraining_flops=6.0)) as ledger:
        ledger.append(BaselineMeasured("vanilla", vanilla()))
        recorder = Recorder(tiny_study, ledger, search, search, [Broken()])
        run_trials(recorder, search, fleet, 1, NEVER)
        trials = recorder.record.trials
    assert {n: t.status for n, t in trials.items()} == {
        0: "complete",
        1: "pruned",
        2: "complete",
        3: "complete",
    }
    assert trials[1].reason == "planted verdict"
    assert [row["update"] for row in trials[1].rows] == [1]
    assert "seed 201 update 2" not in log.read_text(), "the stopped trial went on"
    assert [row["forget_loss"] for row in trials[2].rows] == [20201.0, 20202.0, 20203.0]
    rest = ["row 2.1", "row 2.2", "row 2.3", "end 2", "row 3.1", "row 3.2", "row 3.3", "end 3"]
    assert search.heard == ["row 0.1", "row 0.2", "row 0.3", "end 0", "row 1.1", "end 1", *rest]


def test_a_ledger_that_cannot_be_written_ends_the_study_with_that_error(
    fleet: Fleet, tmp_path: Path, tiny_study: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune would call it a failed trial and try the next."""
    search = ReadsTheDisk(tmp_path, stop=-1)
    with Ledger.create(tmp_path, Header(retraining_flops=0.0)) as ledger:
        ledger.append(BaselineMeasured("vanilla", vanilla()))
        recorder = Recorder(tiny_study, ledger, search, search)
        write = ledger._write

        def full_disk(event: Event, time: str) -> bytes:
            if isinstance(event, TrialEnded):
                raise StorageError("no space left on device")
            return write(event, time)

        monkeypatch.setattr(ledger, "_write", full_disk)
        with pytest.raises(StorageError, match="no space left"):
            run_trials(recorder, search, fleet, 1, NEVER)
    assert read_ledger(tmp_path).trials[0].status is None


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
    broken = "[/__w/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection closed by peer [192.0.2.2]:57"
    assert died_with_node(RuntimeError(broken)) == "unknown"
    assert died_with_node(RuntimeError("shape '[2, 3]' is invalid for input of size 5")) == ""


def test_the_line_of_a_remote_error_that_says_what_went_wrong() -> None:
    assert (
        summary(RuntimeError("Traceback:\n  File x\nValueError: no luck\n"))
        == "RuntimeError: ValueError: no luck"
    )
    assert summary(KeyError()) == "KeyError"


def test_the_private_hook_that_saves_two_actors_per_lane_is_still_there() -> None:
    """Without it lanes still run, but each costs 240 MB and seconds more: then `training.Trainer`
    wants another way."""
    assert callable(TorchTrainer._create_default_callbacks)


# -- the last tests have fleets of their own: they need the machine that the shared one holds ------


def test_a_lane_that_cannot_start_ends_the_study_with_the_workers_words(
    ray_here: None, tmp_path: Path
) -> None:
    with (
        pytest.raises(LaneError, match=r"failed to start 3 times.*not_on_this_worker"),
        Fleet(Operations(lanes=1), OpenStandIn(tmp_path / "log", fails=True)) as broken,
    ):
        broken.first_job(baselines=True, interrupt=NEVER)


def test_two_workers_an_error_or_the_death_of_one_does_not_hang_the_other(
    ray_here: None, tmp_path: Path
) -> None:
    """Rank 0 waits in a collective that rank 1 never joins: the trial ends at once, and the group
    is restarted."""
    operations = Operations(lanes=1, workers_per_lane=2, cpus_per_worker=0.5)
    with Fleet(operations, OpenStandIn(tmp_path / "log")) as pair:
        assert pair.first_job(baselines=False, interrupt=NEVER) is not None
        assert run(pair, 0, config())[-1]["status"] == "complete"
        end = run(pair, 1, config("raise-on-rank-1"))[-1]
        assert (end["status"], end["reason"]) == ("failed", "ValueError: rank 1 only")
        assert run(pair, 2, config())[-1]["status"] == "complete"
        # Rank 0 hears of a dead peer before Ray does, as a broken collective: no fault of the
        # trial.
        items = run(pair, 3, config(f"die-on-rank-1-once:{tmp_path / 'died'}"))
        assert (items[-1]["status"], items[-1]["attempt"]) == ("complete", 1), items[-1]


def test_a_hung_trial_is_killed_by_the_watchdog_and_runs_again(
    ray_here: None, tmp_path: Path
) -> None:
    """A sleeping training thread, and a process that hears no signal but the last: Ray Train
    notices neither."""
    operations = Operations(lanes=1, max_retries=1, stall_timeout_s=3.0)
    with Fleet(operations, OpenStandIn(tmp_path / "log")) as watched:
        assert watched.first_job(baselines=False, interrupt=NEVER) is not None
        for number, behaviour in enumerate(("hang-once", "stop-once")):
            items = run(watched, number, config(f"{behaviour}:{tmp_path / behaviour}"))
            assert (items[-1]["status"], items[-1]["attempt"]) == ("complete", 1)
            notes = [note for item in items for note in item["notes"]]
            assert any(
                "no sign of life for 3 s (operations.stall_timeout_s)" in note for note in notes
            ), notes
        time.sleep(4)
        assert run(watched, 2, config())[-1]["attempt"] == 0, "an idle lane gives signs of life"


def test_a_killed_train_controller_costs_its_trial_a_retry_and_not_the_lane(
    ray_here: None, tmp_path: Path
) -> None:
    with Fleet(Operations(lanes=1, max_retries=1), OpenStandIn(tmp_path / "log")) as orphaned:
        assert orphaned.first_job(baselines=False, interrupt=NEVER) is not None
        first = pull(orphaned, 0, config("wait:0.5"))
        controllers = [
            pid for pid in descendants(os.getpid()) if b"TrainController" in command(pid)
        ]
        newest = max(controllers, key=lambda pid: int(descendants(os.getpid())[pid]))
        os.kill(newest, signal.SIGKILL)
        second = pull(orphaned, 0, config("wait:0.5"), first["sequence"])
        assert second["attempt"] == 1
        orphaned.release(0)
        assert run(orphaned, 1, config())[-1]["status"] == "complete"
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

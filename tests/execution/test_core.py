"""The core of a study in one process: real search, early stopping, hub, lanes, recorder, ledger and
resume, under faults. If these fail, a study loses trials, rows or weights, or stops for ever.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_process import (
    VANILLA,
    InProcess,
    Session,
    SimulatedNode,
    calibrated,
    small_study,
    surface,
)

from ray_unlearn.execution.conductor import LaneError
from ray_unlearn.execution.hub import Hub
from ray_unlearn.execution.lane import RunningTrial
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.event import Event, TrialEnded
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.record import Record
from ray_unlearn.store.schema import is_as_trained, row_key
from ray_unlearn.store.score import ScoreRule
from ray_unlearn.store.verify import verify


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory, where there is one: every event of a ledger waits for the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def rows(record: Record) -> dict[int, list[dict[str, Any]]]:
    return {n: [dict(row.items()) for row in t.rows] for n, t in sorted(record.trials.items())}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The small study without any fault, on one lane."""
    simulated = InProcess(tmp_path_factory.mktemp("undisturbed") / "study")
    simulated.session()
    return checked(simulated)


def checked(simulated: InProcess, complete: bool = True, killed: bool = False) -> Record:
    """The record as it is on disk, when all that must always hold does.

    Args:
        simulated: the study.
        complete: all trials must have an outcome.
        killed: the driver was: the word of the best weights may not have arrived, and files may be
            left over.
    """
    record = read_ledger(simulated.folder / "ledger")
    for trial in record.trials.values():
        keys = [row_key(row) for row in trial.rows]
        assert len(keys) == len(set(keys)), f"trial {trial.number} has a row twice"
        config = TrialConfig.model_validate(trial.config)
        for row in trial.rows:
            expected = surface if is_as_trained(row) else calibrated
            assert row["forget_nll"] == expected(config, row["update"])["forget_nll"]
    if complete:
        assert [trial.number for trial in record.finished] == list(range(12))
    recorded = record.best_weights
    if recorded is not None:
        best = ScoreRule.of(record, simulated.spec).row_to_keep(record)
        assert best is not None
        if not killed:
            kept_key = (recorded.update, recorded.strength)
            assert (recorded.number, kept_key) == (best[0].number, row_key(best[1]))
        path = simulated.storage.path(recorded.file)
        assert path.read_text() == f"{recorded.number} {recorded.update} {recorded.strength}"
    unfinished = {f"{t.number:04d}" for t in record.trials.values() if t.status is None}
    for file in () if killed else simulated.storage.files("trials"):
        kept = recorded is not None and file.name == recorded.file
        assert kept or file.name.split("/")[1] in unfinished, f"{file.name} is left over"
    problems = verify(simulated.folder).problems
    forgiven = ("I5", "I6") if killed else ("I5",)  # the files hold no weights; left over
    assert [problem for problem in problems if not problem.startswith(forgiven)] == []
    return record


# -- without faults --------------------------------------------------------------------------------


def test_a_study_runs_all_its_trials_and_keeps_the_best_weights(undisturbed: Record) -> None:
    statuses = [trial.status for trial in undisturbed.finished]
    assert {"complete", "diverged"} == set(statuses)
    assert undisturbed.best_weights is not None
    assert undisturbed.baselines["vanilla"]["forget_nll"] == VANILLA["forget_nll"]


@pytest.mark.parametrize("lanes", [2, 5])
def test_several_lanes_give_the_rows_of_one(
    lanes: int, undisturbed: Record, tmp_path: Path
) -> None:
    simulated = InProcess(tmp_path / "study", seed=lanes).with_operations(lanes=lanes)
    session = simulated.session()
    assert rows(checked(simulated)) == rows(undisturbed)
    assert {worker.name for worker in session.scheduler.processes if "worker" in worker.name} == {
        f"worker {lane}" for lane in range(lanes)
    }


@pytest.mark.parametrize("scheduler", ["asha", "median", "past_best"])
def test_a_trial_is_stopped_at_the_row_that_decides_it_and_not_an_update_later(
    scheduler: str, tmp_path: Path
) -> None:
    """Otherwise early stopping overruns, and updates are computed from rows not yet on disk."""
    rule = {"type": scheduler, "grace_updates": 1, "reduction_factor": 2}
    spec = small_study(scheduler=rule)
    simulated = InProcess(tmp_path / "study", spec).with_operations(lanes=2)
    simulated.session()
    record = checked(simulated)
    pruned = [trial for trial in record.finished if trial.status == "pruned"]
    assert pruned or scheduler != "asha"
    for trial in pruned:
        computed = max(update for number, update in simulated.updates if number == trial.number)
        assert computed == max(row["update"] for row in trial.rows)


def test_the_same_seed_gives_the_same_study_to_the_last_event(tmp_path: Path) -> None:
    """A failure can be replayed."""
    told = []
    for name in ("one", "two"):
        simulated = InProcess(tmp_path / name, seed=7, late=0.05).with_operations(lanes=3)
        session = simulated.session()
        messages = session.scheduler.messages
        lines = (simulated.folder / "ledger" / "events.jsonl").read_text().splitlines()
        told.append((messages, session.environment.monotonic(), len(lines), simulated.updates))
    assert told[0] == told[1]


# -- faults of trials ------------------------------------------------------------------------------


def at(number: int, update: int, happens: Any) -> Any:
    """Trouble at one update of one trial."""

    def trouble(config: TrialConfig, now: int, running: RunningTrial) -> None:
        if (running.number, now) == (number, update):
            happens()

    return trouble


def test_an_exception_is_the_outcome_of_its_trial_and_not_of_the_lane(tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("no such luck")

    simulated = InProcess(tmp_path / "study", trouble=at(3, 2, fail))
    session = simulated.session()
    record = checked(simulated)
    assert (record.trials[3].status, record.trials[3].reason) == (
        "failed",
        "ValueError: no such luck",
    )
    assert [row["update"] for row in record.trials[3].rows] == [1], "rows before it are kept"
    assert sum(process.name == "worker 0" for process in session.scheduler.processes) == 1


def test_out_of_memory_has_its_own_outcome_and_a_hint(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    simulated = InProcess(tmp_path / "study", trouble=at(3, 2, fail))
    simulated.session()
    trial = checked(simulated).trials[3]
    assert trial.status == "out_of_memory"
    assert "micro_batch_size" in trial.reason


def test_what_a_lane_says_of_its_model_stands_in_the_record(undisturbed: Record) -> None:
    """An estimated cost, or a layout that the model does not allow, is marked as such."""
    assert undisturbed.notes == ["FLOPs of updates are estimated"]


@pytest.mark.parametrize("update", [1, 2, 3, 9])
def test_a_killed_worker_costs_its_trial_a_retry_and_changes_no_row(
    update: int, undisturbed: Record, tmp_path: Path
) -> None:
    def kill(session: Session) -> None:
        session.until(session.at(0, update))
        session.workers[0].kill()

    simulated = InProcess(tmp_path / "study")
    simulated.session(kill)
    record = checked(simulated)
    assert rows(record) == rows(undisturbed)
    assert record.trials[0].attempt == 1
    assert "lane 0 restarts: killed" in record.notes


def test_a_trial_that_kills_its_worker_every_time_fails_and_the_others_run(tmp_path: Path) -> None:
    simulated = InProcess(tmp_path / "study").with_operations(lanes=2, max_retries=1)
    kills: list[int] = []

    def kill(session: Session) -> None:
        while len(kills) < 2:
            lane = session.until(lambda: session.lane_of(4) is not None and session.lane_of(4) + 1)
            session.workers[lane - 1].kill()
            kills.append(lane)
            session.environment.sleep(1.0)

    simulated.session(kill)
    record = checked(simulated)
    assert record.trials[4].status == "failed"
    assert "worker died or hung 2 times" in record.trials[4].reason
    assert sum(trial.status == "failed" for trial in record.finished) == 1


def test_a_hung_lane_is_killed_and_its_trial_runs_again(
    undisturbed: Record, tmp_path: Path
) -> None:
    def hang(session: Session) -> None:
        session.until(session.at(2, 3))
        session.workers[0].hung = True

    simulated = InProcess(tmp_path / "study").with_operations(stall_timeout_s=60.0)
    simulated.session(hang)
    record = checked(simulated)
    assert rows(record) == rows(undisturbed)
    assert record.trials[2].attempt == 1
    assert any("no sign of life for 60 s" in note for note in record.notes)


def test_an_idle_lane_and_a_long_trial_give_signs_of_life(tmp_path: Path) -> None:
    simulated = InProcess(tmp_path / "study").with_operations(lanes=12, stall_timeout_s=25.0)
    simulated.session(lambda session: session.until(lambda: session.environment.monotonic() > 12))
    assert all(trial.attempt == 0 for trial in checked(simulated).finished)


def test_a_lane_that_cannot_start_ends_the_study_with_the_reason(tmp_path: Path) -> None:
    simulated = InProcess(tmp_path / "study", opens=False)
    with pytest.raises(LaneError, match=r"failed to start 3 times.*not_on_this_worker"):
        simulated.session()


# -- faults of the cluster -------------------------------------------------------------------------


def test_a_trial_on_a_node_that_is_drained_goes_on_elsewhere_from_a_checkpoint(
    undisturbed: Record, tmp_path: Path
) -> None:
    """`max_retries` is 0: a trial whose fault this were would have failed."""

    def drain(session: Session) -> None:
        session.nodes.append(SimulatedNode("node-1", 1))
        session.until(session.at(2, 2))
        node = next(n for n in session.nodes if session.lane_at(n) == session.lane_of(2))
        node.leaves_at = session.environment.time() + 60.0

    simulated = InProcess(tmp_path / "study").with_operations(lanes="auto", max_retries=0)
    simulated.session(drain)
    record = checked(simulated)
    assert rows(record) == rows(undisturbed)
    assert any("is being drained" in note for note in record.notes)
    assert any("trial 2 goes on from its checkpoint" in note for note in record.notes)
    assert len(simulated.updates) == len(set(simulated.updates)), "an update was made twice"


def test_a_lost_node_is_not_held_against_its_trial(undisturbed: Record, tmp_path: Path) -> None:
    def lose(session: Session) -> None:
        session.nodes.append(SimulatedNode("node-1", 1))
        session.until(session.at(2, 2))
        session.lose(next(n for n in session.nodes if session.lane_at(n) == session.lane_of(2)))

    simulated = InProcess(tmp_path / "study").with_operations(lanes="auto", max_retries=0)
    simulated.session(lose)
    assert rows(checked(simulated)) == rows(undisturbed)


def test_lanes_follow_nodes_that_join_and_one_without_room_says_why(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def join(session: Session) -> None:
        session.until(session.at(0, 1))
        seen.append([lane.shown for lane in session.hub._lanes])
        session.until(lambda: any("lane 1 waits for 1 worker(s)" in x for x in simulated.said))
        session.nodes.append(SimulatedNode("node-1", 1))
        session.until(lambda: len(session.workers) == 2)

    simulated = InProcess(tmp_path / "study", room=1).with_operations(lanes=2)
    simulated.session(join)
    checked(simulated)
    assert seen == [["busy", "pending"]]
    assert sum("lane 1 waits" in text for text in simulated.said) == 1


def test_a_dead_controller_costs_its_trial_a_retry_and_not_the_lane(
    undisturbed: Record, tmp_path: Path
) -> None:
    def kill(session: Session) -> None:
        session.until(session.at(1, 2))
        session.end(0)

    simulated = InProcess(tmp_path / "study")
    simulated.session(kill)
    record = checked(simulated)
    assert rows(record) == rows(undisturbed)
    assert any("starts anew" in note for note in record.notes)


# -- the driver and Tune ---------------------------------------------------------------------------


@pytest.mark.parametrize("update", [1, 3, 9])
def test_a_killed_driver_loses_nothing_and_its_study_is_resumed(
    update: int, undisturbed: Record, tmp_path: Path
) -> None:
    def kill(session: Session) -> None:
        session.until(session.at(5, update))
        session.driver.kill()

    simulated = InProcess(tmp_path / "study")
    simulated.session(kill)
    before = rows(checked(simulated, complete=False, killed=True))
    simulated.session()
    after = checked(simulated)
    assert rows(after) == rows(undisturbed)
    assert all(
        after_rows[: len(before.get(n, []))] == before.get(n, [])
        for n, after_rows in rows(after).items()
    )


def test_a_killed_driver_changes_no_choice_and_no_verdict_of_the_surfaces(tmp_path: Path) -> None:
    """What a search and its early stopping know is in the ledger, whole."""
    spec = small_study(
        sampler="surface", quasi_random_share=0.0, scheduler={"type": "forecast"}, seed=1
    )

    def kill(session: Session) -> None:
        session.until(session.at(9, 1))
        session.driver.kill()

    whole = InProcess(tmp_path / "whole", spec)
    whole.session()
    expected = checked(whole)
    assert sum(trial.source == "surface" for trial in expected.trials.values()) >= 4
    assert any(trial.reason.startswith("forecast") for trial in expected.finished)
    again = InProcess(tmp_path / "again", spec)
    again.session(kill)
    again.session()
    found = checked(again)
    assert rows(found) == rows(expected)
    assert [t.reason for t in found.finished] == [t.reason for t in expected.finished]


def test_an_interrupt_leaves_checkpoints_and_the_resumed_study_goes_on_from_them(
    undisturbed: Record, tmp_path: Path
) -> None:
    before: list[tuple[int, int]] = []

    def stop(session: Session) -> None:
        session.until(session.at(4, 5))
        before.extend(simulated.updates)
        session.interrupt.request()

    simulated = InProcess(tmp_path / "study").with_operations(lanes=2, grace_s=30.0)
    session = simulated.session(stop)
    assert session.interrupted
    stopped = [t.number for t in checked(simulated, complete=False).trials.values() if not t.status]
    computed = list(simulated.updates)
    assert {number for number, _ in computed} & set(stopped)
    simulated.session()
    record = checked(simulated)
    assert rows(record) == rows(undisturbed)
    for number in {number for number, _ in computed} & set(stopped):
        assert any(f"trial {number} goes on from its checkpoint" in note for note in record.notes)
    again = [update for update in before if simulated.updates.count(update) > 1]
    assert again == [], "what had been done when the study was asked to stop was done again"


def test_without_checkpoints_an_interrupt_waits_for_nothing(tmp_path: Path) -> None:
    asked: list[float] = []

    def stop(session: Session) -> None:
        session.until(session.at(4, 5))
        asked.append(session.environment.monotonic())
        session.interrupt.request()

    operations = {"lanes": 2, "grace_s": 1000.0, "checkpoint_every_s": None}
    simulated = InProcess(tmp_path / "study").with_operations(**operations)
    session = simulated.session(stop)
    assert session.stopped_at - asked[0] < 5.0


def test_a_dead_tune_actor_costs_its_trial_nothing(undisturbed: Record, tmp_path: Path) -> None:
    """Its call may still be on the way when the next one asks from the beginning."""

    def kill(session: Session) -> None:
        for number in (0, 3, 5):
            session.until(lambda number=number: number in session.pulls and session.at(number, 2)())
            session.kill_tune_actor(number)

    simulated = InProcess(tmp_path / "study", late=0.2).with_operations(lanes=2)
    simulated.session(kill)
    record = checked(simulated)
    assert rows(record) == rows(undisturbed)
    assert all(trial.attempt == 0 for trial in record.finished)
    assert len(simulated.updates) == len(set(simulated.updates))


@pytest.mark.parametrize("times", [1, 4])
def test_a_trial_that_tune_gives_up_is_asked_again_but_not_for_ever(
    times: int, tmp_path: Path
) -> None:
    """When it fails, its lane must be freed: it would wait for the trial's verdict for ever."""

    def give_up(session: Session) -> None:
        for _ in range(times):
            session.until(lambda: 2 in session.pulls)
            session.tune_gives_up(2)
            session.environment.sleep(0.2)

    simulated = InProcess(tmp_path / "study")
    simulated.session(give_up)
    record = checked(simulated)
    assert (record.trials[2].status == "failed") == (times == 4)
    assert sum(trial.status == "failed" for trial in record.finished) == (times == 4)


def test_a_dead_hub_fails_no_trial(tmp_path: Path) -> None:
    def kill(session: Session) -> None:
        session.until(session.at(2, 2))
        session.line.dead = True
        session.tune_gives_up(2)

    simulated = InProcess(tmp_path / "study")
    session = simulated.session(kill)
    assert session.fatal == "the hub actor died"
    trials = checked(simulated, complete=False, killed=True).trials
    assert all(trial.status != "failed" for trial in trials.values())


def test_a_ledger_that_cannot_be_written_ends_the_study_with_that_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune would call it a failed trial and try the next."""
    append = Ledger.append

    def full_disk(self: Ledger, event: Event) -> None:
        if isinstance(event, TrialEnded):
            raise StorageError("no space left on device")
        append(self, event)

    monkeypatch.setattr(Ledger, "append", full_disk)
    simulated = InProcess(tmp_path / "study")
    with pytest.raises(StorageError, match="no space left"):
        simulated.session()
    assert read_ledger(simulated.folder / "ledger").trials[0].status is None


# -- late words ------------------------------------------------------------------------------------


def test_a_late_word_of_former_best_weights_does_not_replace_the_newer_ones(
    undisturbed: Record, tmp_path: Path
) -> None:
    """Fault 8: the disk held the weights of one trial, status and report named another."""
    simulated = InProcess(tmp_path / "study").with_operations(lanes=4)
    best = ScoreRule.of(undisturbed, simulated.spec).best(undisturbed)
    assert best is not None
    late: list[int] = []

    def hold(session: Session) -> None:
        """The words of all weights but the best take so long that those of the best are first."""
        carried = session.line._carried

        async def slow(method: Any, *args: Any, **kwargs: Any) -> Any:
            if method is Hub.weights_saved and args[1].number != best[0].number:
                late.append(args[1].number)
                await session.scheduler.timer(120.0)
            return await carried(method, *args, **kwargs)

        session.line._carried = slow  # type: ignore[method-assign]

    simulated.session(hold)
    record = checked(simulated)
    assert late
    assert record.best_weights is not None
    assert record.best_weights.number == best[0].number


def test_weights_of_a_trial_that_diverges_are_not_kept(tmp_path: Path) -> None:
    """Its rows do not count any more."""
    simulated = InProcess(tmp_path / "study").with_operations(lanes=3)
    simulated.session()
    record = checked(simulated)
    assert record.best_weights is None or (
        record.trials[record.best_weights.number].status in ("complete", "pruned")
    )


# -- all of it at random ---------------------------------------------------------------------------

SEEDS = range(int(os.environ.get("SEEDS", "12")))


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_no_row_is_lost_or_twice_and_the_study_ends(
    seed: int, undisturbed: Record, tmp_path: Path
) -> None:
    """Three lanes, messages up to 20 s late and in any order; workers and controllers are killed,
    lanes hang, Tune's actors die, nodes are drained and lost, the driver is killed or interrupted.
    """

    def wreak(session: Session) -> None:
        chance = session.scheduler.random
        while True:
            session.environment.sleep(chance.expovariate(1 / 8))
            match chance.randrange(9):
                case 0 | 1 if session.workers:
                    chance.choice(list(session.workers.values())).kill()
                case 2 if session.controllers:
                    session.end(chance.choice(list(session.controllers)))
                case 3 if session.workers:
                    chance.choice(list(session.workers.values())).hung = True
                case 4 if session.pulls:
                    session.kill_tune_actor(chance.choice(list(session.pulls)))
                case 5:
                    node = chance.choice(session.nodes)
                    if node.alive and node.leaves_at is None:
                        node.leaves_at = session.environment.time() + chance.uniform(0, 20)
                        session.nodes.append(SimulatedNode(f"node-{len(session.nodes)}", node.cpus))
                case 6:
                    node = chance.choice(session.nodes)
                    if node.alive:
                        session.lose(node)
                        session.nodes.append(SimulatedNode(f"node-{len(session.nodes)}", node.cpus))
                case 7 if chance.random() < 0.3:
                    session.driver.kill()
                    return
                case 8 if chance.random() < 0.3:
                    session.interrupt.request()
                    return

    operations = {"lanes": 3, "max_retries": 1000, "stall_timeout_s": 60.0, "grace_s": 10.0}
    simulated = InProcess(tmp_path / "study", seed=1000 * seed, late=0.05)
    simulated.with_operations(**operations)
    for _ in range(20):
        session = simulated.session(wreak)
        record = checked(simulated, complete=False, killed=session.driver.killed)
        if len(record.finished) == 12:
            break
    simulated.session()
    assert rows(checked(simulated)) == rows(undisturbed)


# -- calibrated rows -------------------------------------------------------------------------------


def both_strengths(**search: Any) -> StudySpec:
    spec = small_study(**search)
    evaluation = spec.evaluation.model_copy(update={"strength": "both"})
    return spec.model_copy(update={"evaluation": evaluation})


@pytest.fixture(scope="module")
def undisturbed_both(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The small study with two rows at most updates."""
    simulated = InProcess(tmp_path_factory.mktemp("both") / "study", both_strengths())
    simulated.session()
    return checked(simulated)


def test_calibrated_rows_are_recorded_beside_those_as_trained_and_can_be_best(
    undisturbed_both: Record, undisturbed: Record
) -> None:
    trained = {
        number: [row for row in found if row["strength"] == 1]
        for number, found in rows(undisturbed_both).items()
    }
    assert trained == rows(undisturbed)
    weights = undisturbed_both.best_weights
    assert weights is not None
    assert weights.strength != 1
    assert f"-at-{weights.strength}" in weights.file


@pytest.mark.parametrize("update", [3, 4, 9])
def test_a_killed_worker_loses_no_calibrated_row_and_doubles_none(
    update: int, undisturbed_both: Record, tmp_path: Path
) -> None:
    def kill(session: Session) -> None:
        session.until(session.at(0, update))
        session.environment.sleep(1.0)
        session.workers[0].kill()

    simulated = InProcess(tmp_path / "study", both_strengths())
    simulated.session(kill)
    assert rows(checked(simulated)) == rows(undisturbed_both)


@pytest.mark.parametrize("update", [3, 4, 9])
def test_a_killed_driver_loses_no_calibrated_row(
    update: int, undisturbed_both: Record, tmp_path: Path
) -> None:
    def kill(session: Session) -> None:
        session.until(session.at(5, update))
        session.environment.sleep(1.0)
        session.driver.kill()

    simulated = InProcess(tmp_path / "study", both_strengths()).with_operations(lanes=2)
    simulated.session(kill)
    checked(simulated, complete=False, killed=True)
    simulated.session()
    assert rows(checked(simulated)) == rows(undisturbed_both)

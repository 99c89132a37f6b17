"""Lanes that follow the cluster: nodes that join, leave and die, lanes without room, and the end of
all of them."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.train.v2._internal.execution.callback import ControllerCallback
from stand_in import OpenStandIn

from ray_unlearn.execution import cluster as elastic
from ray_unlearn.execution import lane_fleet as fleet
from ray_unlearn.execution import lane_pool
from ray_unlearn.execution import lane_trainer as training
from ray_unlearn.execution.conductor import first_job
from ray_unlearn.execution.hub import Hub
from ray_unlearn.execution.interrupt import Interrupt
from ray_unlearn.execution.lane_fleet import Fleet
from ray_unlearn.execution.placement import Cluster, Node
from ray_unlearn.spec.operations import Operations

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def happened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `elastic_study.py` tells."""
    process = subprocess.run(
        [
            sys.executable,
            str(HERE / "elastic_study.py"),
            str(tmp_path_factory.mktemp("elastic") / "log"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr[-3000:]
    *_, last = process.stdout.splitlines()
    told: dict[str, Any] = json.loads(last.removeprefix("happened: "))
    return told


@pytest.mark.slow
def test_lanes_follow_nodes_that_join_and_leave(happened: dict[str, Any]) -> None:
    lanes = [happened[name] for name in happened if name.startswith("lanes")]
    assert lanes == [1, 2, 1, 2]
    assert happened["on the node that stays"]
    assert happened["placed"] == 1, "as `plan --address` counts"


@pytest.mark.slow
def test_a_drained_nodes_trial_goes_on_elsewhere_from_a_checkpoint_and_no_retry_is_used(
    happened: dict[str, Any],
) -> None:
    """`max_retries` is 0 there: a trial whose fault this were would have failed."""
    moved, stayed = happened["drained"]["moved"], happened["drained"]["stayed"]
    assert (moved["status"], moved["attempt"]) == ("complete", 1)
    assert (stayed["status"], stayed["attempt"]) == ("complete", 0)
    assert any("is being drained" in note for note in moved["notes"] + stayed["notes"])
    assert happened["checkpoints"] == [happened["drained"]["number"]], (
        "it was asked for one, and the other was not"
    )


@pytest.mark.slow
def test_a_lost_nodes_trial_goes_on_elsewhere_and_no_retry_is_used(
    happened: dict[str, Any],
) -> None:
    assert happened["lost"]["moved"]["status"] == "complete", happened["lost"]
    assert happened["lost"]["moved"]["attempt"] == 1
    assert happened["lost"]["stayed"]["attempt"] == 0


@pytest.mark.slow
def test_the_end_leaves_no_thread_in_ray_and_waits_for_no_lane_that_waits(
    happened: dict[str, Any],
) -> None:
    """Such a thread ends the process when Ray is shut down. Patience is 100 s there."""
    assert happened["threads"] == []
    assert happened["seconds to leave"] < 100
    assert happened["queued afterwards"] == 0, "who watches may still ask"


@pytest.mark.slow
def test_a_lane_without_room_says_why_and_is_no_thread_and_no_process(
    ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_pool, "EXPLAIN_S", 2.0)
    said: list[str] = []
    cpus = ray.cluster_resources()["CPU"]
    waiting = Operations(lanes=2, cpus_per_worker=cpus)
    with Fleet(waiting, OpenStandIn(tmp_path / "log"), say=said.append) as pair:
        assert first_job(pair.hub, False, Interrupt(print)) is not None
        deadline = time.monotonic() + 60
        while not said:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(3 * fleet.LOOK_S)
        lanes = pair.state()["lanes"]
        assert [lane["state"] for lane in lanes] == ["idle", "pending"]
        assert lanes[1]["waiting_for"] == said[0].removeprefix("lane 1 waits for ")
        assert [t.name for t in threading.enumerate() if t.name.startswith("lane-")] == ["lane-0"]
        assert list(pair.hub.ask(Hub.controllers)) == [0]
    [once] = said
    assert once.startswith(
        f"lane 1 waits for 1 worker(s) of {cpus:g} CPU: the cluster has {cpus:g} CPU, 0 of them "
        "free"
    )


@pytest.mark.slow
def test_a_lane_that_waits_inside_ray_leaves_neither_thread_nor_placement_group(
    ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place was there when it was started, and another user was quicker."""
    cpus = ray.cluster_resources()["CPU"]
    monkeypatch.setattr(
        fleet, "look", lambda autoscaling: Cluster([Node("not there", {"CPU": 9 * cpus})])
    )
    monkeypatch.setattr(fleet, "PATIENCE_S", 600.0)
    with Fleet(Operations(lanes=2, cpus_per_worker=cpus), OpenStandIn(tmp_path / "log")) as pair:
        assert first_job(pair.hub, False, Interrupt(print)) is not None
        deadline = time.monotonic() + 60
        while not any(
            group["state"] == "PENDING" for group in ray.util.placement_group_table().values()
        ):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert [t.name for t in threading.enumerate() if t.name.startswith("lane")] == []
    states = {group["state"] for group in ray.util.placement_group_table().values()}
    assert states <= {"REMOVED"}, "one that is left would take the room of the next study"


def test_what_is_asked_of_rays_private_parts_is_still_there(ray_here: None) -> None:
    """Without them lanes still run, but none is drained, and one that waits inside Ray cannot be
    ended."""
    assert issubclass(training.Introduce, ControllerCallback)
    assert elastic._private(lambda state: state.get_draining_nodes()) == {}
    assert elastic._private(lambda state: list(elastic._groups_of(state, ""))) == []
    [node] = elastic.look().nodes
    assert node.free is not None
    # What is all in use is left out; the groups of lanes that have just ended may still stand
    # there.
    assert {name for name in node.free if "_group_" not in name} <= node.total.keys()
    assert node.free.get("CPU", 0.0) <= node.total["CPU"]
    assert elastic._private(lambda state: state.not_there()) is None

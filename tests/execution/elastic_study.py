"""Run by test_elastic.py in a process of its own: lanes on simulated nodes that join, are drained,
and die.

No trial may be run again for a fault of its own (`max_retries=0`): all three complete only if what
befalls their nodes is not held against them. Prints what happened, as JSON.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray_unlearn.execution  # noqa: F401  (sets Ray's switches before ray is imported)

# isort: split
import ray
import stand_in
from ray import cloudpickle
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION

from ray_unlearn.execution import lane_fleet as fleets
from ray_unlearn.execution.conductor import first_job
from ray_unlearn.execution.hub import Hub
from ray_unlearn.execution.interrupt import Interrupt
from ray_unlearn.execution.lane_fleet import Fleet
from ray_unlearn.execution.messages import Delivery, RowReported, RunTrial
from ray_unlearn.execution.placement import Cluster as Seen
from ray_unlearn.execution.placement import Node
from ray_unlearn.execution.ray_runtime import connected, placed_on
from ray_unlearn.spec.operations import Operations

cloudpickle.register_pickle_by_value(stand_in)
OPERATIONS = Operations(lanes="auto", max_retries=0)
happened: dict[str, Any] = {}


def until(fleet: Fleet, condition: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 150
    while not condition(lanes := fleet.state()["lanes"]):
        assert time.monotonic() < deadline, lanes
        time.sleep(0.1)
    return lanes


def ready(count: int) -> Callable[[list[dict[str, Any]]], bool]:
    return lambda lanes: [lane["state"] for lane in lanes] == ["idle"] * count


class Trial(threading.Thread):
    """Pulls all items of a trial, as Tune's side does."""

    def __init__(self, fleet: Fleet, number: int, steps: int, step_s: float) -> None:
        super().__init__()
        config = stand_in.config(f"wait:{step_s}", steps=steps, seed=number)
        self.order = RunTrial(config.model_dump(mode="json"))
        self.fleet, self.number = fleet, number
        self.items: list[Delivery] = []
        self.start()

    def run(self) -> None:
        hub = self.fleet.hub
        while not self.items or isinstance(self.items[-1].item, RowReported):
            handled = self.items[-1].sequence if self.items else 0
            self.items.append(hub.ask(Hub.pull, self.number, handled, self.order))
        hub.ask(Hub.release, self.number)

    def began(self) -> "Trial":
        while not self.items:
            time.sleep(0.05)
        return self

    def told(self) -> dict[str, Any]:
        self.join(timeout=120)
        end = self.items[-1]
        return {
            "status": getattr(end.item, "status", None),
            "reason": end.item.reason,
            "attempt": end.attempt,
            "notes": [note for one in self.items for note in one.notes],
        }


def on(fleet: Fleet, node: Any) -> int:
    """The trial that runs on this node."""
    lanes = fleet.hub.ask(Hub.state).lanes
    [lane] = [lane for lane in lanes if node.node_id in lane.nodes]
    assert lane.job is not None
    return lane.job


def elastic(cluster: Cluster, log: Path) -> None:
    first = cluster.add_node(num_cpus=1)
    happened["placed"] = placed_on(cluster.address, OPERATIONS, 10, 0.1).lanes
    with (
        connected(cluster.address, OPERATIONS),
        Fleet(OPERATIONS, stand_in.OpenStandIn(log)) as fleet,
    ):
        assert first_job(fleet.hub, False, Interrupt(print)) is not None
        happened["lanes at first"] = len(until(fleet, ready(1)))
        second = cluster.add_node(num_cpus=1)
        happened["lanes when a node has joined"] = len(until(fleet, ready(2)))

        trials = [Trial(fleet, number, steps=40, step_s=0.2).began() for number in (0, 1)]
        until(fleet, lambda lanes: [lane["state"] for lane in lanes] == ["busy"] * 2)
        moved = on(fleet, second)
        deadline_ms = int((time.time() + 120) * 1000)
        accepted, why = ray._raylet.GcsClient(address=cluster.address).drain_node(
            second.node_id, DRAIN_NODE_REASON_PREEMPTION, "a test", deadline_ms
        )
        assert accepted, why
        happened["drained"] = {
            "number": moved,
            "moved": trials[moved].told(),
            "stayed": trials[1 - moved].told(),
        }
        happened["checkpoints"] = [
            int(line.split()[1]) for line in log.read_text().splitlines() if "checkpoint" in line
        ]
        happened["lanes when a node was drained"] = len(until(fleet, ready(1)))
        happened["on the node that stays"] = fleet.hub.ask(Hub.state).lanes[0].nodes == (
            first.node_id,
        )

        third = cluster.add_node(num_cpus=1)
        happened["lanes when another has joined"] = len(until(fleet, ready(2)))
        trials = [Trial(fleet, number, steps=40, step_s=0.2).began() for number in (2, 3)]
        until(fleet, lambda lanes: [lane["state"] for lane in lanes] == ["busy"] * 2)
        moved = on(fleet, third) - 2
        cluster.remove_node(third, allow_graceful=False)
        happened["lost"] = {"moved": trials[moved].told(), "stayed": trials[1 - moved].told()}

        # One that has no room although we thought so waits inside Ray, as one does whose place
        # another user has taken.
        fleets.look = lambda autoscaling: Seen([Node("not there", {"CPU": 3.0})])
        while len(fleet.hub.ask(Hub.controllers)) < 3:
            time.sleep(0.1)
        fleets.PATIENCE_S = fleets.END_S = 100.0
        began = time.monotonic()
    happened["seconds to leave"] = time.monotonic() - began
    happened["threads"] = [t.name for t in threading.enumerate() if t.name.startswith("lane")]
    happened["queued afterwards"] = fleet.state()["queued"]


if __name__ == "__main__":
    simulated = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    elastic(simulated, Path(sys.argv[1]))
    simulated.shutdown()
    time.sleep(2)  # a thread left inside Ray would end this process by now
    print("happened:", json.dumps(happened))

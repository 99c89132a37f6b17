"""A lane as a Ray Train run: its training function, its trainer, and callbacks to the hub."""

import os
import re
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from ray_unlearn.environment import REAL
from ray_unlearn.execution.cluster import died_with_node
from ray_unlearn.execution.hub import Hub
from ray_unlearn.execution.hub_line import HubDied
from ray_unlearn.execution.lane import LaneLink, OpenWorkspace, run_lane
from ray_unlearn.execution.messages import Fault, Launch, NodeFate, Worker
from ray_unlearn.execution.ray_hub import RayHub, summary
from ray_unlearn.execution.trial_errors import lost_peer
from ray_unlearn.unlearn.comm import Comm

ANSWER_S = 30.0
"""Seconds that a controller waits for the hub before it takes the study for over."""

try:
    from ray.train.v2._internal.execution.callback import ControllerCallback
# Private: without it, a lane that waits inside Ray when the study ends cannot be ended.
except ImportError:
    ControllerCallback = ray.train.UserCallback


@dataclass(frozen=True)
class LaneConfig:
    """The settings of every worker of a lane."""

    launch: Launch
    hub: str
    threads: int
    open_workspace: OpenWorkspace


def lane_loop(settings: dict[str, Any]) -> None:
    """Ray Train's training function: `run_lane` with a line to the hub actor."""
    # Batches of documents differ in length in every update; without this, CUDA's allocator keeps
    # blocks of lengths that do not come again. It reads it when the device is first used.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    import torch

    config: LaneConfig = settings["lane"]
    torch.set_num_threads(config.threads)
    context = ray.get_runtime_context()
    worker = Worker(
        os.getpid(),
        context.get_node_id(),
        context.current_actor,
        ray.util.get_current_placement_group(),
    )
    hub = RayHub.named(config.hub)
    link = LaneLink(hub, config.launch, Comm.distributed(), worker, REAL)
    run_lane(link, config.open_workspace)


class Introduce(ControllerCallback):  # type: ignore[misc]
    """A callback that registers Ray Train's controller, so that it can be ended while it waits."""

    def __init__(self, hub: str, launch: Launch) -> None:
        self._hub = hub
        self._launch = launch

    def after_controller_start(self, train_run_context: Any) -> None:
        """Register the controller; called in its process, before anything else."""
        controller = ray.get_runtime_context().current_actor
        try:
            hub = RayHub.named(self._hub, ANSWER_S)
            wanted = hub.ask(Hub.introduce, self._launch, controller)
        except HubDied:
            wanted = False
        if not wanted:
            raise RuntimeError("the study is over")


class TellHub(ray.train.UserCallback):  # type: ignore[misc]
    """A callback that reports a dead worker to the hub at once.

    The worker's trial then goes to another lane without waiting for the restart.
    """

    def __init__(self, hub: str, launch: Launch) -> None:
        self._hub = hub
        self._launch = launch

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Report the fault; called in Ray Train's controller process."""
        fault = fault_of(worker_exceptions)
        try:
            restart = RayHub.named(self._hub, ANSWER_S).ask(Hub.down, self._launch, fault)
        except HubDied:  # then the study is over too
            restart = False
        if not restart:  # otherwise Ray Train would wait for room for ever
            gone = f"its node may be gone: {fault.reason}" if fault.node else "the study is over"
            raise RuntimeError(gone)


def fault_of(worker_exceptions: dict[int, Exception]) -> Fault:
    """Why a worker group failed, by the exceptions of its ranks.

    One rank dies by itself or with its node; the others fail because they miss it.
    """
    rank, error = min(worker_exceptions.items(), key=lambda one: (lost_peer(one[1]), one[0]))
    causes = [one for one in worker_exceptions.values() if not lost_peer(one)] or [error]
    fates: list[NodeFate] = [fate for fate in map(died_with_node, causes) if fate]
    return Fault(f"rank {rank}: {summary(error)}", out_of_memory(error), fates[0] if fates else "")


class Trainer(TorchTrainer):  # type: ignore[misc]
    """A trainer without two of Ray Train's helper actors, which cost 240 MB and seconds per lane.

    The placement-group cleaner would outlive a killed driver, and the data-set manager has no data
    sets to manage. The hook is private: without it, lanes only cost more.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unused = {"PlacementGroupCleanerCallback", "DatasetsCallback"}
        return [
            callback
            for callback in super()._create_default_callbacks()
            if type(callback).__name__ not in unused
        ]


def end_of_controller(error: BaseException) -> str:
    """Why Ray Train's controller ended, in one sentence where Ray writes a page."""
    text = str(error).strip()
    killed = isinstance(error, ray.exceptions.ActorDiedError) and KILLED in text
    if not killed:
        return text or type(error).__name__
    found = re.search(r"^\s*pid: ([0-9]+)$", text, re.MULTILINE)
    which = f" (pid {found[1]})" if found else ""
    return f"its controller{which} was killed, or memory ran out: the kernel's log (dmesg) tells"


KILLED = "Worker exit type: SYSTEM_ERROR"


def out_of_memory(error: BaseException) -> bool:
    """Whether Ray's memory monitor killed the process; the kernel's own killer is not seen."""
    return isinstance(error, ray.exceptions.OutOfMemoryError) or "OutOfMemoryError" in str(error)

"""The driver's side of the lanes, each in a long-lived `TorchTrainer.fit()` in its own thread.

The driver and not Tune's actors own the lanes, so a lane outlives whatever happens to those, and
Tune's trials stay thin.

One more thread, the watcher, looks at the cluster every `LOOK_S`. It starts lanes where there is
room (a lane without room is neither process nor thread), moves lanes off nodes that are about to
leave, and ends those that hang. `lane_watcher` decides; this module acts.
"""

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import ray
import ray.train
from ray.train.torch import TorchConfig

from ray_unlearn.environment import REAL
from ray_unlearn.execution.cluster import draining, look, remove_groups_of
from ray_unlearn.execution.conductor import LaneError
from ray_unlearn.execution.hub import Hub
from ray_unlearn.execution.hub_line import HubDied
from ray_unlearn.execution.lane import OpenWorkspace
from ray_unlearn.execution.lane_pool import LanePool
from ray_unlearn.execution.lane_trainer import (
    Introduce,
    LaneConfig,
    TellHub,
    Trainer,
    end_of_controller,
    lane_loop,
    out_of_memory,
)
from ray_unlearn.execution.lane_watcher import LOOK_S, LaneWatcher
from ray_unlearn.execution.messages import FIRST_JOB, Fault, LaneState, Launch, Worker
from ray_unlearn.execution.placement import UNLIMITED, shape_of
from ray_unlearn.execution.ray_hub import RayHub
from ray_unlearn.spec.operations import Operations
from ray_unlearn.store.live import LANE_FIELDS

PATIENCE_S = 10.0
"""Seconds that the end of a study waits for running lanes to leave by themselves."""

END_S = 60.0
"""Seconds that it waits for the others, which are being ended."""

STATE_S = 10.0
"""Seconds that `Fleet.state` waits for the hub."""

Say = Callable[[str], None]


class Fleet:
    """A context manager in which the study's lanes run.

    Args:
        operations: number of lanes, workers, resources, retries.
        open_workspace: opens a lane's workspace; pickled to the workers.
        trials: number of trials to run; there are never more lanes.
        worker_gib: memory that a worker takes on its host, for `lanes: auto`; None: not known.
        say: called with the reason why a lane waits.

    Raises:
        LaneError: Ray's workers cannot import this package.
    """

    def __init__(
        self,
        operations: Operations,
        open_workspace: OpenWorkspace,
        trials: int = UNLIMITED,
        worker_gib: float | None = None,
        say: Say | None = None,
    ) -> None:
        self._operations = operations
        self._open_workspace = open_workspace
        self._pool = LanePool(operations, trials, shape_of(operations, worker_gib), REAL)
        self._say = say
        self._scratch = tempfile.TemporaryDirectory(
            prefix="ray-unlearn-", ignore_cleanup_errors=True
        )
        self.name = f"ray-unlearn-hub-{REAL.unique_name()}"
        self._threads: dict[int, threading.Thread] = {}
        """Threads of the launched lanes, by lane."""
        self._controllers: dict[int, Any] = {}
        self._watcher = threading.Thread(target=self._watch, name="lanes", daemon=True)
        self._over = threading.Event()
        self._closed = False
        self._asking = threading.Lock()
        self._shown: dict[str, Any] = {"lanes": [], "queued": 0}

    @property
    def scratch(self) -> str:
        """Folder for what Tune and Train insist on writing; removed afterwards."""
        return self._scratch.name

    @property
    def most(self) -> int:
        """Most lanes that there may ever be."""
        return self._pool.most

    @property
    def room(self) -> int:
        """Number of lanes that run or start, at least 1: as many trials are worth asking for."""
        return self._pool.room

    def __enter__(self) -> Self:
        try:
            self.hub = RayHub.start(self.name, self._operations.max_retries)
        except HubDied as error:
            raise LaneError(
                "Ray's workers cannot start the hub; is ray-unlearn installed on every node? "
                f"{error}"
            ) from None
        self._lane_watcher = LaneWatcher(
            self._pool, self.hub, self, self._operations.stall_timeout_s, self._tell
        )
        self._look()
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the lanes and their threads.

        A thread that is inside Ray when Ray is shut down would end the process. A running lane has
        a moment to leave by itself; one that waits, starts, or is in a long step is ended.
        """
        try:
            self._over.set()
            with contextlib.suppress(HubDied):
                self.hub.send(Hub.interrupt)
            self._watcher.join()
            with self._asking:
                self._closed = True
            self._end_lanes(0 if kind is KeyboardInterrupt else PATIENCE_S)
        finally:
            self.hub.kill()
            self._scratch.cleanup()

    def state(self) -> dict[str, Any]:
        """`lanes`, each with `live.LANE_FIELDS` and `tokens`, and `queued`, for observers.

        Once the lanes have ended it is the last state. Any thread may call it.

        Raises:
            HubDied: the hub does not answer.
        """
        with self._asking:
            if not self._closed:
                state = RayHub(self.hub.actor, STATE_S).ask(Hub.state)
                lanes = [self._as_shown(lane) for lane in state.lanes if not lane.retired]
                self._shown = {"lanes": lanes, "queued": len(state.queued)}
            return self._shown

    def _as_shown(self, lane: LaneState) -> dict[str, Any]:
        names = self._lane_watcher.node_names
        computed = {
            "trial": None if lane.job == FIRST_JOB else lane.job,
            "node": ", ".join(names.get(node, node[:6]) for node in lane.nodes),
            "pids": list(lane.pids),
            "tokens": lane.tokens,
        }
        return {name: getattr(lane, name, None) for name in LANE_FIELDS} | computed

    # -- the watcher -------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            with contextlib.suppress(HubDied, ray.exceptions.RayError):
                self._look()

    def _look(self) -> None:
        self._controllers = self.hub.ask(Hub.controllers)
        cluster = look(self._operations.autoscaling)
        self._lane_watcher.look(cluster, draining(), self._over.is_set())

    def _tell(self, text: str) -> None:
        if self._say is not None:
            self._say(text)

    def start(self, launch: Launch) -> None:
        """See `LaneHands`."""
        thread = threading.Thread(
            target=self._run_lane, args=(launch,), name=f"lane-{launch.lane}", daemon=True
        )
        self._threads[launch.lane] = thread
        thread.start()

    def end(self, lane: int) -> None:
        """See `LaneHands`; workers die with their controller."""
        controller = self._controllers.get(lane)
        if controller is not None:
            ray.kill(controller)

    def kill(self, worker: Worker) -> None:
        """See `LaneHands`."""
        ray.kill(worker.actor)
        # a stopped process does not react to Ray
        if worker.node == ray.get_runtime_context().get_node_id():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)

    def _end_lanes(self, patience_s: float) -> None:
        """End all lanes and wait for their threads, at most `END_S` longer than `patience_s`."""
        up = set()
        with contextlib.suppress(HubDied):
            up = {lane.index for lane in self.hub.ask(Hub.state).lanes if lane.up}
        deadline = time.monotonic() + patience_s
        give_up = deadline + END_S
        while running := [lane for lane, thread in self._threads.items() if thread.is_alive()]:
            with contextlib.suppress(HubDied):
                self._controllers = self.hub.ask(Hub.controllers)
            for lane in running:
                if lane not in up or time.monotonic() >= deadline:
                    self.end(lane)
            if time.monotonic() >= give_up:
                self._tell(f"lane(s) {', '.join(map(str, running))} did not end within {END_S:g} s")
                return
            self._threads[running[0]].join(timeout=0.1)

    # -- one lane ----------------------------------------------------------------------------------

    def _run_lane(self, launch: Launch) -> None:
        """Run the lane until it ends; then the watcher may give it another place."""
        fault = self._fit(launch)
        with contextlib.suppress(HubDied, ray.exceptions.RayError):  # then the study is over too
            self._free(launch.lane)
            self.hub.ask(Hub.left, launch, fault)
        self._pool.left(launch.lane)

    def _free(self, lane: int) -> None:
        """Free what a lane's controller holds.

        A controller frees it only if it ends normally; otherwise Ray would do so with the job.
        """
        for worker in self.hub.ask(Hub.workers, lane):
            if worker.group is not None:
                ray.util.remove_placement_group(worker.group)
        controller = self.hub.ask(Hub.controllers).get(lane)
        if controller is not None:
            remove_groups_of(controller._actor_id.hex())

    def _fit(self, launch: Launch) -> Fault:
        """Run the lane until it ends, and return why it did."""
        try:
            self._trainer(launch).fit()
        except Exception as error:  # the hub judges whatever ends a lane
            return Fault(end_of_controller(error), out_of_memory(error))
        return Fault("its training function returned")

    def _trainer(self, launch: Launch) -> Trainer:
        operations = self._operations
        gpu = operations.gpus_per_worker > 0
        resources = {"CPU": operations.cpus_per_worker}
        if gpu:
            resources["GPU"] = operations.gpus_per_worker
        threads = max(1, int(operations.cpus_per_worker))
        config = LaneConfig(launch, self.name, threads, self._open_workspace)
        return Trainer(
            lane_loop,
            train_loop_config={"lane": config},
            # gloo beside NCCL: messages between ranks about trials must not wait for a device
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=operations.workers_per_lane, use_gpu=gpu, resources_per_worker=resources
            ),
            run_config=ray.train.RunConfig(
                name=f"lane-{launch.lane}-{launch.number}",
                storage_path=self.scratch,
                failure_config=ray.train.FailureConfig(max_failures=-1),
                callbacks=[Introduce(self.name, launch), TellHub(self.name, launch)],
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )

"""The driver's side of the lanes: it owns them, each in a long-lived `TorchTrainer.fit()` in a
thread of its own.

Owned by the driver and not by Tune's actors, a lane outlives whatever happens to those, and Tune's
trials stay thin.

One more thread, the keeper, looks at the cluster every `LOOK_S`. It starts lanes where there is
room: a lane without room is no process and no thread. It takes lanes off nodes that are about to
leave, and ends those that hang.
"""

import contextlib
import os
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import ray
import ray.train
from ray.train.torch import TorchConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_unlearn.execution.cluster import draining, look, remove_groups_of
from ray_unlearn.execution.hub import Hub
from ray_unlearn.execution.hub_records import Item
from ray_unlearn.execution.interrupt import Interrupt
from ray_unlearn.execution.lane import LaneConfig, OpenWorld, lane_loop
from ray_unlearn.execution.lane_trainer import Introduce, TellHub, Trainer, out_of_memory, summary
from ray_unlearn.execution.placement import UNLIMITED, Cluster, shape_of, why_waiting
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.operations import Operations

FIRST_JOB = -1
"""The number of the job before trial 0."""

LOOK_S = 1.0
"""The keeper looks at cluster and lanes this often."""

EXPLAIN_S = 60.0
"""A lane that has waited for so long says why."""

PATIENCE_S = 10.0
"""How long the end of a study waits for running lanes to leave by themselves."""

END_S = 60.0
"""How long it waits for the others, which are being ended."""

STARTS_S = 60.0
"""A lane that has been given a place is up within so long; if not, and there is no room, somebody
else has its place."""

AHEAD = 8
"""Lanes that ask an autoscaler for room at a time: each is a process on this node while it
waits."""

MARGIN_S = 3.0
"""A lane is off its node so long before the node goes, come what may."""

Say = Callable[[str], None]


class LaneError(UserError):
    """The lanes cannot run this study at all; the message holds what a worker said."""


@dataclass
class _Lane:
    """What the driver knows of a lane; the rest knows the hub."""

    thread: threading.Thread | None = None
    """Runs it; None while it waits for room."""
    starts: int = 0
    waits_since: float = field(default_factory=time.monotonic)
    """Since when it is not up."""
    controller: Any = None
    said: set[str] = field(default_factory=set)
    """Kinds of reasons that it has told why it waits."""
    retired: bool = False
    leaves_by: float | None = None
    """When it will be taken off its node."""


class Fleet:
    """A context manager: inside it the study's lanes run.

    Args:
        operations: number of lanes, workers, resources, retries.
        open_world: what a lane runs; pickled to the workers.
        trials: how many there are to run: there are never more lanes.
        worker_gib: memory that a worker takes on its host, for `lanes: auto`; None: not known.
        say: told why a lane waits.

    Raises:
        LaneError: Ray's workers cannot import this package.
    """

    def __init__(
        self,
        operations: Operations,
        open_world: OpenWorld,
        trials: int = UNLIMITED,
        worker_gib: float | None = None,
        say: Say | None = None,
    ) -> None:
        self._operations = operations
        self._open_world = open_world
        self._trials = trials
        self._shape = shape_of(operations, worker_gib)
        self._say = say
        self._scratch = tempfile.TemporaryDirectory(
            prefix="ray-unlearn-", ignore_cleanup_errors=True
        )
        self.name = f"ray-unlearn-hub-{uuid.uuid4().hex[:12]}"
        self._lanes: list[_Lane] = []
        self._names: dict[str, str] = {}
        """Of nodes, by id."""
        self._keeper = threading.Thread(target=self._keep, name="lanes", daemon=True)
        self._over = threading.Event()
        self._closed = False
        self._asking = threading.Lock()
        self._state: dict[str, Any] = {"lanes": [], "queued": 0}
        self.hub: Any = None

    @property
    def keeps_best(self) -> bool:
        """Whether the weights of the best row are wanted."""
        return self._operations.keep_best

    @property
    def grace_s(self) -> float:
        """What running trials have for a checkpoint when the study is told to stop."""
        return self._operations.grace_s if self._operations.checkpoint_every_s is not None else 0.0

    @property
    def scratch(self) -> str:
        """Folder for what Tune and Train insist on writing; gone afterwards."""
        return self._scratch.name

    @property
    def most(self) -> int:
        """Lanes that there may ever be."""
        return self._operations.most_lanes(self._trials)

    @property
    def room(self) -> int:
        """Lanes that run or start: so many trials are worth asking for, at least one."""
        return max(1, sum(lane.thread is not None for lane in self._lanes))

    def __enter__(self) -> Self:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Hub).options(
            name=self.name, num_cpus=0, max_concurrency=1000, scheduling_strategy=here
        )
        self.hub = actor.remote(0, self._operations.max_retries, ray.put)
        try:
            ray.get(self.hub.ping.remote())
        except ray.exceptions.RayError as error:
            raise LaneError(
                f"Ray's workers cannot start the hub; is ray-unlearn installed on every node? {error}"
            ) from None
        self._look()
        self._keeper.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the lanes, and leave no thread behind: one that is inside Ray when Ray is shut down
        takes the process with it.

        A running lane may leave by itself, for a moment. One that waits, starts, or is in the
        middle of a long step is ended.
        """
        try:
            self._over.set()
            self.stop()
            self._keeper.join()
            with self._asking:
                self._closed = True
            self._end_lanes(0 if kind is KeyboardInterrupt else PATIENCE_S)
        finally:
            ray.kill(self.hub)
            self._scratch.cleanup()

    def state(self) -> dict[str, Any]:
        """For those who watch: `lanes`, each with `index`, `state`, `trial`, `node`, `pids`,
        `busy_s`, `up_s` ..., and `queued`.

        What it was at last once the lanes have ended. May be called from any thread.

        Raises:
            RayError: the hub does not answer.
        """
        with self._asking:
            if not self._closed:
                told = ray.get(self.hub.state.remote(), timeout=10)
                lanes = [self._shown(lane) for lane in told["lanes"] if not lane["retired"]]
                self._state = {"lanes": lanes, "queued": len(told["queued"])}
            return self._state

    def _shown(self, lane: dict[str, Any]) -> dict[str, Any]:
        names = (
            "index",
            "state",
            "pids",
            "busy_s",
            "verdict_s",
            "idle_s",
            "up_s",
            "restarts",
            "tokens",
            "waiting_for",
        )
        trial = None if lane["job"] == FIRST_JOB else lane["job"]
        node = ", ".join(self._names.get(node, node[:6]) for node in lane["nodes"])
        return {name: lane[name] for name in names} | {"trial": trial, "node": node}

    def stop(self) -> None:
        """No more trials; lanes quit at their next question. Returns at once."""
        self.hub.interrupt.remote()

    def hub_answers(self) -> bool:
        """False when the hub is dead: then nothing that went wrong says anything about a trial."""
        try:
            ray.get(self.hub.ping.remote(), timeout=30)
        except ray.exceptions.RayError:
            return False
        return True

    def drain(self) -> None:
        """No more trials, and a checkpoint of each running one. Returns at once: see `drained`."""
        self.hub.drain.remote()

    def drained(self) -> bool:
        """Whether there is nothing left to wait for before `stop`."""
        try:
            return bool(ray.get(self.hub.drained.remote()))
        except ray.exceptions.RayError:
            return True

    def keep(self, number: int) -> None:
        """The row that was just recorded is the best so far. Returns when the hub knows, so before
        its lane goes on."""
        with contextlib.suppress(
            ray.exceptions.RayError
        ):  # the hub is dead: Tune's side will notice
            ray.get(self.hub.keep.remote(number))

    def undelivered(self) -> list[tuple[int, dict[str, Any]]]:
        """Kept weights, with their trials, that no item has told of: the study was interrupted just
        then."""
        try:
            return list(ray.get(self.hub.undelivered.remote()))
        except ray.exceptions.RayError:
            return []

    def release(self, number: int) -> None:
        """The trial is over: a lane still at it drops it at its next evaluation. Returns at
        once."""
        self.hub.release.remote(number)

    def first_job(self, baselines: bool, interrupt: Interrupt) -> Item | None:
        """Wait for the lanes' first job: baselines (if asked for), and what all lanes share. None
        when interrupted.

        Raises:
            LaneError: it failed, no lane can start, or the hub died.
        """
        answer = self.hub.pull.remote(FIRST_JOB, 0, {"kind": "prepare", "baselines": baselines})
        while not ray.wait([answer], timeout=0.2)[0]:
            if interrupt.requested:
                return None
        try:
            item: Item = ray.get(answer)
        except ray.exceptions.RayError as error:
            raise LaneError(
                f"the hub actor died: {summary(error)}; go on with `ray-unlearn resume`"
            ) from None
        self.release(FIRST_JOB)
        if item["kind"] == "ended" and item["status"] == "complete":
            return item
        raise LaneError(f"the lanes could not prepare the study: {item['reason']}")

    # -- the keeper --------------------------------------------------------------------------------

    def _keep(self) -> None:
        while not self._over.wait(LOOK_S):
            with contextlib.suppress(
                ray.exceptions.RayError
            ):  # the hub is going, and the study with it
                self._look()

    def _look(self) -> None:
        """At cluster and lanes, once; all that follows from it is done."""
        cluster = look(self._operations.autoscaling)
        self._names |= {node.id: node.name for node in cluster.nodes}
        self._resize(cluster)
        hub = ray.get(self.hub.state.remote())
        told = hub["lanes"]
        for index, controller in ray.get(self.hub.controllers.remote()).items():
            self._lanes[index].controller = controller
        for lane, state in zip(self._lanes, told, strict=True):
            if state["up"]:
                lane.waits_since = time.monotonic()
                lane.said.clear()
        if hub["unsettled"]:
            ray.get(self.hub.settle.remote({node.id for node in cluster.nodes if node.alive}))
        if not hub["over"]:
            self._start_lanes(cluster, told)
        self._explain(cluster, told)
        self._vacate(told)
        self._end_silent(told)

    def _resize(self, cluster: Cluster) -> None:
        """With `lanes: auto` there are as many as the cluster can hold; those that wait beyond that
        number rest."""
        wanted = self.most
        if self._operations.lanes == "auto":
            wanted = max(1, min(wanted, cluster.lanes_at_most(self._shape)))
        before = [lane.retired for lane in self._lanes]
        self._lanes += [_Lane() for _ in range(wanted - len(self._lanes))]
        spare = len(self._lanes) - wanted
        for lane in reversed(self._lanes):  # a lane with a thread has a place, and keeps it
            lane.retired = lane.thread is None and spare > 0
            spare -= lane.retired
        after = [lane.retired for lane in self._lanes]
        if after != before:
            ray.get(
                self.hub.resize.remote(
                    [i for i, retired in enumerate(after) if retired], len(after)
                )
            )

    def _start_lanes(self, cluster: Cluster, told: list[dict[str, Any]]) -> None:
        """As many as have room, and as many as an autoscaler may make room for: it starts nodes
        only for what asks for them.

        A lane that is starting may not hold its place yet; its place is not given twice.
        """
        on_the_way = sum(
            lane.thread is not None and not state["up"]
            for lane, state in zip(self._lanes, told, strict=True)
        )
        running = sum(lane.thread is not None for lane in self._lanes)
        room = cluster.lanes_free(self._shape) - on_the_way
        if cluster.grows:
            room = max(room, min(AHEAD - on_the_way, cluster.lanes_at_most(self._shape) - running))
        for index, lane in enumerate(self._lanes):
            if lane.thread is None and not lane.retired and room > 0 and not self._over.is_set():
                room -= 1
                lane.starts += 1
                lane.thread = threading.Thread(
                    target=self._run_lane,
                    args=(index, lane.starts),
                    name=f"lane-{index}",
                    daemon=True,
                )
                lane.thread.start()

    def _explain(self, cluster: Cluster, told: list[dict[str, Any]]) -> None:
        """What the lanes without a place wait for; those that have waited long say it, each kind of
        reason once."""
        no_room = cluster.lanes_free(self._shape) == 0
        waits = {}
        for index, (lane, state) in enumerate(zip(self._lanes, told, strict=True)):
            waiting = no_room and not state["up"] and not lane.retired
            waits[index] = ""
            if waiting and not self._starting(lane):
                why = why_waiting(cluster, self._shape)
                waits[index] = why.text
                if why.kind not in lane.said and time.monotonic() - lane.waits_since >= EXPLAIN_S:
                    lane.said.add(why.kind)
                    self._tell(f"lane {index} waits for {why.text}")
        changed = {
            index: text for index, text in waits.items() if text != told[index]["waiting_for"]
        }
        if changed:
            ray.get(self.hub.waits.remote(changed))

    def _starting(self, lane: _Lane) -> bool:
        """It has been given a place, and may need some seconds to take it."""
        return lane.thread is not None and time.monotonic() - lane.waits_since < STARTS_S

    def _tell(self, text: str) -> None:
        self.hub.note.remote(text)
        if self._say is not None:
            self._say(text)

    def _vacate(self, told: list[dict[str, Any]]) -> None:
        """Take lanes off nodes that are about to leave: at once where no trial runs, else with a
        checkpoint of it."""
        leaving = draining()
        for index, (lane, state) in enumerate(zip(self._lanes, told, strict=True)):
            here = [node for node in state["nodes"] if node in leaving]
            if not here or lane.thread is None:
                lane.leaves_by = None
                continue
            if lane.leaves_by is None:
                grace_s = min(
                    _seconds_until(leaving[node], self._operations.grace_s) for node in here
                )
                lane.leaves_by = time.monotonic() + grace_s - MARGIN_S
            reason = f"its node {', '.join(self._names.get(node, node[:6]) for node in here)} is being drained"
            at_once = time.monotonic() >= lane.leaves_by
            if ray.get(self.hub.vacate.remote(index, state["token"], reason, at_once)):
                self._kill(lane)

    def _end_silent(self, told: list[dict[str, Any]]) -> None:
        """Kill the workers of a lane that gives no sign of life: Ray Train does not notice a hung
        training thread."""
        limit_s = self._operations.stall_timeout_s
        if limit_s is None:
            return
        here = ray.get_runtime_context().get_node_id()
        for index, lane in enumerate(told):
            if lane["silent_s"] < limit_s or lane["lost"] or not lane["pids"]:
                continue
            for pid, node, actor, _ in ray.get(
                self.hub.stalled.remote(index, lane["token"], limit_s)
            ):
                ray.kill(actor)
                if node == here:  # a process that is stopped does not hear Ray
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def _kill(self, lane: _Lane) -> None:
        """End the lane: its workers die with their controller."""
        if lane.controller is not None:
            ray.kill(lane.controller)

    def _end_lanes(self, patience_s: float) -> None:
        """All threads have ended when this returns."""
        up = set()
        with contextlib.suppress(ray.exceptions.RayError):
            up = {lane["index"] for lane in ray.get(self.hub.state.remote())["lanes"] if lane["up"]}
        deadline = time.monotonic() + patience_s
        give_up = deadline + END_S
        threads = {
            index: lane.thread for index, lane in enumerate(self._lanes) if lane.thread is not None
        }
        while running := [index for index, thread in threads.items() if thread.is_alive()]:
            with contextlib.suppress(ray.exceptions.RayError):
                for index, controller in ray.get(self.hub.controllers.remote()).items():
                    self._lanes[index].controller = controller
            for index in running:
                if index not in up or time.monotonic() >= deadline:
                    self._kill(self._lanes[index])
            if time.monotonic() >= give_up:
                self._tell(f"lane(s) {', '.join(map(str, running))} did not end within {END_S:g} s")
                return
            threads[running[0]].join(timeout=0.1)

    # -- one lane ----------------------------------------------------------------------------------

    def _run_lane(self, index: int, start: int) -> None:
        """Run the lane where there is room for it until it ends; then the keeper may give it
        another place."""
        lane = self._lanes[index]
        reason, no_memory = self._fit(index, start)
        try:
            # What a controller holds is freed by itself only if it ends in peace, else by Ray with
            # the job.
            for *_, group in ray.get(self.hub.workers.remote(index)):
                if group is not None:
                    ray.util.remove_placement_group(group)
            controller = ray.get(self.hub.controllers.remote()).get(index)
            if controller is not None:
                remove_groups_of(controller._actor_id.hex())
            ray.get(self.hub.left.remote(index, reason, no_memory))
        except ray.exceptions.RayError:  # the hub is gone, and the study with it
            pass
        lane.waits_since, lane.controller, lane.thread = time.monotonic(), None, None

    def _fit(self, index: int, start: int) -> tuple[str, bool]:
        """Run the lane until it ends: why it did, and whether for want of memory."""
        operations = self._operations
        gpu = operations.gpus_per_worker > 0
        resources = {"CPU": operations.cpus_per_worker} | (
            {"GPU": operations.gpus_per_worker} if gpu else {}
        )
        config = LaneConfig(
            index, self.name, max(1, int(operations.cpus_per_worker)), self._open_world
        )
        trainer = Trainer(
            lane_loop,
            train_loop_config={"lane": config},
            # gloo beside NCCL: what ranks tell each other about trials must not wait for a device
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=operations.workers_per_lane, use_gpu=gpu, resources_per_worker=resources
            ),
            run_config=ray.train.RunConfig(
                name=f"lane-{index}-{start}",
                storage_path=self.scratch,
                failure_config=ray.train.FailureConfig(max_failures=-1),
                callbacks=[Introduce(self.name, index), TellHub(self.name, index)],
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            trainer.fit()
        except Exception as error:  # whatever ends a lane is for the hub to judge
            return str(error).strip() or type(error).__name__, out_of_memory(error)
        return "its training function returned", False


def _seconds_until(moment: float | None, unknown: float) -> float:
    return unknown if moment is None else moment - time.time()

"""The driver's side of the lanes: it owns them, one thread each, in a long-lived `TorchTrainer.fit()`.

Owned by the driver and not by Tune's actors, a lane outlives whatever happens to those, and Tune's trials stay thin.
"""

import contextlib
import itertools
import os
import signal
import tempfile
import threading
import time
import uuid
from types import TracebackType
from typing import Any, Self

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_unlearn.execution.hub import Hub, Item
from ray_unlearn.execution.interrupt import Interrupt
from ray_unlearn.execution.lane import LaneConfig, OpenWorld, lane_loop
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.study import Operations

FIRST_JOB = -1
"""The number of the job before trial 0."""

WATCH_S = 5.0
"""The watchdog looks this often at least."""

PATIENCE_S = 10.0
"""How long the end of a study waits for its lanes to leave by themselves."""


class LaneError(UserError):
    """The lanes cannot run this study at all; the message holds what a worker said."""


class Fleet:
    """A context manager: inside it the study's lanes run.

    Args:
        operations: number of lanes, workers, resources, retries.
        open_world: what a lane runs; pickled to the workers.

    Raises:
        LaneError: Ray's workers cannot import this package.
    """

    def __init__(self, operations: Operations, open_world: OpenWorld) -> None:
        self._operations = operations
        self._open_world = open_world
        self._scratch = tempfile.TemporaryDirectory(prefix="ray-unlearn-", ignore_cleanup_errors=True)
        self.name = f"ray-unlearn-hub-{uuid.uuid4().hex[:12]}"
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()
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

    def __enter__(self) -> Self:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Hub).options(name=self.name, num_cpus=0, max_concurrency=1000, scheduling_strategy=here)
        self.hub = actor.remote(self._operations.lanes, self._operations.max_retries, ray.put)
        try:
            ray.get(self.hub.ping.remote())
        except ray.exceptions.RayError as error:
            raise LaneError(
                f"Ray's workers cannot start the hub; is ray-unlearn installed on every node? {error}"
            ) from None
        for index in range(self._operations.lanes):
            thread = threading.Thread(target=self._run_lane, args=(index,), name=f"lane-{index}", daemon=True)
            thread.start()
            self._threads.append(thread)
        if self._operations.stall_timeout_s is not None:
            threading.Thread(target=self._watch, args=(self._operations.stall_timeout_s,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the lanes. One in the middle of a long step is not waited for: it dies with the Ray job."""
        try:
            self._over.set()
            self.stop()
            deadline = time.monotonic() + (0 if kind is KeyboardInterrupt else PATIENCE_S)
            for thread in self._threads:
                thread.join(timeout=max(0.0, deadline - time.monotonic()))
        finally:
            ray.kill(self.hub)
            self._scratch.cleanup()

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
        """The row that was just recorded is the best so far. Returns when the hub knows, so before its lane goes on."""
        with contextlib.suppress(ray.exceptions.RayError):  # the hub is dead: Tune's side will notice
            ray.get(self.hub.keep.remote(number))

    def undelivered(self) -> list[tuple[int, dict[str, Any]]]:
        """Kept weights, with their trials, that no item has told of: the study was interrupted just then."""
        try:
            return list(ray.get(self.hub.undelivered.remote()))
        except ray.exceptions.RayError:
            return []

    def release(self, number: int) -> None:
        """The trial is over: a lane still at it drops it at its next evaluation. Returns at once."""
        self.hub.release.remote(number)

    def first_job(self, baselines: bool, interrupt: Interrupt) -> Item | None:
        """Wait for the lanes' first job: baselines (if asked for), and what all lanes share. None when interrupted.

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
            raise LaneError(f"the hub actor died: {summary(error)}; go on with `ray-unlearn resume`") from None
        self.release(FIRST_JOB)
        if item["kind"] == "ended" and item["status"] == "complete":
            return item
        raise LaneError(f"the lanes could not prepare the study: {item['reason']}")

    def _watch(self, limit_s: float) -> None:
        """Kill the workers of a lane that gives no sign of life: Ray Train does not notice a hung training thread."""
        here = ray.get_runtime_context().get_node_id()
        while not self._over.wait(min(WATCH_S, limit_s / 4)):
            with contextlib.suppress(ray.exceptions.RayError):  # the hub is going, and the study with it
                for index, lane in enumerate(ray.get(self.hub.state.remote())["lanes"]):
                    if lane["silent_s"] < limit_s or lane["lost"] or not lane["pids"]:
                        continue
                    for pid, node, actor, _ in ray.get(self.hub.stalled.remote(index, lane["token"], limit_s)):
                        ray.kill(actor)
                        if node == here:  # a process that is stopped does not hear Ray
                            with contextlib.suppress(ProcessLookupError):
                                os.kill(pid, signal.SIGKILL)

    def _run_lane(self, index: int) -> None:
        """One start of the lane after another: the controller that Ray Train runs for it may die too."""
        for start in itertools.count():
            reason, no_memory = self._fit(index, start)
            try:
                for *_, group in ray.get(self.hub.workers.remote(index)):
                    # A controller that was killed has not freed it, and Ray does only with the job.
                    if group is not None:
                        ray.util.remove_placement_group(group)
                again = ray.get(self.hub.down.remote(index, reason, no_memory))
                if not again:
                    ray.get(self.hub.lost.remote(index, reason))
            except Exception:  # the hub is gone, and the study with it
                return
            if not again:
                return

    def _fit(self, index: int, start: int) -> tuple[str, bool]:
        """Run the lane until it ends: why it did, and whether for want of memory."""
        operations = self._operations
        gpu = operations.gpus_per_worker > 0
        resources = {"CPU": operations.cpus_per_worker} | ({"GPU": operations.gpus_per_worker} if gpu else {})
        config = LaneConfig(index, self.name, max(1, int(operations.cpus_per_worker)), self._open_world)
        trainer = _Trainer(
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
                callbacks=[_TellHub(self.name, index)],
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            trainer.fit()
        except Exception as error:  # whatever ends a lane is for the hub to judge
            return str(error).strip() or type(error).__name__, out_of_memory(error)
        return "its training function returned", False


class _TellHub(ray.train.UserCallback):  # type: ignore[misc]
    """Tells the hub of a dead worker at once, so that its trial goes to another lane without waiting for the restart."""

    def __init__(self, hub: str, lane: int) -> None:
        self._hub = hub
        self._lane = lane

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called in Ray Train's controller process."""
        rank, error = min(worker_exceptions.items())
        reason = f"rank {rank}: {summary(error)}"
        try:
            go_on = ray.get(ray.get_actor(self._hub).down.remote(self._lane, reason, out_of_memory(error)), timeout=30)
        except (ValueError, ray.exceptions.RayError):
            go_on = False  # the hub is gone, and the study with it
        if not go_on:
            raise RuntimeError("the study is over")  # else Ray Train would restart the group for ever


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Without two of Ray Train's helpers, an actor each: they cost 240 MB and seconds per lane.

    The placement-group cleaner would outlive a killed driver, and the data-set manager has no data sets to manage.
    The hook is private: where it is missing, lanes only cost more.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unused = {"PlacementGroupCleanerCallback", "DatasetsCallback"}
        return [callback for callback in super()._create_default_callbacks() if type(callback).__name__ not in unused]


def out_of_memory(error: BaseException) -> bool:
    """Whether Ray's memory monitor killed the process (the kernel's own killer leaves no word)."""
    return isinstance(error, ray.exceptions.OutOfMemoryError) or "OutOfMemoryError" in str(error)


def summary(error: BaseException) -> str:
    """Type and last line of an exception from another process: the line that says what went wrong."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}".strip(": ")[:300]

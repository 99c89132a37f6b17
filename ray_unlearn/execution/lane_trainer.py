"""What Ray Train is given to run a lane: a trainer with fewer helpers, and callbacks that tell the
hub."""

from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from ray_unlearn.execution.cluster import died_with_node, lost_peer

try:
    from ray.train.v2._internal.execution.callback import ControllerCallback
except (
    ImportError
):  # private: without it a lane that waits inside Ray when the study ends cannot be ended
    ControllerCallback = ray.train.UserCallback


class Introduce(ControllerCallback):  # type: ignore[misc]
    """Tells the hub of Ray Train's controller, so that it can be ended wherever it waits."""

    def __init__(self, hub: str, lane: int) -> None:
        self._hub = hub
        self._lane = lane

    def after_controller_start(self, train_run_context: Any) -> None:
        """Called in its process, before anything else."""
        try:
            hub = ray.get_actor(self._hub)
            wanted = ray.get(
                hub.introduce.remote(self._lane, ray.get_runtime_context().current_actor),
                timeout=30,
            )
        except (ValueError, ray.exceptions.RayError):
            wanted = False
        if not wanted:
            raise RuntimeError("the study is over")


class TellHub(ray.train.UserCallback):  # type: ignore[misc]
    """Tells the hub of a dead worker at once, so that its trial goes to another lane without
    waiting for the restart."""

    def __init__(self, hub: str, lane: int) -> None:
        self._hub = hub
        self._lane = lane

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called in Ray Train's controller process."""
        rank, error = min(worker_exceptions.items(), key=lambda one: (lost_peer(one[1]), one[0]))
        reason = f"rank {rank}: {summary(error)}"
        causes = [one for one in worker_exceptions.values() if not lost_peer(one)] or [error]
        # One rank dies with its node, the others for want of it.
        node = next(filter(None, map(died_with_node, causes)), "")
        try:
            hub = ray.get_actor(self._hub)
            restart = ray.get(
                hub.down.remote(self._lane, reason, out_of_memory(error), node), timeout=30
            )
        except (ValueError, ray.exceptions.RayError):
            restart = False  # the hub is gone, and the study with it
        if not restart:  # else Ray Train would wait for room for ever
            raise RuntimeError(f"its node may be gone: {reason}" if node else "the study is over")


class Trainer(TorchTrainer):  # type: ignore[misc]
    """Without two of Ray Train's helpers, an actor each: they cost 240 MB and seconds per lane.

    The placement-group cleaner would outlive a killed driver, and the data-set manager has no data
    sets to manage. The hook is private: where it is missing, lanes only cost more.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unused = {"PlacementGroupCleanerCallback", "DatasetsCallback"}
        return [
            callback
            for callback in super()._create_default_callbacks()
            if type(callback).__name__ not in unused
        ]


def out_of_memory(error: BaseException) -> bool:
    """Whether Ray's memory monitor killed the process (the kernel's own killer leaves no word)."""
    return isinstance(error, ray.exceptions.OutOfMemoryError) or "OutOfMemoryError" in str(error)


def summary(error: BaseException) -> str:
    """Type and last line of an exception from another process: the line that says what went
    wrong."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}".strip(": ")[:300]

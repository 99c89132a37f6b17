"""A lane: a warm Ray Train worker group that runs one trial after another.

The pattern Ray documents, a Tune trial that fits a TorchTrainer, pays for processes, imports,
process group, data and model in every trial: 12 to 24 s on two cores before any work is done. A
lane pays once, then about 45 ms per trial (`benchmarks/lane_overhead.py`). Worker restarts, rank
assignment and the process group stay Ray Train's business.

What a lane runs is a `World`: opened once per start of the worker group, then asked for one trial
after another. Only rank 0 speaks to the hub; every rank hears the answer through a broadcast, so
all ranks take the same path.
"""

import gc
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import ray

from ray_unlearn.execution.cluster import lost_peer
from ray_unlearn.execution.hub import GO, KEEP, QUIT, STOP, WAIT
from ray_unlearn.execution.hub_records import Item
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.schema import Row
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.loop import Ended

BEAT_S = 1.0
"""A lane in a trial shows that it is alive, and asks whether a checkpoint is wanted, this often at
most."""

HEARTBEAT_S = 10.0
"""An idle lane of several workers broadcasts this often, far below the time-out of collectives."""


class Job(Protocol):
    """What a trial may ask and tell while it runs."""

    number: int
    attempt: int
    """0 for the first in this run of the study."""
    known: list[int]
    """Updates whose rows are recorded: an earlier attempt gave them."""

    def checkpoint_wanted(self, update: int) -> bool:
        """Called between updates; also a sign of life. True: the study is about to stop."""

    def restored(self, update: int) -> None:
        """The trial goes on from a checkpoint."""

    def checkpoint_saved(self, update: int) -> None:
        """There is one now."""

    def checkpoint_failed(self, reason: str) -> None:
        """There will be none."""


class World(Protocol):
    """What a lane keeps warm. Every call is made on all ranks, in the same order."""

    def prepare(self, baselines: bool) -> tuple[dict[str, Row], Any]:
        """The study's first job: baseline rows (if asked for), and what other lanes need not
        compute again."""

    def adopt(self, shared: Any) -> None:
        """Take what another lane's `prepare` computed."""

    def trial(self, config: TrialConfig, job: Job) -> Iterator[Row | Ended]:
        """Rows, then one `Ended`. Closed early when the trial is stopped; the next trial starts
        clean all the same."""

    def keep(self, number: int, update: int) -> dict[str, Any] | None:
        """Keep the weights as they are now: on rank 0 what to record about the file, None when it
        cannot; None on others."""


OpenWorld = Callable[[Comm], World]


@dataclass(frozen=True)
class LaneConfig:
    """What every worker of a lane gets."""

    index: int
    hub: str
    threads: int
    open_world: OpenWorld


def lane_loop(settings: dict[str, Any]) -> None:
    """Ray Train's training function: open the world, then trials until the hub says quit."""
    import torch

    config: LaneConfig = settings["lane"]
    torch.set_num_threads(config.threads)
    link = _Link(config, Comm.distributed())
    if link.over:
        return
    world = config.open_world(link.comm)
    link.tell("ready")
    fresh = True
    while (job := link.ask("take", timeout_s=HEARTBEAT_S)) != QUIT:
        if job == WAIT:
            continue
        match job["payload"]:
            case {"kind": "prepare", "baselines": baselines}:
                _prepare(world, baselines, job["number"], link)
            case {"kind": "trial", "config": content, "known": known, "attempt": attempt}:
                if fresh and (shared := link.shared()) is not None:
                    world.adopt(shared)
                told = _Job(link, job["number"], attempt, known)
                if _trial(world, TrialConfig.model_validate(content), told, link) == QUIT:
                    return
        fresh = False


def _prepare(world: World, baselines: bool, number: int, link: "_Link") -> None:
    try:
        rows, shared = world.prepare(baselines)
    except (
        Exception
    ) as error:  # any failure of a job is its outcome, sent as data: a lane must outlive it
        link.fail(number, error)
        return
    result = {"rows": rows, "shared": shared}
    link.report(number, {"kind": "ended", "status": "complete", "reason": "", "result": result})


def _trial(world: World, config: TrialConfig, job: "_Job", link: "_Link") -> str:
    """Run one trial; `GO` when it ended by itself, else the hub's `STOP` or `QUIT`."""
    number = job.number
    rows = world.trial(config, job)
    while True:
        try:
            row = next(rows)
        except Exception as error:  # as above: the trial's outcome, not the lane's
            link.fail(number, error)
            return GO
        if isinstance(row, Ended):
            link.report(number, {"kind": "ended", "status": row.status, "reason": row.reason})
            return GO
        link.report(number, {"kind": "row", "update": row["update"], "metrics": row})
        answer = WAIT
        while answer == WAIT:
            answer = link.ask("verdict", number, timeout_s=HEARTBEAT_S)
        if answer in (STOP, QUIT):
            rows.close()  # type: ignore[attr-defined]
            return str(answer)
        if answer == KEEP and (file := world.keep(number, row["update"])) is not None:
            link.tell("kept", number, file)


class _Job:
    """A trial's line to the hub. All ranks have one; only rank 0 speaks."""

    def __init__(self, link: "_Link", number: int, attempt: int, known: list[int]) -> None:
        self.number = number
        self.attempt = attempt
        self.known = known
        self._link = link
        self._asked: Any = None
        self._last = 0.0

    def checkpoint_wanted(self, update: int) -> bool:
        """Does not wait: the answer to the question of a moment ago."""
        if self._link.comm.rank != 0:
            return False
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            wanted, self._asked = bool(ray.get(self._asked)), None
            if wanted:
                return True
        if self._asked is None and time.monotonic() - self._last >= BEAT_S:
            self._asked, self._last = self._link.send("beat"), time.monotonic()
        return False

    def restored(self, update: int) -> None:
        """For the operator."""
        if self._link.comm.rank == 0:
            self._link.note(f"trial {self.number} goes on from its checkpoint of update {update}")

    def checkpoint_saved(self, update: int) -> None:
        """The hub may wait for this before it lets the study stop."""
        self._link.send("saved")

    def checkpoint_failed(self, reason: str) -> None:
        """Nothing to wait for."""
        self._link.note(f"trial {self.number}: {reason}")
        self._link.send("saved")


class _Link:
    """One rank's line to the hub, under the token of this start of the worker group."""

    def __init__(self, config: LaneConfig, comm: Comm) -> None:
        self.comm = comm
        self._lane = config.index
        self._hub = ray.get_actor(config.hub)
        pids = comm.gather(os.getpid())
        self._token: int | None = comm.broadcast(
            ray.get(self._hub.up.remote(self._lane, pids)) if comm.rank == 0 else None
        )
        if self._token is not None:
            here = ray.get_runtime_context()
            group = ray.util.get_current_placement_group()
            self._call("enlist", (os.getpid(), here.get_node_id(), here.current_actor, group))

    @property
    def over(self) -> bool:
        """The study ended while this worker group started."""
        return self._token is None

    def ask(self, question: str, *content: Any, timeout_s: float) -> Any:
        """Rank 0 asks, all ranks get the answer."""
        answer = self._call(question, *content, timeout_s) if self.comm.rank == 0 else None
        return self.comm.broadcast(answer)

    def tell(self, message: str, *content: Any) -> None:
        """Rank 0 tells the hub."""
        if self.comm.rank == 0:
            self._call(message, *content)

    def send(self, message: str, *content: Any) -> Any:
        """Tell the hub without waiting."""
        return getattr(self._hub, message).remote(self._lane, self._token, *content)

    def report(self, number: int, item: Item) -> None:
        """A row or the end of a job."""
        self.tell("report", number, item)

    def note(self, text: str) -> None:
        """Something an operator should see."""
        ray.get(self._hub.note.remote(text))

    def shared(self) -> Any:
        """What another lane computed for all, None if nothing; each rank reads it in its node's
        object store."""
        kept = ray.get(self._hub.shared.remote())
        return None if kept is None else ray.get(kept[0])

    def fail(self, number: int, error: Exception) -> None:
        """A trial's exception is its outcome, not the lane's.

        With several workers the others may wait in a collective for this one: the outcome is sent
        first, then the exception goes on, so that Ray Train restarts the group. A worker whose peer
        is gone has no outcome to tell: the peer has told it, or died, and then the trial runs
        again.
        """
        status, reason = classify(error)
        if self.comm.world > 1 and status == "failed" and lost_peer(error):
            raise error
        self._call("report", number, {"kind": "ended", "status": status, "reason": reason})
        if self.comm.world > 1:
            raise error
        error.__traceback__ = None  # it holds the tensors of the failed step
        _free_memory()

    def _call(self, method: str, *content: Any) -> Any:
        return ray.get(getattr(self._hub, method).remote(self._lane, self._token, *content))


OUT_OF_MEMORY_HINT = (
    "lower operations.micro_batch_size or evaluation.batch_size, set operations.activation_checkpointing, use fewer lanes, "
    "several workers with operations.parallel: shard, or, with other results, model.dtype: bfloat16 or model.lora; "
    "`ray-unlearn plan` says what each would save"
)


def classify(error: BaseException) -> tuple[str, str]:
    """Outcome and reason of an exception inside a trial."""
    import torch

    text = f"{type(error).__name__}: {error}".strip()
    no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and any(sign in str(error).lower() for sign in ("out of memory", "can't allocate memory"))
    )
    return ("out_of_memory", f"{text}; {OUT_OF_MEMORY_HINT}") if no_memory else ("failed", text)


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

"""A lane: a warm worker group that runs one trial after another.

The pattern Ray documents, a Tune trial that fits a TorchTrainer, pays for processes, imports,
process group, data and model in every trial: 12 to 24 s on two cores before any work is done. A
lane pays once, then about 45 ms per trial (`benchmarks/lane_overhead.py`). Worker restarts, rank
assignment and the process group stay Ray Train's business (`lane_trainer`); what a lane does is
here, and knows no Ray.

A lane opens a `LaneWorkspace` once per start of the worker group, then asks it for one trial after
another. Only rank 0 speaks to the hub; every rank hears the answer through a broadcast, so all
ranks take the same path.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from ray_unlearn.environment import Environment
from ray_unlearn.execution.hub import Hub
from ray_unlearn.execution.hub_line import HubLine, Reply
from ray_unlearn.execution.messages import (
    Answer,
    Assignment,
    BestWeights,
    JobEnded,
    LaneStart,
    Launch,
    Prepare,
    Prepared,
    Reported,
    RowReported,
    RunTrial,
    Worker,
)
from ray_unlearn.execution.trial_errors import classify, free_memory, lost_peer
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.schema import Row, RowKey, row_key
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.loop import Ended

BEAT_S = 1.0
"""A lane in a trial shows that it is alive, and asks whether a checkpoint is wanted, this often at
most."""

HEARTBEAT_S = 10.0
"""An idle lane of several workers broadcasts this often, far below the time-out of collectives."""

Rows = Iterator[Row | Ended]


class LaneWorkspace(Protocol):
    """What a lane keeps warm, where every call is made on all ranks, in the same order."""

    def prepare(self, baselines: bool) -> Prepared:
        """Run the study's first job, for all lanes.

        It computes baseline rows (if asked for), and what other lanes need not compute again.
        """

    def adopt(self, shared: object) -> None:
        """Take what another lane's `prepare` computed."""

    def trial(self, config: TrialConfig, running: "RunningTrial") -> Rows:
        """Run a trial, yielding its rows and then one `Ended`.

        It is closed early if the trial is stopped; the next trial starts clean all the same.
        """

    def save_weights(self, number: int, key: RowKey) -> BestWeights | None:
        """Save the weights as they are now: those of the last row.

        Returns:
            The file on rank 0, or None if it cannot be written; None on other ranks.
        """


OpenWorkspace = Callable[[Comm], LaneWorkspace]


class LaneLink:
    """One rank's line to the hub, under one start of the worker group.

    Args:
        hub: where to call.
        launch: which launch of the lane this worker group belongs to.
        comm: the worker group.
        worker: this process.
        environment: the clock.
    """

    def __init__(
        self, hub: HubLine, launch: Launch, comm: Comm, worker: Worker, environment: Environment
    ) -> None:
        self.hub = hub
        self.comm = comm
        self.environment = environment
        pids = comm.gather(worker.pid)
        up = None if pids is None else hub.ask(Hub.up, launch, tuple(pids))
        start: LaneStart | None = comm.broadcast(up)
        self.over = start is None
        """The study ended while this worker group started, or the lane was launched again."""
        self.start = start or LaneStart(launch.lane, -1)
        if not self.over:
            hub.ask(Hub.enlist, self.start, worker)

    @property
    def speaks(self) -> bool:
        """Whether this rank is the one that speaks to the hub."""
        return self.comm.rank == 0

    def ready(self) -> None:
        """Model and data are there."""
        if self.speaks:
            self.hub.ask(Hub.ready, self.start)

    def take(self) -> Assignment | Answer:
        """The next job, or why there is none; the same on all ranks."""
        taken = self.hub.ask(Hub.take, self.start, HEARTBEAT_S) if self.speaks else None
        answer: Assignment | Answer = self.comm.broadcast(taken)
        return answer

    def report(self, number: int, item: Reported) -> None:
        """A row, or the end of a job."""
        if self.speaks:
            self.hub.ask(Hub.report, self.start, number, item)

    def verdict(self, number: int) -> Answer:
        """Wait for the answer to a row; the same on all ranks."""
        answer = Answer.WAIT
        while answer is Answer.WAIT:
            given = (
                self.hub.ask(Hub.verdict, self.start, number, HEARTBEAT_S) if self.speaks else None
            )
            answer = self.comm.broadcast(given)
        return answer

    def note(self, text: str) -> None:
        """Something an operator should see."""
        if self.speaks:
            self.hub.ask(Hub.note, text)

    def fail(self, number: int, error: Exception) -> None:
        """A trial's exception is its outcome, not the lane's.

        With several workers the others may wait in a collective for this one: the outcome is sent
        first, then the exception goes on, so that Ray Train restarts the group. A worker whose peer
        is gone has no outcome to report: the peer has reported it, or died, and then the trial runs
        again.
        """
        status, reason = classify(error)
        several = self.comm.world_size > 1
        if several and status == "failed" and lost_peer(error):
            raise error
        self.hub.ask(Hub.report, self.start, number, JobEnded(status, reason))
        if several:
            raise error
        error.__traceback__ = None  # it holds the tensors of the failed step
        free_memory()


class RunningTrial:
    """A trial's line to the hub, which all ranks have and only rank 0 uses."""

    def __init__(self, link: LaneLink, number: int, attempt: int, order: RunTrial) -> None:
        self.number = number
        self.attempt = attempt
        """0 for the first in this session of the study."""
        self.order = order
        self._link = link
        self._asked: Reply[int] | None = None
        self._last = -BEAT_S
        self._request = 0
        """The last request for a checkpoint that this trial has heard of."""

    def checkpoint_wanted(self, update: int) -> bool:
        """Whether the study is about to stop.

        It is called between updates and is also a sign of life. It does not wait: it returns the
        answer to the previous question.
        """
        if not self._link.speaks:
            return False
        if self._asked is not None and self._asked.done():
            request, self._asked = self._asked.result(), None
            self._request = max(self._request, request)
            if request:
                return True
        now = self._link.environment.monotonic()
        if self._asked is None and now - self._last >= BEAT_S:
            self._asked, self._last = self._link.hub.send(Hub.beat, self._link.start), now
        return False

    def restored(self, update: int) -> None:
        """The trial goes on from a checkpoint."""
        self._link.note(f"trial {self.number} goes on from its checkpoint of update {update}")

    def checkpoint_saved(self, update: int) -> None:
        """Report a checkpoint, for which the hub may wait before it lets the study stop."""
        if self._link.speaks and self._request:
            start = self._link.start
            self._link.hub.send(Hub.checkpointed, start, self.number, self._request)

    def checkpoint_failed(self, reason: str) -> None:
        """There will be none: nothing to wait for."""
        self._link.note(f"trial {self.number}: {reason}")
        self.checkpoint_saved(-1)


def run_lane(link: LaneLink, open_workspace: OpenWorkspace) -> None:
    """Open the workspace, then run trials until the hub says quit."""
    if link.over:
        return
    workspace = open_workspace(link.comm)
    link.ready()
    fresh = True
    while (given := link.take()) is not Answer.QUIT:
        if not isinstance(given, Assignment):
            continue
        if isinstance(given.order, Prepare):
            _prepare(workspace, given.order, given.number, link)
        else:
            if fresh:
                _adopt(workspace, link)
            if _run_trial(workspace, given, given.order, link) is Answer.QUIT:
                return
        fresh = False


def _prepare(workspace: LaneWorkspace, order: Prepare, number: int, link: LaneLink) -> None:
    try:
        prepared = workspace.prepare(order.baselines)
    except Exception as error:  # the job's outcome, sent as data: the lane must outlive it
        link.fail(number, error)
        return
    link.report(number, JobEnded("complete", "", prepared))


def _adopt(workspace: LaneWorkspace, link: LaneLink) -> None:
    """What another lane has computed for all; each rank reads it in its node's object store."""
    reference = link.hub.ask(Hub.shared)
    if reference is not None:
        workspace.adopt(link.hub.fetch(reference[0]))


def _run_trial(
    workspace: LaneWorkspace, given: Assignment, order: RunTrial, link: LaneLink
) -> Answer:
    """Run one trial; `GO` when it ended by itself, else the hub's `STOP` or `QUIT`."""
    number = given.number
    config = TrialConfig.model_validate(order.config)
    rows = workspace.trial(config, RunningTrial(link, number, given.attempt, order))
    while True:
        try:
            row = next(rows)
        except Exception as error:  # the trial's outcome: the lane must outlive it
            link.fail(number, error)
            return Answer.GO
        if isinstance(row, Ended):
            link.report(number, JobEnded(row.status, row.reason))
            return Answer.GO
        link.report(number, RowReported(row["update"], row))
        answer = link.verdict(number)
        if answer in (Answer.STOP, Answer.QUIT):
            rows.close()  # type: ignore[attr-defined]
            return answer
        if answer is Answer.GO_AND_SAVE:
            weights = workspace.save_weights(number, row_key(row))
            if weights is not None and link.speaks:
                link.hub.ask(Hub.weights_saved, link.start, weights)

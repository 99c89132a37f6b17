"""The hub: one async actor per study, the post office between Tune's trials and the lanes.

A trial's side `pull`s; a lane's side `take`s, `report`s and waits for the verdict. Every evaluation
row waits for Tune: the lane goes on only when the trial's side pulls the next item, which means
that it has dealt with the previous one. So early stopping never overruns, and a row is on disk
before the next update is computed.

What the hub does about faults:
- The job of a worker that died goes to the front of the queue as the next attempt. After
  `max_retries` the job ends as failed: a trial that kills its worker every time ends only itself,
  not the study.
- A worker that died with its node does not count against its trial: never if the node's end had
  been announced, and up to `NODE_DEATHS` times if not, because a trial may also bring down a node.
- A lane on a node that is about to leave is asked for a checkpoint (`vacate`), and its job goes on
  elsewhere.
- A lane without a sign of life for too long is `stalled`: its job goes on elsewhere, and the fleet
  kills its workers.
- A trial's side that died and came back pulls from 0 and gets the waiting item.
- A lane that dies again and again before it is ready ends the study with the reason.
- Before the study is interrupted it may be `drain`ed: every lane is asked for a checkpoint first.

Any call may come late, from a sender that is gone. So each call that changes state names what it
assumes (see `messages`), and has no effect if that no longer holds:

    pull              the number was never released; `handled` only grows
    release           nothing: an outcome is final, and so is a release
    save_weights      the trial is still at this row of this attempt
    take, beat, ready, enlist, stalled, vacate        `start` is the lane's last one
    report, verdict, weights_saved, checkpointed      and the lane still has this job
    weights_saved     and this row is the last one reported
    checkpointed      and no newer request for a checkpoint has been made
    introduce, up, down, left                         the driver has not launched the lane again
    waits             the lane is still down
    note, drain, interrupt, settle, resize            nothing: order does not matter, or one caller
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.execution.hub_jobs import HubJob
from ray_unlearn.execution.hub_lanes import HubLane, Stopwatch
from ray_unlearn.execution.messages import (
    Answer,
    Assignment,
    BestWeights,
    Delivery,
    Fatal,
    Fault,
    HubState,
    Interrupted,
    JobEnded,
    LaneStart,
    Launch,
    Order,
    Reported,
    Worker,
)
from ray_unlearn.store.schema import RowKey

MAX_FAILED_STARTS = 3
SETTLE_S = 30.0
"""A node that is alive these seconds after a worker could not be reached was not the cause."""


class Hub:
    """The jobs and lanes of a study; see the module.

    All methods are coroutines of one event loop: no two run at once between awaits. Time-outs are
    by the loop's clock.

    Args:
        lanes: number of lanes at first.
        max_retries: faults of its worker that a trial survives.
        put: stores what lanes share where all can read it and where it outlives its maker.
        environment: the clock.
    """

    def __init__(
        self,
        lanes: int,
        max_retries: int,
        put: Callable[[Any], Any] = lambda value: value,
        environment: Environment = REAL,
    ) -> None:
        self._max_retries = max_retries
        self._put = put
        self._environment = environment
        self._lanes: list[HubLane] = []
        self._add_lanes(lanes)
        self._jobs: dict[int, HubJob] = {}
        self._released: set[int] = set()
        self._queue: deque[int] = deque()
        self._shared: Any = None
        self._end: Fatal | Interrupted | None = None
        self._notes: list[str] = []
        self._unsettled: list[tuple[HubJob, set[str], float]] = []
        """Jobs whose worker can no longer be reached, the worker's nodes, and since when."""
        self._draining = False
        self._changed = asyncio.Condition()

    # -- the trial's side --------------------------------------------------------------------------

    async def pull(self, number: int, handled: int, order: Order) -> Delivery:
        """The job's next item; the first call hands the job in.

        Args:
            number: number of the trial, or `FIRST_JOB`.
            handled: sequence number of the last item that was dealt with, 0 for none. It lets the
                lane go on. Asking again with the same number returns the same item.
            order: what the lane is to do.
        """
        async with self._changed:
            if number in self._released:
                return Delivery(Interrupted("released"), handled, 0)
            if number not in self._jobs:
                self._jobs[number] = HubJob(number, order)
                self._queue.append(number)
            job = self._jobs[number]
            job.deal_with(handled)
            self._changed.notify_all()
            await self._changed.wait_for(
                lambda: self._end or job.arrived(handled) or number in self._released
            )
            if job.arrived(handled):
                return job.deliver(self._notes)
            return Delivery(self._end or Interrupted("released"), handled, job.attempt)

    async def release(self, number: int) -> None:
        """Forget a trial that is over for Tune, finished or stopped.

        A lane that still runs it drops it at its next evaluation.
        """
        async with self._changed:
            self._released.add(number)
            self._jobs.pop(number, None)
            if number in self._queue:
                self._queue.remove(number)
            self._changed.notify_all()

    async def save_weights(self, number: int, attempt: int, key: RowKey) -> None:
        """Have the lane save the weights of this row, the best so far, before it goes on."""
        job = self._jobs.get(number)
        if job is not None and job.attempt == attempt and job.is_at(key):
            job.save_at = job.sequence

    async def undelivered(self) -> list[BestWeights]:
        """Files of weights that no delivery is known to have reported."""
        return [job.weights for job in self._jobs.values() if job.weights is not None]

    async def drain(self) -> None:
        """Hand out no more trials, and ask every lane for a checkpoint of the one it runs."""
        async with self._changed:
            self._draining = True
            for lane in self._lanes:
                lane.request += 1
            self._changed.notify_all()

    async def drained(self) -> bool:
        """Whether every lane with a trial has answered `drain` with a checkpoint, or cannot."""
        return all(lane.job is None or lane.saved for lane in self._lanes)

    async def interrupt(self) -> None:
        """End all jobs: every pull returns, and every lane quits at its next question."""
        await self._finish(Interrupted())

    async def ping(self) -> None:
        """Return once the actor runs."""

    async def note(self, text: str) -> None:
        """Add a note for the operator, which is delivered with the next item."""
        self._notes.append(text)

    # -- the lane's side ---------------------------------------------------------------------------

    async def up(self, launch: Launch, pids: tuple[int, ...]) -> LaneStart | None:
        """Register a worker group of this lane that has started; None: it is no longer wanted."""
        async with self._changed:
            if self._end is not None or self._outdated(launch):
                return None
            self._give_back(launch.lane, Fault("its worker group was restarted"))
            start = self._lanes[launch.lane].begin(self._environment.monotonic(), pids)
            self._changed.notify_all()
            return start

    async def enlist(self, start: LaneStart, worker: Worker) -> None:
        """Register one of the worker group's processes."""
        if self._is_current(start):
            self._lanes[start.lane].workers.append(worker)

    async def workers(self, lane: int) -> list[Worker]:
        """Workers of the lane's last start, dead or alive."""
        return self._lanes[lane].workers

    async def ready(self, start: LaneStart) -> None:
        """Note that the lane holds model and data, and takes jobs from now on."""
        if self._is_current(start):
            lane = self._lanes[start.lane]
            lane.ready, lane.failed_starts = True, 0
            lane.watch.turn("idle")

    async def beat(self, start: LaneStart) -> int:
        """Register a sign of life between two updates.

        Returns:
            The number of a request for a checkpoint that waits for an answer, 0 if there is none.
        """
        if not self._is_current(start):
            return 0
        lane = self._lanes[start.lane]
        lane.heard = self._environment.monotonic()
        return lane.request if (self._draining or lane.leaving) and not lane.saved else 0

    async def checkpointed(self, start: LaneStart, number: int, request: int) -> None:
        """Note that the lane's trial was checkpointed after this request, or cannot be.

        A checkpoint from before is no answer, because updates have been computed since.
        """
        if self._held(start, number) is not None:
            lane = self._lanes[start.lane]
            lane.answered = max(lane.answered, request)

    async def take(self, start: LaneStart, timeout_s: float) -> Assignment | Answer:
        """The next job, `WAIT` after `timeout_s` without one, or `QUIT`."""
        lane = self._lanes[start.lane]

        def free() -> bool:
            return bool(self._queue) and not self._draining and not lane.leaving

        if not await self._until(free, start, timeout_s):
            return Answer.QUIT if self._is_over(start) else Answer.WAIT
        job = self._jobs[self._queue.popleft()]
        job.lane = start.lane
        lane.assign(job.number)
        return Assignment(job.number, job.attempt, job.current_order)

    async def report(self, start: LaneStart, number: int, item: Reported) -> None:
        """Accept a row, or the job's end."""
        async with self._changed:
            job, lane = self._held(start, number), self._lanes[start.lane]
            ended = isinstance(item, JobEnded)
            if ended and self._is_current(start) and lane.job == number:
                lane.job = None  # whether or not anybody still waits for the job
                lane.watch.turn("idle")
            if job is None:
                return
            if isinstance(item, JobEnded):
                item = self._without_shared(item)
            else:
                lane.watch.turn("verdict")
                lane.count(item)
            job.put(item)
            self._changed.notify_all()

    async def verdict(self, start: LaneStart, number: int, timeout_s: float) -> Answer:
        """The answer to a row: go on, stop, `WAIT` after `timeout_s` without one, or `QUIT`."""

        def answered() -> bool:
            job = self._held(start, number)
            return job is None or job.handled >= job.sequence

        if not await self._until(answered, start, timeout_s):
            return Answer.QUIT if self._is_over(start) else Answer.WAIT
        job, lane = self._held(start, number), self._lanes[start.lane]
        if job is None:
            lane.job = None
            lane.watch.turn("idle")
            return Answer.STOP
        lane.watch.turn("busy")
        save, job.save_at = job.save_at == job.sequence, 0
        return Answer.GO_AND_SAVE if save else Answer.GO

    async def weights_saved(self, start: LaneStart, weights: BestWeights) -> None:
        """Note that the weights of the last reported row are in this file.

        A file that is never reported is a leftover, and removed as such.
        """
        job = self._held(start, weights.number)
        if job is not None and job.is_at(weights.key):
            job.weights = weights

    async def shared(self) -> Any:
        """What the first job computed for all lanes, as a list with a reference; None: nothing."""
        return self._shared

    # -- faults ------------------------------------------------------------------------------------

    async def stalled(self, start: LaneStart, silent_s: float) -> list[Worker]:
        """The workers to kill of a lane without a sign of life for `silent_s`.

        The list is empty if the lane has given one meanwhile.
        """
        async with self._changed:
            lane, now = self._lanes[start.lane], self._environment.monotonic()
            if not self._is_current(start) or now - lane.heard < silent_s:
                return []
            lane.stalled = f"no sign of life for {silent_s:g} s (operations.stall_timeout_s)"
            self._give_back(start.lane, Fault(lane.stalled))
            lane.replace()
            lane.heard = now
            self._changed.notify_all()
            return lane.workers

    async def down(self, launch: Launch, fault: Fault) -> bool:
        """Take down a lane of which a worker died or raised.

        Returns:
            Whether the group should be restarted where it is. It should not if its node may be
            gone, because then there may be no room.
        """
        async with self._changed:
            if self._outdated(launch):
                return False
            fault = self._explained(launch.lane, fault)
            self._notes.append(f"lane {launch.lane} restarts: {fault.reason}")
            self._take_down(launch.lane, fault)
        return await self._starts_again(launch.lane, fault.reason) and not fault.node

    async def left(self, launch: Launch, fault: Fault) -> None:
        """Note that this launch of the lane has ended for any reason; the fleet starts another."""
        async with self._changed:
            if self._outdated(launch):
                return
            lane = self._lanes[launch.lane]
            lane.launch, lane.controller = launch.number + 1, None
            if lane.up:
                fault = self._explained(launch.lane, fault)
                self._notes.append(f"lane {launch.lane} starts anew: {fault.reason}")
                self._take_down(launch.lane, fault)
            elif not lane.leaving:
                lane.failed_starts += 1
            lane.leaving = ""
        await self._starts_again(launch.lane, fault.reason)

    async def vacate(self, start: LaneStart, reason: str, at_once: bool) -> bool:
        """Ask a lane whose node is about to leave for a checkpoint of its trial.

        Returns:
            Whether the lane may be ended: its trial has a checkpoint, cannot have one, or there is
            no time left (`at_once`). Then the trial is in the queue again.
        """
        async with self._changed:
            lane = self._lanes[start.lane]
            if not self._is_current(start) or not lane.up:
                return False
            if not lane.leaving:
                lane.leaving = reason
                lane.request += 1
            self._changed.notify_all()
            if lane.job is not None and not lane.saved and not at_once:
                return False
            self._notes.append(f"lane {start.lane} moves: {reason}")
            self._take_down(start.lane, Fault(reason, node="preempted"))
            return True

    async def settle(self, alive: Collection[str]) -> None:
        """Decide by the nodes that are alive why workers could not be reached.

        Such a worker has died with its node, or counts against its trial. The trial runs again
        meanwhile; the finding counts at its next fault.
        """
        still = []
        for job, nodes, since in self._unsettled:
            if not nodes <= set(alive):
                job.node_deaths += 1
            elif self._environment.monotonic() - since >= SETTLE_S:
                job.faults += 1
            else:
                still.append((job, nodes, since))
        self._unsettled = still

    # -- the fleet's side --------------------------------------------------------------------------

    async def resize(self, retired: Collection[int], lanes: int) -> None:
        """Set the number of lanes, and which of them are retired because there is no room."""
        self._add_lanes(lanes - len(self._lanes))
        for index, lane in enumerate(self._lanes):
            lane.retired = index in retired

    async def introduce(self, launch: Launch, controller: Any) -> bool:
        """Register the handle of a lane's Ray Train controller, by which the lane can be ended.

        Returns:
            False if the lane is no longer wanted.
        """
        if self._outdated(launch):
            return False
        lane = self._lanes[launch.lane]
        lane.controller = controller
        return self._end is None and not lane.retired

    async def controllers(self) -> dict[int, Any]:
        """Controllers by lane, for the lanes that have one."""
        return {
            index: lane.controller
            for index, lane in enumerate(self._lanes)
            if lane.controller is not None
        }

    async def waits(self, lanes: Mapping[int, str]) -> None:
        """Set what these lanes wait for; an empty text: the lane has a place, and starts."""
        for index, text in lanes.items():
            lane = self._lanes[index]
            if lane.up:
                continue
            if bool(text) != bool(lane.waiting_for):
                lane.watch.turn("pending" if text else "starting")
            lane.waiting_for = text

    async def state(self) -> HubState:
        """The hub's state now."""
        now = self._environment.monotonic()
        return HubState(
            tuple(lane.state(now) for lane in self._lanes),
            tuple(self._queue),
            {number: job.attempt for number, job in self._jobs.items()},
            self._end is not None,
            len(self._unsettled),
        )

    # -- inside ------------------------------------------------------------------------------------

    def _add_lanes(self, more: int) -> None:
        for index in range(len(self._lanes), len(self._lanes) + more):
            self._lanes.append(HubLane(index, Stopwatch(self._environment)))

    def _is_current(self, start: LaneStart) -> bool:
        return self._lanes[start.lane].is_current(start)

    def _is_over(self, start: LaneStart) -> bool:
        return self._end is not None or not self._is_current(start)

    def _outdated(self, launch: Launch) -> bool:
        """Whether the driver has launched the lane again, or the launch has ended."""
        lane = self._lanes[launch.lane]
        lane.launch = max(lane.launch, launch.number)
        return launch.number < lane.launch

    def _held(self, start: LaneStart, number: int) -> HubJob | None:
        """The job, if this start of the lane still has it."""
        has_it = self._is_current(start) and self._lanes[start.lane].job == number
        job = self._jobs.get(number) if has_it else None
        return job if job is not None and job.lane == start.lane else None

    def _without_shared(self, end: JobEnded) -> JobEnded:
        """The job's end without what lanes share, which is stored here and not for the driver."""
        if end.prepared is None or end.prepared.shared is None:
            return end
        # In a list, so that a reference travels as a reference and not as its value.
        self._shared = [self._put(end.prepared.shared)]
        return JobEnded(end.status, end.reason, replace(end.prepared, shared=None))

    def _explained(self, lane: int, fault: Fault) -> Fault:
        """The fault with the hub's own reason, if it has one."""
        stalled = self._lanes[lane].stalled
        return Fault(stalled, fault.no_memory, fault.node) if stalled else fault

    def _take_down(self, index: int, fault: Fault) -> None:
        """Take down a lane whose worker group is gone."""
        lane = self._lanes[index]
        self._give_back(index, fault)
        lane.replace()
        lane.pids = ()
        if not lane.ready and fault.node in ("", "unknown"):
            lane.failed_starts += 1
        lane.ready = lane.up = False
        if fault.node and not lane.leaving:
            # so that the end of its controller does not count as a failed start
            lane.leaving = fault.reason
        lane.watch.turn("starting")
        self._changed.notify_all()

    async def _starts_again(self, index: int, reason: str) -> bool:
        failed = self._lanes[index].failed_starts
        if failed >= MAX_FAILED_STARTS:
            await self._finish(Fatal(f"lane {index} failed to start {failed} times: {reason}"))
        return self._end is None

    def _give_back(self, index: int, fault: Fault) -> None:
        lane = self._lanes[index]
        job = self._jobs.get(lane.job) if lane.job is not None else None
        lane.job = None
        if job is None or job.ended or job.lane != index:
            return
        if fault.node == "unknown":
            nodes = {worker.node for worker in lane.workers}
            self._unsettled.append((job, nodes, self._environment.monotonic()))
        if job.interrupt(fault, self._max_retries):
            self._queue.appendleft(job.number)

    async def _until(self, true: Callable[[], bool], start: LaneStart, timeout_s: float) -> bool:
        """Wait until `true()`; False at the time-out, or if the lane has to quit."""
        if not self._is_over(start):
            self._lanes[start.lane].heard = self._environment.monotonic()
        async with self._changed:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait_for(lambda: self._is_over(start) or true())
            except TimeoutError:
                return False
            return not self._is_over(start)

    async def _finish(self, end: Fatal | Interrupted) -> None:
        async with self._changed:
            self._end = self._end or end
            self._changed.notify_all()

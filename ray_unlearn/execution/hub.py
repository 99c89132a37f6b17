"""The hub: one async actor per study, the post office between Tune's trials and the lanes.

A trial's side `pull`s, a lane's side `take`s, `report`s and waits for the verdict. Every evaluation
row waits for Tune: the lane goes on only when the trial's side pulls the next item, which says that
it has dealt with the one before. So early stopping never overruns, and a row is on disk before the
next update is computed.

What the hub does about faults:
- a worker that died gives its job back, to the front of the queue, as the next attempt; after
  `max_retries` the job ends as failed, so that a trial which kills its worker every time costs
  itself and not the study;
- a worker that died with its node is not held against its trial: never if the node's end had been
  announced, and `NODE_DEATHS` times if not, for a trial may bring down a node, too;
- a lane on a node that is about to leave is `vacate`d: it is asked for a checkpoint, and its job
  goes on elsewhere;
- each start of a lane gets a token; calls with an old one are answered `QUIT`, so a half-dead
  worker does no harm;
- a trial's side that died and came back pulls from 0 and gets the item that waits;
- a lane that gives no sign of life for too long is `stalled`: its job goes on elsewhere, and the
  fleet kills its workers;
- a lane that dies again and again before it is ready, or lanes that are all gone, end the study
  with the reason;
- before the study is interrupted it may be `drained`: every lane is asked for a checkpoint of its
  trial first.

The hub imports neither torch nor pydantic: it starts in a second, and moves plain dictionaries.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ray_unlearn.execution.hub_records import Item, Job, Lane

GO, STOP, WAIT, QUIT = "go", "stop", "wait", "quit"
KEEP = "keep"
"""As `GO`, and keep the weights of the row: it is the best so far."""
MAX_FAILED_STARTS = 3
SETTLE_S = 30.0
"""A node that is alive so long after a worker could not be reached had nothing to do with it."""
NODE_DEATHS = 5
"""Nodes that may die under one trial without warning."""


class Hub:
    """See the module. All methods are coroutines of one event loop: no two run at once between
    awaits."""

    def __init__(
        self, lanes: int, max_retries: int, put: Callable[[Any], Any] = lambda value: value
    ) -> None:
        self._max_retries = max_retries
        self._put = put
        """Into the object store: what lanes share is read there by all of them, and outlives the
        lane that made it."""
        self._lanes = [Lane() for _ in range(lanes)]
        self._jobs: dict[int, Job] = {}
        self._queue: deque[int] = deque()
        self._shared: Any = None
        self._end: Item | None = None
        self._notes: list[str] = []
        self._unsettled: list[tuple[Job, set[str], float]] = []
        """Jobs whose worker could not be reached any more, its nodes, and since when."""
        self._draining = False
        self._changed = asyncio.Condition()

    # -- the trial's side --------------------------------------------------------------------------

    async def pull(self, number: int, handled: int, payload: dict[str, Any]) -> Item:
        """The job's next item; `handled` says which one is dealt with (0: none), and lets the lane
        go on.

        The first call hands the job in. Calling again with the same `handled` gives the same item.
        """
        async with self._changed:
            if number not in self._jobs:
                self._jobs[number] = Job(number, payload, known=list(payload.get("known", ())))
                self._queue.append(number)
            job = self._jobs[number]
            if handled > job.handled:
                job.handled = handled
                if job.item is not None and job.item["kind"] == "row" and job.sequence == handled:
                    job.known.append(job.item["update"])
            self._changed.notify_all()

            def arrived() -> bool:
                return job.item is not None and job.sequence > handled

            await self._changed.wait_for(lambda: self._end or arrived() or number not in self._jobs)
            if job.item is not None and arrived():
                kept, job.kept = job.kept, None
                about = {
                    "sequence": job.sequence,
                    "attempt": job.attempt,
                    "notes": self._drain_notes(),
                }
                return job.item | about | ({"kept": kept} if kept else {})
            end = self._end or {"kind": "interrupted", "reason": "released"}
            return end | {"sequence": handled, "attempt": job.attempt, "notes": self._drain_notes()}

    async def release(self, number: int) -> None:
        """The trial is over for Tune, finished or stopped: a lane still at it drops it at its next
        evaluation."""
        async with self._changed:
            self._jobs.pop(number, None)
            if number in self._queue:
                self._queue.remove(number)
            self._changed.notify_all()

    async def keep(self, number: int) -> None:
        """The row that the trial's side has is the best so far: its lane is to keep the weights."""
        job = self._jobs.get(number)
        if job is not None:
            job.keep = job.sequence

    async def drain(self) -> None:
        """No more trials; every lane is asked for a checkpoint of the one it runs."""
        async with self._changed:
            self._draining = True
            self._changed.notify_all()

    async def drained(self) -> bool:
        """Whether every lane with a trial has given its checkpoint since `drain`, or cannot."""
        return all(state.job is None or state.saved for state in self._lanes)

    async def interrupt(self) -> None:
        """No more trials: every pull returns, every lane quits at its next question."""
        await self._finish({"kind": "interrupted", "reason": "interrupted"})

    async def ping(self) -> None:
        """Returns once the actor runs."""

    # -- the lane's side ---------------------------------------------------------------------------

    async def up(self, lane: int, pids: list[int]) -> int | None:
        """A worker group of this lane has started. Returns its token; None when the study is
        over."""
        async with self._changed:
            if self._end is not None:
                return None
            state = self._lanes[lane]
            self._give_back(lane, "its worker group was restarted")
            state.token += 1
            state.pids, state.ready, state.heard = pids, False, time.monotonic()
            state.workers, state.stalled = [], ""
            state.up, state.waiting_for, state.leaving = True, "", ""
            state.starts += 1
            state.clock.turn("starting")
            self._changed.notify_all()
            return state.token

    async def enlist(self, lane: int, token: int, worker: tuple[int, str, Any, Any]) -> None:
        """One of the lane's workers: process id, node id, the handle of its actor, its placement
        group."""
        if self._current(lane, token):
            self._lanes[lane].workers.append(worker)

    async def workers(self, lane: int) -> list[Any]:
        """Those of the lane's last start, dead or alive."""
        return self._lanes[lane].workers

    async def beat(self, lane: int, token: int) -> bool:
        """A sign of life from between two updates. True asks for a checkpoint."""
        if not self._current(lane, token):
            return False
        state = self._lanes[lane]
        state.heard = time.monotonic()
        return bool(self._draining or state.leaving) and not state.saved

    async def saved(self, lane: int, token: int) -> None:
        """The lane's trial has a checkpoint, or cannot have one."""
        state = self._lanes[lane]
        if self._current(lane, token) and (self._draining or state.leaving):
            state.saved = True

    async def kept(self, lane: int, token: int, number: int, file: dict[str, Any]) -> None:
        """The weights of the row that waits are in this file."""
        job = self._held(lane, token, number)
        if job is not None:
            job.kept = file

    async def undelivered(self) -> list[tuple[int, dict[str, Any]]]:
        """Files of kept weights that were never pulled."""
        return [(number, job.kept) for number, job in self._jobs.items() if job.kept is not None]

    async def note(self, text: str) -> None:
        """Something an operator should see; it travels with the next item."""
        self._notes.append(text)

    async def ready(self, lane: int, token: int) -> None:
        """The lane holds model and data, and takes jobs from now on."""
        if self._current(lane, token):
            self._lanes[lane].ready = True
            self._lanes[lane].failed_starts = 0
            self._lanes[lane].clock.turn("idle")

    async def take(self, lane: int, token: int, timeout_s: float) -> dict[str, Any] | str:
        """The next job, `WAIT` after `timeout_s` without one, or `QUIT`."""
        state = self._lanes[lane]

        def free() -> bool:
            return bool(self._queue) and not self._draining and not state.leaving

        if not await self._until(free, lane, token, timeout_s):
            return QUIT if self._over(lane, token) else WAIT
        number = self._queue.popleft()
        job = self._jobs[number]
        job.lane, state.job = lane, number
        state.saved, state.counted = False, 0
        state.clock.turn("busy")
        return {
            "number": number,
            "payload": job.payload | {"known": list(job.known), "attempt": job.attempt},
        }

    async def report(self, lane: int, token: int, number: int, item: Item) -> None:
        """A row, or the job's end. Nothing happens when the job was released meanwhile."""
        async with self._changed:
            job = self._held(lane, token, number)
            if job is None:
                return
            job.item, job.sequence = item | {"lane": lane}, job.sequence + 1
            self._lanes[lane].clock.turn("idle" if job.ended else "verdict")
            if not job.ended:
                self._count_tokens(lane, item.get("metrics") or {})
            else:
                self._lanes[lane].job = None
                if (result := item.get("result")) is not None and (
                    shared := result.get("shared")
                ) is not None:
                    self._shared = [self._put(shared)]  # in a list a reference travels as one
                    job.item["result"] = result | {"shared": None}  # nothing for the driver
            self._changed.notify_all()

    async def verdict(self, lane: int, token: int, number: int, timeout_s: float) -> str:
        """After a row: `GO`, `STOP`, `WAIT` after `timeout_s` without an answer, or `QUIT`."""

        def answered() -> bool:
            job = self._held(lane, token, number)
            return job is None or job.handled >= job.sequence

        if not await self._until(answered, lane, token, timeout_s):
            return QUIT if self._over(lane, token) else WAIT
        job = self._held(lane, token, number)
        if job is not None:
            self._lanes[lane].clock.turn("busy")
            keep, job.keep = job.keep == job.sequence, 0
            return KEEP if keep else GO
        self._lanes[lane].job = None
        self._lanes[lane].clock.turn("idle")
        return STOP

    async def shared(self) -> Any:
        """What the first job computed for all lanes: a list with the reference to it; None if
        nothing."""
        return self._shared

    # -- faults ------------------------------------------------------------------------------------

    async def stalled(self, lane: int, token: int, silent_s: float) -> list[Any]:
        """No sign of life for that long: the lane's workers, to be killed; nothing when it has
        spoken meanwhile."""
        async with self._changed:
            state = self._lanes[lane]
            if not self._current(lane, token) or time.monotonic() - state.heard < silent_s:
                return []
            state.stalled = f"no sign of life for {silent_s:g} s (operations.stall_timeout_s)"
            self._give_back(lane, state.stalled)
            state.token += 1
            state.heard = time.monotonic()
            self._changed.notify_all()
            return state.workers

    async def down(self, lane: int, reason: str, no_memory: bool = False, node: str = "") -> bool:
        """A worker of this lane died or raised. Returns whether the group should be restarted where
        it is.

        Args:
            lane: whose.
            reason: what happened.
            no_memory: Ray killed it for want of memory; a trial that this happens to again and
                again ends as such.
            node: whether its node died with it (see `elastic.died_with_node`): then there may be no
                room for a restart, and the lane is placed anew.
        """
        async with self._changed:
            state = self._lanes[lane]
            reason = state.stalled or reason
            self._notes.append(f"lane {lane} restarts: {reason}")
            self._take_down(lane, reason, no_memory, node)
        return await self._starts_again(lane, reason) and not node

    async def left(self, lane: int, reason: str, no_memory: bool = False) -> None:
        """The lane's controller has ended, whatever ended it; the fleet starts another one."""
        async with self._changed:
            state = self._lanes[lane]
            state.controller = None
            if state.up:
                reason = state.stalled or reason
                self._notes.append(f"lane {lane} starts anew: {reason}")
                self._take_down(lane, reason, no_memory)
            elif not state.leaving:
                state.failed_starts += 1
            state.leaving = ""
        await self._starts_again(lane, reason)

    async def vacate(self, lane: int, token: int, reason: str, at_once: bool) -> bool:
        """The lane's node is about to leave: the lane is asked for a checkpoint of its trial.
        Returns whether it may be ended: its trial has one, cannot have one, or there is no time
        left (`at_once`). Then the trial is in the queue again.
        """
        async with self._changed:
            state = self._lanes[lane]
            if not self._current(lane, token) or not state.up:
                return False
            state.leaving = reason
            self._changed.notify_all()
            if state.job is not None and not state.saved and not at_once:
                return False
            self._notes.append(f"lane {lane} moves: {reason}")
            self._take_down(lane, reason, node="preempted")
            return True

    async def settle(self, alive: set[str]) -> None:
        """Which nodes are alive now: a worker that could not be reached has died with its node, or
        is held against its trial.

        Its trial runs again meanwhile. What is found counts at its next fault.
        """
        still = []
        for job, nodes, since in self._unsettled:
            if not nodes <= alive:
                job.node_deaths += 1
            elif time.monotonic() - since >= SETTLE_S:
                job.faults += 1
            else:
                still.append((job, nodes, since))
        self._unsettled = still

    async def lost(self, lane: int, reason: str) -> None:
        """This lane will not come back."""
        await self.down(lane, reason)
        self._lanes[lane].lost = True
        if all(state.lost or state.retired for state in self._lanes):
            await self._finish(
                {"kind": "fatal", "reason": f"no lane is left; the last one ended with: {reason}"}
            )

    # -- the fleet's side --------------------------------------------------------------------------

    async def resize(self, retired: list[int], lanes: int) -> None:
        """There are so many lanes from now on, and these of them rest for want of room."""
        self._lanes += [Lane() for _ in range(lanes - len(self._lanes))]
        for index, state in enumerate(self._lanes):
            state.retired = index in retired

    async def introduce(self, lane: int, controller: Any) -> bool:
        """Ray Train's controller of this lane has started: the handle to end it by. False: it is
        not wanted any more."""
        self._lanes[lane].controller = controller
        return self._end is None and not self._lanes[lane].retired

    async def controllers(self) -> dict[int, Any]:
        """Of the lanes that have one."""
        return {
            lane: state.controller
            for lane, state in enumerate(self._lanes)
            if state.controller is not None
        }

    async def waits(self, lanes: dict[int, str]) -> None:
        """What these lanes wait for; nothing: they have a place, and start."""
        for lane, text in lanes.items():
            state = self._lanes[lane]
            if bool(text) != bool(state.waiting_for):
                state.clock.turn("pending" if text else "starting")
            state.waiting_for = text

    async def state(self) -> dict[str, Any]:
        """Each lane: process ids, nodes, what it does and how long it has done what, seconds since
        it was last heard."""
        now = time.monotonic()
        lanes = [
            {
                "index": index,
                "state": s.shown,
                "pids": s.pids,
                "nodes": sorted({node for _, node, *_ in s.workers}) if s.up else [],
                "up": s.up,
                "ready": s.ready,
                "job": s.job,
                "lost": s.lost,
                "leaving": s.leaving,
                "retired": s.retired,
                "waiting_for": s.waiting_for,
                "silent_s": now - s.heard,
                "token": s.token,
                "restarts": max(0, s.starts - 1),
                "tokens": s.tokens,
                "busy_s": s.clock.seconds("busy"),
                "verdict_s": s.clock.seconds("verdict"),
                "idle_s": s.clock.seconds("idle"),
                "up_s": s.clock.seconds("busy", "verdict", "idle"),
            }
            for index, s in enumerate(self._lanes)
        ]
        jobs = {number: job.attempt for number, job in self._jobs.items()}
        return {
            "lanes": lanes,
            "queued": list(self._queue),
            "jobs": jobs,
            "over": self._end is not None,
            "unsettled": len(self._unsettled),
        }

    # -- inside ------------------------------------------------------------------------------------

    def _current(self, lane: int, token: int) -> bool:
        return token == self._lanes[lane].token

    def _over(self, lane: int, token: int) -> bool:
        return self._end is not None or not self._current(lane, token)

    def _held(self, lane: int, token: int, number: int) -> Job | None:
        """The job, if this start of the lane still has it."""
        job = self._jobs.get(number)
        return job if job is not None and self._current(lane, token) and job.lane == lane else None

    def _take_down(self, lane: int, reason: str, no_memory: bool = False, node: str = "") -> None:
        """Its worker group is no more."""
        state = self._lanes[lane]
        self._give_back(lane, reason, no_memory, node)
        state.token += 1
        state.pids = []
        if not state.ready and node in ("", "unknown"):
            state.failed_starts += 1
        state.ready = state.up = False
        if node and not state.leaving:
            state.leaving = (
                reason  # so that the end of its controller does not count as a failed start
            )
        state.clock.turn("starting")
        self._changed.notify_all()

    async def _starts_again(self, lane: int, reason: str) -> bool:
        state = self._lanes[lane]
        if state.failed_starts >= MAX_FAILED_STARTS:
            starts = f"lane {lane} failed to start {state.failed_starts} times"
            await self._finish({"kind": "fatal", "reason": f"{starts}: {reason}"})
        return self._end is None

    def _give_back(self, lane: int, reason: str, no_memory: bool = False, node: str = "") -> None:
        number = self._lanes[lane].job
        self._lanes[lane].job = None
        job = self._jobs.get(number) if number is not None else None
        if job is None or job.ended or job.lane != lane:
            return
        job.lane = None
        job.attempt += 1
        if node == "unknown":
            nodes = {worker[1] for worker in self._lanes[lane].workers}
            self._unsettled.append((job, nodes, time.monotonic()))
        job.faults += not node
        job.node_deaths += node == "node"
        end = ""
        if job.faults > self._max_retries:
            end = f"its worker died or hung {job.faults} times; the last time: {reason}"
        elif job.node_deaths > NODE_DEATHS:
            end = f"its node died {job.node_deaths} times; the last time: {reason}"
        if end:
            status = "out_of_memory" if no_memory else "failed"
            job.item, job.sequence = (
                {"kind": "ended", "status": status, "reason": end},
                job.sequence + 1,
            )
        else:
            # A row that nobody has pulled yet is dropped: the next attempt computes it again.
            job.item, job.handled = None, job.sequence
            self._queue.appendleft(job.number)

    def _count_tokens(self, lane: int, metrics: dict[str, Any]) -> None:
        """A row has its trial's tokens so far, those before a checkpoint among them."""
        state = self._lanes[lane]
        now = int(metrics.get("forget_tokens") or 0) + int(metrics.get("retain_tokens") or 0)
        state.tokens += max(0, now - state.counted)
        state.counted = max(now, state.counted)

    async def _until(
        self, true: Callable[[], bool], lane: int, token: int, timeout_s: float
    ) -> bool:
        """Wait until `true()`; False on timeout, or when the lane has to quit."""
        self._lanes[lane].heard = time.monotonic()
        async with self._changed:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait_for(lambda: self._over(lane, token) or true())
            except TimeoutError:
                return False
            return not self._over(lane, token)

    async def _finish(self, end: Item) -> None:
        async with self._changed:
            self._end = self._end or end
            self._changed.notify_all()

    def _drain_notes(self) -> list[str]:
        notes, self._notes = self._notes, []
        return notes

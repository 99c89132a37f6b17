"""The hub's rules without Ray: it is an ordinary class, only its methods are coroutines.

Time is that of `VirtualLoop`: no test waits.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from virtual_time import VirtualLoop

from ray_unlearn.environment import Environment
from ray_unlearn.execution.hub import SETTLE_S, Hub
from ray_unlearn.execution.hub_jobs import NODE_DEATHS
from ray_unlearn.execution.messages import (
    Answer,
    Assignment,
    BestWeights,
    Fatal,
    Fault,
    Interrupted,
    JobEnded,
    KnownRow,
    LaneStart,
    Launch,
    NodeFate,
    RowReported,
    RunTrial,
    Worker,
)

ORDER = RunTrial({})
DONE = JobEnded("complete")
S = 60.0


def row(update: int, **metrics: float) -> RowReported:
    return RowReported(update, {"update": update} | metrics)


def weights(number: int, update: int) -> BestWeights:
    return BestWeights(number, update, f"{number}-{update}", 1, "sha")


class Post:
    """A hub with lanes that are up, and the trial's sides."""

    def __init__(self, loop: VirtualLoop, lanes: int = 1, max_retries: int = 1) -> None:
        self.loop = loop
        self.hub = Hub(lanes, max_retries, environment=VirtualClock(loop))
        self.starts: list[LaneStart] = []
        self.launches = [1] * lanes
        for lane in range(lanes):
            self.starts.append(self.up(lane))

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        """What the call gives."""
        return self.loop.run_until_complete(call)

    def ask(self, call: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """A call that is not waited for; what can happen at once has happened."""
        task = self.loop.create_task(call)
        self.settle()
        return task

    def settle(self) -> None:
        """All that can happen without waiting has happened."""
        self.run(_turns())

    def up(self, lane: int, ready: bool = True) -> LaneStart:
        start = self.run(self.hub.up(Launch(lane, self.launches[lane]), (100 + lane,)))
        assert isinstance(start, LaneStart)
        if ready:
            self.run(self.hub.ready(start))
        return start

    def pull(self, number: int, handled: int = 0, order: RunTrial = ORDER) -> "asyncio.Task[Any]":
        return self.ask(self.hub.pull(number, handled, order))

    def take(self, start: LaneStart) -> Assignment:
        given = self.run(self.hub.take(start, S))
        assert isinstance(given, Assignment)
        return given

    def running(self) -> tuple[LaneStart, "asyncio.Task[Any]"]:
        """The first lane has taken trial 1: its start, and the trial's side, which waits."""
        side = self.pull(1)
        assert self.take(self.starts[0]).number == 1
        return self.starts[0], side

    def verdict(self, start: LaneStart, number: int = 1) -> Any:
        return self.run(self.hub.verdict(start, number, S))

    def dealt_with(self, start: LaneStart, side: "asyncio.Task[Any]") -> "asyncio.Task[Any]":
        """Trial 1's row was dealt with: its side asks for the next one, and the lane goes on."""
        after = self.pull(1, side.result().sequence)
        assert self.verdict(start) is Answer.GO
        return after

    def down(self, lane: int, reason: str = "gone", **about: Any) -> bool:
        call = self.hub.down(Launch(lane, self.launches[lane]), Fault(reason, **about))
        return bool(self.run(call))

    def left(self, lane: int) -> None:
        """Its controller ends, and the driver launches it again."""
        self.run(self.hub.left(Launch(lane, self.launches[lane]), Fault("its controller ended")))
        self.launches[lane] += 1

    def report(self, start: LaneStart, number: int, item: RowReported | JobEnded) -> None:
        self.run(self.hub.report(start, number, item))
        self.settle()


class VirtualClock(Environment):
    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.time()


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def loop() -> Any:
    loop = VirtualLoop()
    yield loop
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(_turns())
    loop.close()


@pytest.fixture
def one(loop: VirtualLoop) -> Post:
    return Post(loop)


@pytest.fixture
def two(loop: VirtualLoop) -> Post:
    return Post(loop, lanes=2)


def test_a_lane_is_told_to_stop_when_its_trial_is_released_and_to_go_on_when_its_row_was_dealt_with(
    one: Post,
) -> None:
    [start] = one.starts
    side = one.pull(7)
    assert one.take(start).number == 7
    one.report(start, 7, row(1))
    assert side.result().item == row(1)
    assert one.verdict(start, 7) is Answer.WAIT
    side = one.pull(7, 1)
    assert one.verdict(start, 7) is Answer.GO
    one.report(start, 7, row(2))
    assert side.result().item == row(2)
    one.run(one.hub.release(7))
    assert one.verdict(start, 7) is Answer.STOP


def test_an_idle_lane_is_answered_in_time_for_its_heartbeat(one: Post) -> None:
    began = one.loop.time()
    assert one.run(one.hub.take(one.starts[0], 10.0)) is Answer.WAIT
    assert one.loop.time() - began == pytest.approx(10.0)


def test_a_trial_whose_lane_died_goes_to_another_lane_before_all_waiting_ones(two: Post) -> None:
    sides = [two.pull(number) for number in (1, 2, 3)]
    assert two.take(two.starts[0]).number == 1
    assert two.down(0, "killed")
    assert two.take(two.starts[1]).number == 1
    two.report(two.starts[1], 1, row(1))
    found = sides[0].result()
    assert (found.attempt, found.lane) == (1, 1)
    assert found.notes == ("lane 0 restarts: killed",)


def test_a_trial_side_that_died_and_came_back_gets_the_same_item_with_all_that_came_with_it(
    one: Post,
) -> None:
    """Whatever the first answer carried, a note or the word of saved weights, may be lost."""
    start, side = one.running()
    one.report(start, 1, row(1))
    one.run(one.hub.save_weights(1, 0, (1, 1.0)))
    one.pull(1, side.result().sequence)
    assert one.verdict(start) is Answer.GO_AND_SAVE
    one.run(one.hub.weights_saved(start, weights(1, 1)))
    one.run(one.hub.note("look"))
    one.report(start, 1, row(2))
    first, again = (one.run(one.hub.pull(1, 1, ORDER)) for _ in range(2))
    assert first == again
    assert (first.notes, first.weights) == (("look",), weights(1, 1))
    assert one.run(one.hub.undelivered()) == [weights(1, 1)], "nobody has said that it arrived"
    one.pull(1, first.sequence)
    assert one.run(one.hub.undelivered()) == []


def test_a_row_of_a_dead_attempt_that_nobody_saw_is_not_delivered_late(one: Post) -> None:
    start, side = one.running()
    one.report(start, 1, row(1))
    side = one.dealt_with(start, side)
    one.down(0)
    new = one.up(0)
    assert one.take(new).number == 1
    one.report(new, 1, row(1))
    assert (side.result().item, side.result().attempt) == (row(1), 1)
    assert one.verdict(new) is Answer.WAIT, "the replayed row waits for its verdict like any other"


def test_retries_are_capped_by_trial(loop: VirtualLoop) -> None:
    post = Post(loop, max_retries=2)
    side = post.pull(1)
    for life in range(3):
        assert post.take(post.starts[0]).number == 1
        post.down(0, f"death {life + 1}")
        post.starts[0] = post.up(0)
    end = side.result().item
    assert end == JobEnded("failed", "its worker died or hung 3 times; the last time: death 3")
    assert post.run(post.hub.take(post.starts[0], S)) is Answer.WAIT


def test_a_lane_that_dies_at_every_start_ends_the_study_but_one_that_was_ready_does_not(
    one: Post,
) -> None:
    for _ in range(5):
        assert one.down(0, "trouble")
        one.up(0)
    side = one.pull(1)
    assert one.down(0, "trouble")
    assert one.down(0, "No module named 'x'")
    assert one.down(0, "No module named 'x'")
    assert not one.down(0, "No module named 'x'"), "Ray Train is told not to try again"
    one.settle()
    assert side.result().item == Fatal("lane 0 failed to start 3 times: No module named 'x'")
    assert one.run(one.hub.up(Launch(0, 1), ())) is None


def test_an_interrupt_frees_everybody(two: Post) -> None:
    start, side = two.running()
    idle = two.ask(two.hub.take(two.starts[1], S))
    two.run(two.hub.interrupt())
    two.settle()
    assert isinstance(side.result().item, Interrupted)
    assert idle.result() is Answer.QUIT
    assert two.verdict(start) is Answer.QUIT


def test_draining_asks_every_lane_for_a_checkpoint_and_gives_no_more_trials(two: Post) -> None:
    hub, (first, second) = two.hub, two.starts
    sides = [two.pull(number) for number in (1, 2)]
    two.take(first)
    assert not two.run(hub.beat(first))
    two.run(hub.drain())
    assert not two.run(hub.drained())
    assert two.run(hub.take(second, S)) is Answer.WAIT, "one that begins now would only be lost"
    request = two.run(hub.beat(first))
    assert request
    assert two.run(hub.beat(first)) == request, "asked until there is one"
    two.run(hub.checkpointed(first, 1, request))
    assert not two.run(hub.beat(first))
    assert two.run(hub.drained())
    two.run(hub.interrupt())
    two.settle()
    assert [side.result().item for side in sides] == [Interrupted()] * 2


def test_the_weights_of_the_best_row_are_saved_once_and_the_file_comes_with_the_next_item(
    one: Post,
) -> None:
    start, side = one.running()
    one.report(start, 1, row(1))
    one.run(one.hub.save_weights(1, 0, (1, 1.0)))
    side = one.pull(1, side.result().sequence)
    assert one.verdict(start) is Answer.GO_AND_SAVE
    one.run(one.hub.weights_saved(start, weights(1, 1)))
    one.report(start, 1, row(2))
    assert side.result().weights == weights(1, 1)
    side = one.dealt_with(start, side)
    one.report(start, 1, row(3))
    assert side.result().weights is None


def test_the_next_attempt_knows_the_rows_that_are_recorded_and_no_others(one: Post) -> None:
    [start] = one.starts
    known = [KnownRow(update, 1.0, 2.5) for update in (1, 2, 3)]
    side = one.pull(1, order=RunTrial({}, (known[0],)))
    assert one.take(start).order == RunTrial({}, (known[0],)), "from the ledger of a resumed study"
    for update in (2, 3):
        one.report(start, 1, row(update, forget_nll=2.5))
        side = one.dealt_with(start, side)
    one.report(start, 1, row(4))  # arrives, and the lane dies before anybody has dealt with it
    one.down(0)
    assert one.take(one.up(0)).order == RunTrial({}, tuple(known))


def test_a_silent_lane_is_stalled_once_and_its_trial_goes_elsewhere(two: Post) -> None:
    hub, (first, second) = two.hub, two.starts
    worker = Worker(100, "node", "actor")
    two.run(hub.enlist(first, worker))
    _, side = two.running()
    assert two.run(hub.stalled(first, 60.0)) == [], "it has just given a sign of life"
    two.run(asyncio.sleep(60.0))
    assert two.run(hub.stalled(first, 60.0)) == [worker]
    assert two.run(hub.stalled(first, 60.0)) == [], "the start is another one now"
    assert two.run(hub.take(first, S)) is Answer.QUIT, "if it wakes up"
    assert two.take(second).number == 1
    assert two.down(0, "SIGKILL")
    two.report(second, 1, row(1))
    found = side.result()
    assert found.attempt == 1
    assert any("no sign of life for 60 s" in note for note in found.notes)


def test_a_trial_that_runs_out_of_memory_again_and_again_ends_as_such(one: Post) -> None:
    side = one.pull(1)
    for _ in range(2):
        one.take(one.starts[0])
        one.down(0, "killed by the memory monitor", no_memory=True)
        one.starts[0] = one.up(0)
    assert side.result().item.status == "out_of_memory"


def dies(post: Post, fate: NodeFate) -> None:
    """The lane takes its trial, dies in this way, and is launched again."""
    start = post.up(0)
    post.run(post.hub.enlist(start, Worker(1, "its node")))
    assert post.take(start).number == 1
    post.down(0, "gone", node=fate)
    post.left(0)


def test_a_node_that_goes_is_not_held_against_the_trial_but_not_for_ever(loop: VirtualLoop) -> None:
    """A node that had been announced to leave never counts, others do after a while: a trial may be
    what brings them down."""
    post = Post(loop, max_retries=0)
    side = post.pull(1)
    for _ in range(2 * NODE_DEATHS):
        dies(post, "preempted")
    for _ in range(NODE_DEATHS):
        dies(post, "node")
    assert not side.done()
    dies(post, "node")
    post.settle()
    reason = f"its node died {NODE_DEATHS + 1} times; the last time: gone"
    assert side.result().item == JobEnded("failed", reason)
    assert side.result().attempt == 3 * NODE_DEATHS + 1


def test_a_worker_that_cannot_be_reached_counts_when_its_node_turns_out_to_live(
    loop: VirtualLoop,
) -> None:
    post = Post(loop, max_retries=0)
    side = post.pull(1)
    dies(post, "unknown")
    post.run(post.hub.settle({"another node"}))
    assert post.run(post.hub.state()).unsettled == 0
    dies(post, "unknown")
    post.run(post.hub.settle({"its node"}))
    assert post.run(post.hub.state()).unsettled == 1, "Ray may not have noticed yet"
    post.run(asyncio.sleep(SETTLE_S))
    post.run(post.hub.settle({"its node"}))
    assert not side.done()
    dies(post, "")
    post.settle()
    assert side.result().item.reason.startswith("its worker died or hung 2 times")


def test_a_lane_leaves_its_node_with_a_checkpoint_or_when_time_is_up(loop: VirtualLoop) -> None:
    post = Post(loop, lanes=2, max_retries=0)
    hub, (first, second) = post.hub, post.starts
    _, side = post.running()
    assert not post.run(hub.beat(first))
    assert not post.run(hub.vacate(first, "its node goes", at_once=False))
    assert post.run(hub.state()).lanes[0].state == "draining"
    request = post.run(hub.beat(first))
    assert request, "it is asked for a checkpoint"
    assert not post.run(hub.beat(second)), "and the other lane is not"
    post.run(hub.checkpointed(first, 1, request))
    assert post.run(hub.vacate(first, "its node goes", at_once=False))
    assert not post.run(hub.vacate(first, "its node goes", at_once=True)), "once"
    assert post.run(hub.take(first, S)) is Answer.QUIT
    assert post.take(second).number == 1
    assert not post.run(hub.vacate(second, "its node goes", at_once=False))
    assert post.run(hub.vacate(second, "its node goes", at_once=True))
    post.left(1)
    post.up(1, ready=False)
    assert post.run(hub.state()).lanes[1].state == "starting"
    assert not side.done(), "neither counts as a fault"


def test_an_idle_lane_leaves_its_node_at_once_and_takes_nothing_more(one: Post) -> None:
    [start] = one.starts
    asking = one.ask(one.hub.take(start, S))
    assert one.run(one.hub.vacate(start, "its node goes", at_once=False))
    one.settle()
    assert asking.result() is Answer.QUIT


def test_where_a_lanes_time_goes(one: Post) -> None:
    """2 s of waiting for a trial, 3 + 5 s of computing, 4 s for a verdict, 6 s idle."""
    [start] = one.starts

    def passes(seconds: float) -> None:
        one.run(asyncio.sleep(seconds))

    passes(2)
    side = one.pull(1)
    one.take(start)
    passes(3)
    one.report(start, 1, row(1, forget_tokens=70, retain_tokens=30))
    passes(4)
    one.pull(1, side.result().sequence)
    assert one.run(one.hub.verdict(start, 1, 1)) is Answer.GO
    passes(5)
    one.report(start, 1, DONE)
    passes(6)
    [lane] = one.run(one.hub.state()).lanes
    spent = (lane.busy_s, lane.verdict_s, lane.idle_s, lane.up_s)
    assert spent == pytest.approx((8.0, 4.0, 8.0, 20.0))
    assert (lane.tokens, lane.state, lane.restarts) == (100, "idle", 0)


# -- late words: each of these changed something before it said what it assumes --------------------


def test_what_a_replaced_worker_says_counts_for_nothing(one: Post) -> None:
    """Ray Train may think a worker dead that still computes: two writers of one trial would mix
    their rows."""
    old, side = one.running()
    new = one.up(0)
    assert one.take(new).number == 1
    one.report(old, 1, row(99))
    assert one.verdict(old) is Answer.QUIT
    assert one.run(one.hub.take(old, S)) is Answer.QUIT
    one.report(new, 1, row(1))
    assert side.result().item == row(1)


def test_a_replaced_worker_is_no_sign_of_life_of_its_successor(one: Post) -> None:
    [old] = one.starts
    new = one.up(0)
    one.run(asyncio.sleep(60.0))
    one.run(one.hub.take(old, S))
    one.run(one.hub.beat(old))
    assert one.run(one.hub.state()).lanes[0].silent_s >= 60.0
    assert new != old


def test_a_released_trial_is_not_run_again_for_a_late_pull(one: Post) -> None:
    """A lane would run it and wait for a verdict for ever."""
    one.run(one.hub.release(1))
    assert isinstance(one.run(one.hub.pull(1, 2, ORDER)).item, Interrupted)
    assert one.run(one.hub.state()).queued == ()


def test_a_lane_at_the_end_of_a_released_trial_is_free(one: Post) -> None:
    """Otherwise an interrupt would wait for a checkpoint of a trial that is over."""
    [start] = one.starts
    one.pull(1)
    one.take(start)
    one.run(one.hub.release(1))
    one.report(start, 1, JobEnded("infeasible"))
    [lane] = one.run(one.hub.state()).lanes
    assert (lane.job, lane.state) == (None, "idle")
    one.run(one.hub.drain())
    assert one.run(one.hub.drained())


def test_weights_are_not_saved_at_another_row_than_the_one_that_was_meant(one: Post) -> None:
    """The lane died meanwhile, and the next attempt has replayed an earlier row."""
    start, side = one.running()
    one.report(start, 1, row(1))
    side = one.dealt_with(start, side)
    one.report(start, 1, row(2))
    one.down(0)
    new = one.up(0)
    one.take(new)
    one.report(new, 1, row(1))
    one.run(one.hub.save_weights(1, 0, (2, 1.0)))
    one.pull(1, side.result().sequence + 1)
    assert one.verdict(new) is Answer.GO


def test_the_word_of_saved_weights_of_a_row_that_was_followed_by_another_counts_for_nothing(
    one: Post,
) -> None:
    start, _ = one.running()
    one.report(start, 1, row(2))
    one.run(one.hub.weights_saved(start, weights(1, 1)))
    assert one.run(one.hub.undelivered()) == []


def test_a_checkpoint_that_is_older_than_the_request_does_not_answer_it(one: Post) -> None:
    """Its word was on the way when the study was asked to stop: updates have been computed since,
    and would be lost."""
    start, _ = one.running()
    one.run(one.hub.vacate(start, "its node goes", at_once=False))
    before = one.run(one.hub.beat(start))
    one.run(one.hub.drain())
    one.run(one.hub.checkpointed(start, 1, before))
    assert not one.run(one.hub.drained())
    one.run(one.hub.checkpointed(start, 1, one.run(one.hub.beat(start))))
    assert one.run(one.hub.drained())


def test_a_checkpoint_of_the_trial_before_does_not_answer_for_this_one(one: Post) -> None:
    [start] = one.starts
    one.pull(1)
    one.pull(2)
    one.take(start)
    one.report(start, 1, DONE)
    assert one.take(start).number == 2
    one.run(one.hub.drain())
    request = one.run(one.hub.beat(start))
    one.run(one.hub.checkpointed(start, 1, request))
    assert not one.run(one.hub.drained())


def test_a_controller_that_was_replaced_cannot_take_the_lane_down_nor_bring_it_up(
    one: Post,
) -> None:
    """The driver ended it, and launched the lane anew; its last words were on the way."""
    old = Launch(0, 1)
    one.left(0)
    assert one.run(one.hub.introduce(Launch(0, 2), "controller"))
    start = one.up(0)
    one.pull(1)
    one.take(start)
    assert one.run(one.hub.up(old, (9,))) is None
    assert not one.run(one.hub.down(old, Fault("killed")))
    assert not one.run(one.hub.introduce(old, "old"))
    one.run(one.hub.left(old, Fault("ended")))
    [lane] = one.run(one.hub.state()).lanes
    assert (lane.start, lane.up, lane.job) == (start, True, 1)
    assert one.run(one.hub.controllers()) == {0: "controller"}


def test_a_lane_that_is_up_meanwhile_does_not_wait(one: Post) -> None:
    """The clocks of what it does would run wrong."""
    one.running()
    one.run(one.hub.waits({0: "1 CPU"}))
    one.run(asyncio.sleep(5.0))
    [lane] = one.run(one.hub.state()).lanes
    assert (lane.waiting_for, lane.state, lane.busy_s) == ("", "busy", 5.0)

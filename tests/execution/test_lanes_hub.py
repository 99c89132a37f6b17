"""The hub's rules without Ray: it is an ordinary class, only its methods are coroutines."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from ray_unlearn.execution.hub import GO, KEEP, NODE_DEATHS, QUIT, STOP, WAIT, Hub

PAYLOAD = {"kind": "trial"}
SOON = 0.02


def row(update: int) -> dict[str, Any]:
    return {"kind": "row", "update": update, "metrics": {}}


def asynchronously(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, timeout=10))


async def started(lanes: int = 1, max_retries: int = 1) -> tuple[Hub, list[int]]:
    hub = Hub(lanes, max_retries)
    tokens = [await hub.up(lane, [100 + lane]) for lane in range(lanes)]
    for lane, token in enumerate(tokens):
        await hub.ready(lane, token or 0)
    return hub, [token or 0 for token in tokens]


def test_a_lane_hears_stop_when_its_trial_is_released_and_go_when_the_row_is_dealt_with() -> None:
    async def test() -> None:
        hub, [token] = await started()
        side = asyncio.create_task(hub.pull(7, 0, PAYLOAD))
        assert (await hub.take(0, token, 1))["number"] == 7
        await hub.report(0, token, 7, row(1))
        assert (await side)["update"] == 1
        assert await hub.verdict(0, token, 7, SOON) == WAIT
        asking = asyncio.create_task(hub.pull(7, 1, PAYLOAD))
        assert await hub.verdict(0, token, 7, 1) == GO
        await hub.report(0, token, 7, row(2))
        assert (await asking)["update"] == 2
        await hub.release(7)
        assert await hub.verdict(0, token, 7, 1) == STOP

    asynchronously(test())


def test_an_idle_lane_is_answered_in_time_for_its_heartbeat() -> None:
    async def test() -> None:
        hub, [token] = await started()
        assert await hub.take(0, token, SOON) == WAIT

    asynchronously(test())


def test_a_trial_whose_lane_died_goes_to_another_lane_before_all_waiting_ones() -> None:
    async def test() -> None:
        hub, [one, two] = await started(lanes=2)
        sides = [asyncio.create_task(hub.pull(number, 0, PAYLOAD)) for number in (1, 2, 3)]
        await asyncio.sleep(SOON)
        assert (await hub.take(0, one, 1))["number"] == 1
        assert await hub.down(0, "node lost")
        taken = await hub.take(1, two, 1)
        assert taken["number"] == 1
        await hub.report(1, two, 1, row(1))
        item = await sides[0]
        assert (item["attempt"], item["lane"]) == (1, 1)
        assert item["notes"] == ["lane 0 restarts: node lost"]
        for side in sides[1:]:
            side.cancel()

    asynchronously(test())


def test_a_row_of_a_dead_attempt_that_nobody_saw_is_not_delivered_late() -> None:
    async def test() -> None:
        hub, [token] = await started()
        first = asyncio.create_task(hub.pull(1, 0, PAYLOAD))
        await hub.take(0, token, 1)
        await hub.report(0, token, 1, row(1))
        assert (await first)["update"] == 1
        asking = asyncio.create_task(hub.pull(1, 1, PAYLOAD))
        assert await hub.verdict(0, token, 1, 1) == GO
        await hub.down(0, "killed")
        new = await hub.up(0, [200]) or 0
        assert (await hub.take(0, new, 1))["number"] == 1
        await hub.report(0, new, 1, row(1))
        item = await asking
        assert (item["update"], item["attempt"]) == (1, 1)
        assert await hub.verdict(0, new, 1, SOON) == WAIT, (
            "the replayed row waits for its verdict like any other"
        )

    asynchronously(test())


def test_what_a_replaced_worker_says_counts_for_nothing() -> None:
    """Ray Train may think a worker dead that still computes: two writers of one trial would mix
    their rows."""

    async def test() -> None:
        hub, [old] = await started()
        side = asyncio.create_task(hub.pull(1, 0, PAYLOAD))
        await hub.take(0, old, 1)
        new = await hub.up(0, [200]) or 0
        assert (await hub.take(0, new, 1))["number"] == 1
        await hub.report(0, old, 1, row(99))
        assert await hub.verdict(0, old, 1, 1) == QUIT
        assert await hub.take(0, old, 1) == QUIT
        await hub.report(0, new, 1, row(1))
        assert (await side)["update"] == 1

    asynchronously(test())


def test_retries_are_capped_by_trial() -> None:
    async def test() -> None:
        hub, [token] = await started(max_retries=2)
        side = asyncio.create_task(hub.pull(1, 0, PAYLOAD))
        for life in range(3):
            assert (await hub.take(0, token, 1))["number"] == 1
            await hub.down(0, f"death {life + 1}")
            token = await hub.up(0, [life]) or 0
            await hub.ready(0, token)
        end = await side
        assert (end["status"], end["reason"]) == (
            "failed",
            "its worker died or hung 3 times; the last time: death 3",
        )
        assert await hub.take(0, token, SOON) == WAIT

    asynchronously(test())


def test_a_lane_that_dies_at_every_start_ends_the_study_but_one_that_was_ready_does_not() -> None:
    async def test() -> None:
        hub, [token] = await started()
        for _ in range(5):
            assert await hub.down(0, "trouble")
            token = await hub.up(0, []) or 0
            await hub.ready(0, token)
        side = asyncio.create_task(hub.pull(1, 0, PAYLOAD))
        assert await hub.down(0, "trouble")
        assert await hub.down(0, "No module named 'x'")
        assert await hub.down(0, "No module named 'x'")
        assert not await hub.down(0, "No module named 'x'"), "Ray Train is told not to try again"
        end = await side
        assert (end["kind"], end["reason"]) == (
            "fatal",
            "lane 0 failed to start 3 times: No module named 'x'",
        )
        assert await hub.up(0, []) is None

    asynchronously(test())


def test_the_study_goes_on_with_the_lanes_that_are_left_and_ends_without_any() -> None:
    async def test() -> None:
        hub, [_, two] = await started(lanes=2)
        await hub.lost(0, "controller died")
        side = asyncio.create_task(hub.pull(1, 0, PAYLOAD))
        assert (await hub.take(1, two, 1))["number"] == 1
        await hub.lost(1, "controller died")
        assert (await side)["kind"] == "fatal"

    asynchronously(test())


def test_an_interrupt_frees_everybody() -> None:
    async def test() -> None:
        hub, [one, two] = await started(lanes=2)
        side = asyncio.create_task(hub.pull(1, 0, PAYLOAD))
        await hub.take(0, one, 1)
        idle = asyncio.create_task(hub.take(1, two, 60))
        await asyncio.sleep(SOON)
        await hub.interrupt()
        assert (await side)["kind"] == "interrupted"
        assert await idle == QUIT
        assert await hub.verdict(0, one, 1, 60) == QUIT

    asynchronously(test())


def test_draining_asks_every_lane_for_a_checkpoint_and_gives_no_more_trials() -> None:
    async def test() -> None:
        hub, [one, two] = await started(lanes=2)
        sides = [asyncio.create_task(hub.pull(number, 0, PAYLOAD)) for number in (1, 2)]
        await asyncio.sleep(SOON)
        await hub.take(0, one, 1)
        assert not await hub.beat(0, one)
        assert await hub.drained() is False
        await hub.drain()
        assert await hub.take(1, two, SOON) == WAIT, "a trial that begins now would only be lost"
        assert await hub.beat(0, one), "asked until there is one"
        assert await hub.beat(0, one)
        await hub.saved(0, one)
        assert not await hub.beat(0, one)
        assert await hub.drained()
        await hub.interrupt()
        assert [(await side)["kind"] for side in sides] == ["interrupted", "interrupted"]

    asynchronously(test())


def test_the_weights_of_the_best_row_are_kept_once_and_the_file_is_told_with_the_next_item() -> (
    None
):
    async def test() -> None:
        hub, [token] = await started()
        side = asyncio.create_task(hub.pull(1, 0, PAYLOAD))
        await hub.take(0, token, 1)
        await hub.report(0, token, 1, row(1))
        first = await side
        await hub.keep(1)
        side = asyncio.create_task(hub.pull(1, first["sequence"], PAYLOAD))
        assert await hub.verdict(0, token, 1, 1) == KEEP
        await hub.kept(0, token, 1, {"file": "f"})
        await hub.report(0, token, 1, row(2))
        second = await side
        assert second["kept"] == {"file": "f"}
        side = asyncio.create_task(hub.pull(1, second["sequence"], PAYLOAD))
        assert await hub.verdict(0, token, 1, 1) == GO
        await hub.report(0, token, 1, row(3))
        assert "kept" not in await side

    asynchronously(test())


def test_the_next_attempt_knows_the_rows_that_are_recorded_and_no_others() -> None:
    async def test() -> None:
        hub, [token] = await started()
        side = asyncio.create_task(hub.pull(1, 0, PAYLOAD | {"known": [1]}))
        job = await hub.take(0, token, 1)
        assert isinstance(job, dict)
        assert job["payload"]["known"] == [1], "from the ledger of a resumed study"
        for update in (2, 3):
            await hub.report(0, token, 1, row(update))
            item = await side
            side = asyncio.create_task(hub.pull(1, item["sequence"], PAYLOAD))
            assert await hub.verdict(0, token, 1, 1) == GO
        await hub.report(
            0, token, 1, row(4)
        )  # arrives, and the lane dies before anybody has dealt with it
        await side
        await hub.down(0, "died")
        token = await hub.up(0, []) or 0
        job = await hub.take(0, token, 1)
        assert isinstance(job, dict)
        assert job["payload"]["known"] == [1, 2, 3]

    asynchronously(test())


def test_a_silent_lane_is_stalled_once_and_its_trial_goes_elsewhere() -> None:
    async def test() -> None:
        hub, [one, two] = await started(lanes=2)
        await hub.enlist(0, one, (100, "node", "actor", None))
        side = asyncio.create_task(hub.pull(1, 0, PAYLOAD))
        await hub.take(0, one, 1)
        assert await hub.stalled(0, one, 60.0) == [], "it has just spoken"
        await asyncio.sleep(SOON)
        assert await hub.stalled(0, one, SOON) == [(100, "node", "actor", None)]
        assert await hub.stalled(0, one, SOON) == [], "the token is another one now"
        assert await hub.take(0, one, SOON) == QUIT, "if it wakes up"
        assert (await hub.take(1, two, 1))["number"] == 1
        assert await hub.down(0, "SIGKILL")
        assert any("no sign of life" in note for note in hub._drain_notes())
        await hub.report(1, two, 1, row(1))
        assert (await side)["attempt"] == 1

    asynchronously(test())


def test_a_trial_that_runs_out_of_memory_again_and_again_ends_as_such() -> None:
    async def test() -> None:
        hub, [token] = await started(max_retries=1)
        side = asyncio.create_task(hub.pull(1, 0, PAYLOAD))
        for _ in range(2):
            await hub.take(0, token, 1)
            await hub.down(0, "killed by the memory monitor", no_memory=True)
            token = await hub.up(0, []) or 0
        assert (await side)["status"] == "out_of_memory"

    asynchronously(test())


async def dies(hub: Hub, node: str) -> int:
    """The lane takes its trial, dies in this way, and is there again."""
    token = await hub.up(0, []) or 0
    await hub.enlist(0, token, (1, "its node", None, None))
    await hub.ready(0, token)
    assert (await hub.take(0, token, 1))["number"] == 1
    await hub.down(0, "gone", node=node)
    await hub.left(0, "its controller ended with it")
    return token


def test_a_node_that_goes_is_not_held_against_the_trial_but_not_for_ever() -> None:
    """A node that had been announced to leave never counts, others do after a while: a trial may be
    what brings them down."""

    async def test() -> None:
        hub, _ = await started(max_retries=0)
        side = asyncio.create_task(hub.pull(1, 0, PAYLOAD))
        await asyncio.sleep(SOON)
        for _ in range(2 * NODE_DEATHS):
            await dies(hub, "preempted")
        for _ in range(NODE_DEATHS):
            await dies(hub, "node")
        assert not side.done()
        await dies(hub, "node")
        end = await side
        assert (end["status"], end["attempt"]) == ("failed", 3 * NODE_DEATHS + 1)
        assert end["reason"] == f"its node died {NODE_DEATHS + 1} times; the last time: gone"

    asynchronously(test())


def test_a_worker_that_cannot_be_reached_counts_when_its_node_turns_out_to_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        hub, _ = await started(max_retries=0)
        side = asyncio.create_task(hub.pull(1, 0, PAYLOAD))
        await asyncio.sleep(SOON)
        await dies(hub, "unknown")
        await hub.settle({"another node"})
        assert (await hub.state())["unsettled"] == 0
        await dies(hub, "unknown")
        await hub.settle({"its node"})
        assert (await hub.state())["unsettled"] == 1, "Ray may not have noticed yet"
        monkeypatch.setattr("ray_unlearn.execution.hub.SETTLE_S", 0.0)
        await hub.settle({"its node"})
        assert not side.done()
        await dies(hub, "")
        assert (await side)["reason"].startswith("its worker died or hung 2 times")

    asynchronously(test())


def test_a_lane_leaves_its_node_with_a_checkpoint_or_when_time_is_up() -> None:
    async def test() -> None:
        hub, [one, two] = await started(lanes=2, max_retries=0)
        side = asyncio.create_task(hub.pull(1, 0, PAYLOAD))
        await asyncio.sleep(SOON)
        await hub.take(0, one, 1)
        assert not await hub.beat(0, one)
        assert not await hub.vacate(0, one, "its node goes", at_once=False)
        assert (await hub.state())["lanes"][0]["state"] == "draining"
        assert await hub.beat(0, one), "it is asked for a checkpoint"
        assert not await hub.beat(1, two), "and the other lane is not"
        await hub.saved(0, one)
        assert await hub.vacate(0, one, "its node goes", at_once=False)
        assert not await hub.vacate(0, one, "its node goes", at_once=True), "once"
        assert await hub.take(0, one, SOON) == QUIT
        assert (await hub.take(1, two, 1))["number"] == 1
        assert not await hub.vacate(1, two, "its node goes", at_once=False)
        assert await hub.vacate(1, two, "its node goes", at_once=True)
        await hub.left(1, "ended")
        await hub.up(1, [])
        assert (await hub.state())["lanes"][1]["state"] == "starting"
        assert not side.done(), "neither counts as a fault"
        side.cancel()

    asynchronously(test())


def test_an_idle_lane_leaves_its_node_at_once_and_takes_nothing_more() -> None:
    async def test() -> None:
        hub, [token] = await started()
        asking = asyncio.create_task(hub.take(0, token, 60))
        await asyncio.sleep(SOON)
        assert await hub.vacate(0, token, "its node goes", at_once=False)
        assert await asking == QUIT

    asynchronously(test())


def test_where_a_lanes_time_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that is set by hand: 2 s of waiting for a trial, 3 + 5 s of computing, 4 s for a
    verdict, 6 s idle."""
    now = 100.0
    monkeypatch.setattr("ray_unlearn.execution.hub.time.monotonic", lambda: now)

    async def test() -> None:
        nonlocal now
        hub, [token] = await started()
        now += 2
        side = asyncio.create_task(hub.pull(1, 0, PAYLOAD))
        await hub.take(0, token, 1)
        now += 3
        await hub.report(
            0, token, 1, row(1) | {"metrics": {"forget_tokens": 70, "retain_tokens": 30}}
        )
        item = await side
        now += 4
        side = asyncio.create_task(hub.pull(1, item["sequence"], PAYLOAD))
        await asyncio.sleep(0)
        assert await hub.verdict(0, token, 1, 1) == GO
        now += 5
        await hub.report(0, token, 1, {"kind": "ended", "status": "complete", "reason": ""})
        await side
        now += 6
        [lane] = (await hub.state())["lanes"]
        assert [lane[f"{name}_s"] for name in ("busy", "verdict", "idle", "up")] == [
            8.0,
            4.0,
            8.0,
            20.0,
        ]
        assert (lane["tokens"], lane["state"], lane["restarts"]) == (100, "idle", 0)

    asyncio.run(test())

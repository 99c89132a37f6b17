"""Synchronous code of many processes in one: a deterministic scheduler with a clock of its own.

Each process is a greenlet: it hands on when it waits, and what comes next follows from the seed.
Time passes only when all wait (`virtual_time`).
"""

import asyncio
import pickle
import random
from collections.abc import Callable
from typing import Any, Protocol

from greenlet import getcurrent, greenlet
from virtual_time import VirtualLoop

from ray_unlearn.environment import Environment
from ray_unlearn.execution.hub import Hub
from ray_unlearn.execution.hub_line import HubDied, HubLine, Reply

EPOCH = 1.8e9
STEPS = 100_000
"""More resumptions than any test needs: something goes round in circles."""


class Killed(BaseException):
    """The process was killed, and the scheduler is closed. No code of ours catches it."""


class Machine(Protocol):
    """What a process runs on; see `simulation.machines`."""

    paused_until: float


class Process:
    """A greenlet that runs when the scheduler says so: a process, or one of its threads.

    A killed one never runs again: not its `finally` either, as after SIGKILL. Only when the
    scheduler is closed is it unwound, so that its files are closed.
    """

    def __init__(
        self,
        scheduler: "Scheduler",
        name: str,
        body: Callable[[], Any],
        machine: Machine | None = None,
    ) -> None:
        self.name = name
        self.pid = 1000 + len(scheduler.processes)
        self.machine = machine
        self.killed = self.hung = self.over = False
        self.error: BaseException | None = None
        self.result: Any = None
        self.ended: asyncio.Future[None] = scheduler.loop.create_future()
        self._scheduler = scheduler
        self._body = body
        self._greenlet = greenlet(self._run, parent=scheduler.main)

    def _run(self) -> None:
        try:
            self.result = self._body()
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        self._ends()

    def _ends(self) -> None:
        self.over = True
        if not self.ended.done():
            self.ended.set_result(None)

    def resume(self) -> None:
        """Run until it waits or ends. Called by the loop."""
        if self.over or self.hung:
            return
        loop = self._scheduler.loop
        if self.machine is not None and self.machine.paused_until > loop.time():
            loop.call_at(self.machine.paused_until, self.resume)
            return
        self._scheduler.count()
        before, self._scheduler.current = self._scheduler.current, self
        self._greenlet.switch()
        self._scheduler.current = before

    def wait(self, future: "asyncio.Future[Any]") -> None:
        """Called by the process itself: run on when the future is there."""
        future.add_done_callback(lambda _: self.resume())
        self.hand_on()
        while not future.done():
            self.hand_on()

    def sleep(self, seconds: float) -> None:
        """Called by the process itself: run on after so long."""
        woken: list[bool] = []
        self._scheduler.loop.call_later(seconds, self._wake, woken)
        while not woken:
            self.hand_on()

    def _wake(self, woken: list[bool]) -> None:
        woken.append(True)
        self.resume()

    def hand_on(self) -> None:
        """Let others run. A killed process stays here for ever."""
        if self._scheduler.closing:
            raise Killed
        self._scheduler.main.switch()
        while self.killed and not self._scheduler.closing:
            self._scheduler.main.switch()

    def kill(self) -> None:
        """SIGKILL: it says nothing more."""
        if not self.over:
            self.killed = True
            self._ends()

    def unwind(self) -> None:
        """Close what a process that will not run again holds open. Called by the loop's owner."""
        self.kill()
        before, self._scheduler.current = self._scheduler.current, self
        if self._greenlet and not self._greenlet.dead:
            self._greenlet.throw(Killed)
        self._scheduler.current = before


class Scheduler:
    """Processes, their clock, and the messages between them.

    Args:
        seed: of all that is random.
        latency_s: messages take up to so long each way.
        late: share of messages that take up to `late_s`.
        late_s: see `late`.
        steps: more resumptions than this are an error.
    """

    def __init__(
        self,
        seed: int = 0,
        latency_s: float = 0.01,
        late: float = 0.0,
        late_s: float = 20.0,
        steps: int = STEPS,
    ) -> None:
        self.loop = VirtualLoop()
        self.main = getcurrent()
        self.closing = False
        self.random = random.Random(seed)
        self.processes: list[Process] = []
        self.current: Process | None = None
        self.messages = 0
        self.steps = 0
        self._most_steps = steps
        self._latency = latency_s, late, late_s

    def start(self, name: str, body: Callable[[], Any], machine: Machine | None = None) -> Process:
        """A new process; it runs when its turn comes."""
        process = Process(self, name, body, machine)
        self.processes.append(process)
        self.loop.call_soon(process.resume)
        return process

    def run(self, process: Process) -> Any:
        """Until this process has ended: what it returned, or raises what it raised."""
        self.loop.run_until_complete(process.ended)
        if process.error is not None:
            raise process.error
        return process.result

    def close(self) -> None:
        """Kill all that is left."""
        self.closing = True
        for process in self.processes:
            process.unwind()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(_ended(tasks))
        self.loop.close()

    def me(self) -> Process:
        """The process that runs now."""
        assert self.current is not None
        return self.current

    def sleep(self, seconds: float) -> None:
        """The process that runs now waits."""
        self.me().sleep(seconds)

    def timer(self, seconds: float) -> "asyncio.Future[None]":
        """Done after so long."""
        done: asyncio.Future[None] = self.loop.create_future()
        self.loop.call_later(seconds, lambda: done.done() or done.set_result(None))
        return done

    def latency(self) -> float:
        """Of a message."""
        usual, late, late_s = self._latency
        return self.random.uniform(0, late_s if self.random.random() < late else usual)

    def count(self) -> None:
        """One more step."""
        self.steps += 1
        assert self.steps < self._most_steps, "it goes round in circles"


async def _ended(tasks: "set[asyncio.Task[Any]]") -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


class SimulatedEnvironment(Environment):
    """Clock, sleep and chance of the scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._names = 0

    def time(self) -> float:
        return EPOCH + self._scheduler.loop.time()

    def monotonic(self) -> float:
        return self._scheduler.loop.time()

    def sleep(self, seconds: float) -> None:
        self._scheduler.sleep(seconds)

    def uniform(self, low: float, high: float) -> float:
        return self._scheduler.random.uniform(low, high)

    def unique_name(self, digits: int = 12) -> str:
        self._names += 1
        return f"{self._names:0{digits}x}"[-digits:]


class SimulatedReply(Reply[Any]):
    def __init__(self, scheduler: Scheduler, answer: "asyncio.Future[Any]") -> None:
        self._scheduler = scheduler
        self._answer = answer

    def done(self, timeout_s: float = 0.0) -> bool:
        if not self._answer.done() and timeout_s > 0:
            self._scheduler.me().wait(
                _first(self._scheduler, self._answer, self._scheduler.timer(timeout_s))
            )
        return self._answer.done()

    def result(self) -> Any:
        if not self._answer.done():
            self._scheduler.me().wait(self._answer)
        return self._answer.result()


def _first(scheduler: Scheduler, *futures: "asyncio.Future[Any]") -> "asyncio.Future[None]":
    """Done when one of them is."""
    done: asyncio.Future[None] = scheduler.loop.create_future()
    for future in futures:
        future.add_done_callback(lambda _: done.done() or done.set_result(None))
    return done


class SimulatedLine(HubLine):
    """Carries calls to a hub as a network does: copied, with delay, and in any order."""

    def __init__(self, scheduler: Scheduler, hub: Hub) -> None:
        self._scheduler = scheduler
        self.hub = hub
        self.dead = False

    def ask(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        return self.send(method, *args, **kwargs).result()

    def send(self, method: Any, *args: Any, **kwargs: Any) -> SimulatedReply:
        current = self._scheduler.current
        if current is not None and current.killed:
            current.hand_on()
        self._scheduler.messages += 1
        call = self._carried(method, *copied(args), **copied(kwargs))
        return SimulatedReply(self._scheduler, self._scheduler.loop.create_task(call))

    async def _carried(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(self._scheduler.latency())
        if self.dead:
            raise HubDied("it was killed")
        answer = await method(self.hub, *args, **kwargs)
        await asyncio.sleep(self._scheduler.latency())
        return copied(answer)

    def fetch(self, reference: Any) -> Any:
        return reference


def copied(content: Any) -> Any:
    """As another process has it."""
    return pickle.loads(pickle.dumps(content))

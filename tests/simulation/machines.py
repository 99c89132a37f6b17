"""Simulated hosts and processes: an `Environment` for each process of a world."""

from collections.abc import Callable, Sequence
from typing import Any

from faults import Faults
from scheduler import EPOCH, Process, Scheduler

from ray_unlearn.environment import Answer, Environment, Item

BRIEF_S = 15.0
"""Well below the seconds after which a lease has expired."""


class Host:
    """A machine with a clock of its own, which drifts and jumps."""

    def __init__(self, name: str, offset_s: float, drift: float) -> None:
        self.name = name
        self.offset_s = offset_s
        self.drift = drift
        self.cut_until = 0.0
        """Until when it reaches neither stores nor file systems of the network."""
        self.programs: list[Program] = []

    def cut_off(self, until: float) -> None:
        """Part it from all stores and file systems."""
        if any(program.alive and program.is_brief for program in self.programs):
            until = min(until, self.programs[0].world.now + BRIEF_S)
        self.cut_until = until
        for program in self.programs:
            program.disturbed = True


class Program(Environment):
    """One process of a host, with all its threads: its clock, its names, and its end."""

    def __init__(self, world: "Machines", host: Host, name: str) -> None:
        self.world = world
        self.name = name
        self.home = host
        world.pids += 1
        self._pid = world.pids
        self.paused_until = 0.0
        self.alive = True
        self.is_brief = False
        """Whether it must not stand still for long now; see `FolderWorld`."""
        self.disturbed = False
        """Whether anything went wrong with it that can keep it from renewing a lease."""
        self.tasks: list[Process] = []
        host.programs.append(self)

    def start(self, body: Callable[[], Any]) -> Process:
        """Run `body` as its main thread. Then half of all end, the others idle, as notebooks do."""

        def main() -> None:
            body()
            self.name = "idle"
            if self.world.random.random() < 0.5:
                self.kill()

        return self._task(main, self.name)

    def _task(self, body: Callable[[], Any], name: str) -> Process:
        task = self.world.scheduler.start(name, body, self)
        self.tasks.append(task)
        return task

    def stop(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later. Who stops himself stops here."""
        self.paused_until = self.world.now + (min(seconds, BRIEF_S) if self.is_brief else seconds)
        self.disturbed = True
        if self.world.scheduler.current in self.tasks:
            self.world.scheduler.sleep(0.0)

    def kill(self) -> None:
        """SIGKILL. Who kills himself says nothing more either."""
        self.alive = False
        for task in self.tasks:
            task.kill()
        if self.world.scheduler.current in self.tasks:
            self.world.scheduler.me().hand_on()

    # -- as the code under test sees it ------------------------------------------------------------

    def time(self) -> float:
        return EPOCH + self.home.offset_s + self.world.now * self.home.drift

    def monotonic(self) -> float:
        return self.world.now * self.home.drift

    def sleep(self, seconds: float) -> None:
        self.world.scheduler.sleep(max(0.0, seconds) / self.home.drift)

    def uniform(self, low: float, high: float) -> float:
        return self.world.scheduler.random.uniform(low, high)

    def unique_name(self, digits: int = 12) -> str:
        self.world.names += 1
        return f"{self.world.names:0{digits}x}"[-digits:]

    @property
    def host(self) -> str:
        return self.home.name

    @property
    def pid(self) -> int:
        return self._pid

    def is_alive(self, pid: int) -> bool:
        return any(program.pid == pid and program.alive for program in self.home.programs)

    def fsync(self, handle: int) -> None:
        self.world.fsync(handle)

    def event(self) -> Any:
        return Signal(self)

    def lock(self) -> Any:
        return Mutex(self)

    def map(
        self, call: Callable[[Item], Answer], items: Sequence[Item], threads: int
    ) -> list[Answer]:
        return [call(item) for item in items]

    def start_thread(self, target: Callable[[], None], name: str) -> Any:
        return Thread(self, self._task(target, f"{self.name}: {name}"))


class Machines:
    """The scheduler, the hosts and their faults: the part that all worlds share."""

    def __init__(self, seed: int, faults: Faults, steps: int = 2_000_000) -> None:
        self.scheduler = Scheduler(seed, steps=steps)
        self.random = self.scheduler.random
        self.faults = faults
        self.hosts: list[Host] = []
        self.pids = 100
        self.names = 0

    @property
    def now(self) -> float:
        """Seconds since the world began."""
        return self.scheduler.loop.time()

    def add_hosts(self, count: int) -> None:
        """Hosts that disagree on the time by up to a minute, and drift by up to a thousandth."""
        for number in range(count):
            offset, drift = self.random.uniform(-60, 60), 1 + self.random.uniform(-1e-3, 1e-3)
            self.hosts.append(Host(f"host-{number}", offset, drift))

    def program(self, name: str, host: Host) -> Program:
        """A new process, which has not begun yet."""
        return Program(self, host, name)

    @property
    def programs(self) -> list[Program]:
        """Processes that live."""
        return [p for host in self.hosts for p in host.programs if p.alive]

    @property
    def acting(self) -> Program | None:
        """The process that runs now."""
        current = self.scheduler.current
        machine = None if current is None else current.machine
        return machine if isinstance(machine, Program) else None

    def fsync(self, handle: int) -> None:
        """Put an open file on the simulated disk; a world has one, or needs none."""


class Signal:
    """A `threading.Event`."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._set = False
        self._waiting: list[Any] = []

    def set(self) -> None:
        self._set = True
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            scheduler = self._program.world.scheduler
            future = (
                scheduler.loop.create_future()
                if timeout is None
                else scheduler.timer(timeout / self._program.home.drift)
            )
            self._waiting.append(future)
            scheduler.me().wait(future)
        return self._set


class Mutex:
    """A `threading.Lock`."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._held = False

    def __enter__(self) -> "Mutex":
        while self._held:
            self._program.sleep(0.001)
        self._held = True
        return self

    def __exit__(self, *error: object) -> None:
        self._held = False


class Thread:
    """A `threading.Thread` that was started."""

    def __init__(self, program: Program, task: Process) -> None:
        self._program = program
        self._task = task

    def join(self, timeout: float | None = None) -> None:
        if not self._task.over:
            self._program.world.scheduler.me().wait(self._task.ended)
        if self._task.error is not None:
            raise self._task.error

    def is_alive(self) -> bool:
        return not self._task.over

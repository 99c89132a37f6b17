"""The one seam for what is not deterministic: clock, randomness, names, host, threads, disk.

The store and the state machines of a study receive an `Environment` and use no other clock,
randomness or thread. A test can therefore run a whole study in one process under its own clock and
scheduler, and replay a failure from its seed.
"""

import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Environment:
    """The real machine; tests subclass it."""

    def time(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()

    def now(self) -> datetime:
        """The time of day, UTC."""
        return datetime.fromtimestamp(self.time(), UTC)

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        time.sleep(seconds)

    def uniform(self, low: float, high: float) -> float:
        """A random number, for pauses that must not coincide; never for results."""
        return random.uniform(low, high)

    def unique_name(self, digits: int = 12) -> str:
        """Hex digits that no other process uses."""
        return uuid.uuid4().hex[:digits]

    @property
    def host(self) -> str:
        """Name of this machine."""
        return socket.gethostname()

    @property
    def pid(self) -> int:
        """Number of this process."""
        return os.getpid()

    def is_alive(self, pid: int) -> bool:
        """Whether a process of this machine exists."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def fsync(self, handle: int) -> None:
        """Put an open file, or a folder's list of names, on disk.

        Raises:
            OSError: the disk is full or fails.
        """
        os.fsync(handle)

    def event(self) -> threading.Event:
        """An event that threads of this environment wait for."""
        return threading.Event()

    def lock(self) -> AbstractContextManager[object]:
        """A lock between the threads of this environment."""
        return threading.Lock()

    def map(
        self, call: Callable[[Item], Answer], items: Sequence[Item], threads: int
    ) -> list[Answer]:
        """Results of `call` on each item, in the order of the items, on `threads` threads."""
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(call, items))

    def start_thread(self, target: Callable[[], None], name: str) -> threading.Thread:
        """A daemon thread that runs `target`."""
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread


REAL = Environment()

"""An event loop whose time passes only when nobody has anything to do: no test waits."""

import asyncio
import selectors
from typing import Any


class VirtualLoop(asyncio.SelectorEventLoop):
    """Where a real loop would sleep until its next timer, this one is there at once."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_NoWaiting(self))

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._now

    def passes(self, seconds: float) -> None:
        """Time goes on."""
        self._now += seconds


class _NoWaiting(selectors.DefaultSelector):
    """Nothing comes from outside, so nobody asks the kernel."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        """What is there now."""
        if timeout is None:
            raise AssertionError("everybody waits for somebody else: a deadlock")
        self._loop.passes(max(timeout, 0.0))
        return []

"""Ctrl-C, SIGTERM or SIGUSR1 (Slurm's warning): once, the study stops cleanly; twice, at once."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

ONE_WISH_S = 5.0
"""SIGTERM within so many seconds of another signal says nothing new: Slurm and KubeRay both send it
twice."""


class Interrupt:
    """A context manager that catches SIGINT, SIGTERM and SIGUSR1, where it may (in the main
    thread). Enter it after `ray.init`, which sets its own handler for SIGTERM.

    The first only sets `requested` and calls `say`; the second raises KeyboardInterrupt (SIGTERM
    not within `ONE_WISH_S`).
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._before: dict[int, Any] = {}
        self.requested = False
        self._since = 0.0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._caught) for number in CAUGHT}
        return self

    def keep(self) -> None:
        """Take back a signal that somebody else has taken meanwhile: Ray Tune takes SIGUSR1 when it
        starts."""
        for number in self._before:
            if signal.getsignal(number) != self._caught:
                signal.signal(number, self._caught)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            if number == signal.SIGTERM and time.monotonic() - self._since < ONE_WISH_S:
                return
            raise KeyboardInterrupt
        self.requested, self._since = True, time.monotonic()
        self._say(
            "stopping: finished trials are recorded, running ones get a checkpoint (once more: stop at once)"
        )

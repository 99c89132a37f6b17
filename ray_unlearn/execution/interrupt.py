"""Ctrl-C, SIGTERM or SIGUSR1 (Slurm's warning): once, the study stops cleanly; twice, at once."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupt:
    """A context manager that catches SIGINT, SIGTERM and SIGUSR1, where it may (in the main thread). Enter it after `ray.init`,
    which sets its own handler for SIGTERM.

    The first only sets `requested` and calls `say`; the second raises KeyboardInterrupt.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._before: dict[int, Any] = {}
        self.requested = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._caught) for number in CAUGHT}
        return self

    def keep(self) -> None:
        """Take back a signal that somebody else has taken meanwhile: Ray Tune takes SIGUSR1 when it starts."""
        for number in self._before:
            if signal.getsignal(number) != self._caught:
                signal.signal(number, self._caught)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._say("stopping: finished trials are recorded, running ones get a checkpoint (once more: stop at once)")

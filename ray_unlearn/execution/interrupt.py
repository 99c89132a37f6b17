"""Stops by signal: one Ctrl-C, SIGTERM or SIGUSR1 (Slurm's warning) stops cleanly, two at once."""

import contextlib
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from ray_unlearn.environment import REAL, Environment

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

ONE_REQUEST_S = 5.0
"""Seconds after a signal in which SIGTERM is not a second request; Slurm and KubeRay repeat it."""


class Interrupt:
    """A context manager that catches SIGINT, SIGTERM and SIGUSR1 in the main thread.

    Enter it after `ray.init`, which sets its own handler for SIGTERM. The first signal only sets
    `requested` and calls `say`; the second raises KeyboardInterrupt (SIGTERM only after
    `ONE_REQUEST_S`).
    """

    def __init__(self, say: Callable[[str], None], environment: Environment = REAL) -> None:
        self._say = say
        self._environment = environment
        self._before: dict[int, Any] = {}
        self.requested = False
        self._since = 0.0

    def __enter__(self) -> Self:
        with contextlib.suppress(ValueError):  # not the main thread
            for number in CAUGHT:
                self._before[number] = signal.signal(number, self._caught)
        return self

    def take_back_signals(self) -> None:
        """Catch signals again that others have taken: Ray Tune takes SIGUSR1 when it starts."""
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

    def request(self) -> None:
        """Ask the study to stop."""
        self.requested, self._since = True, self._environment.monotonic()
        self._say(
            "stopping: finished trials are recorded, running ones get a checkpoint "
            "(once more: stop at once)"
        )

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.request()
            return
        again_s = self._environment.monotonic() - self._since
        if number != signal.SIGTERM or again_s >= ONE_REQUEST_S:
            raise KeyboardInterrupt

"""The process beside a driver that sends a running study to MLflow or W&B (`operations.loggers`).

It is `ray-unlearn log` on the study's own location: one mechanism serves a running study, and one
that ended long ago. A process of its own, because a tracker may hang, start threads and processes,
and wait for a network at its exit; none of that may reach the driver.
"""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from ray_unlearn.environment import REAL, Environment

LEAVE_S = 20.0
"""Seconds that the end of a run waits for the last rows to be sent."""


class LogProcess:
    """A context in which a process sends a study to trackers; see the module.

    Args:
        loggers: their names; none: no process.
        location: where the study is.
        say: called with each line that the process says, from a thread.
        environment: its threads.
    """

    def __init__(
        self,
        loggers: Sequence[str],
        location: str,
        say: Callable[[str], None],
        environment: Environment = REAL,
    ) -> None:
        self._loggers = loggers
        self._location = location
        self._say = say
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None

    @property
    def command(self) -> list[str]:
        """What sends the study, also after the run."""
        asked = [part for name in self._loggers for part in ("--to", name)]
        return ["ray-unlearn", "log", self._location, *asked]

    def __enter__(self) -> Self:
        if not self._loggers:
            return self
        command = [sys.executable, "-m", "ray_unlearn", *self.command[1:], "--beside"]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # its end tells the process that the run has ended
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C is for the driver; the last rows are still to come
            )
        except OSError as error:
            self._say(f"{', '.join(self._loggers)}: {error}; the study goes on")
        else:
            self._environment.start_thread(self._pass_on, "loggers")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            ended = process.wait(LEAVE_S) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            ended = False
        if not ended:
            self._say(
                f"{', '.join(self._loggers)} may lack the last rows; send them with: "
                f"{' '.join(self.command)}"
            )

    def _pass_on(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._say(line.rstrip())

"""What a study is doing, on stderr: a live table on a terminal, one plain line per finished trial elsewhere."""

import statistics
import time
from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ray_unlearn.results.best import OBJECTIVE, best_row
from ray_unlearn.results.record import Record, Trial
from ray_unlearn.results.schema import OUTCOMES, Row
from ray_unlearn.spec.study import StudySpec

RECENT = 100
"""Finished trials by which the time left is estimated: more would cost a sort of all of them four times a second."""


class Progress:
    """An observer and a context manager. Knows a study only through the trials it is told of.

    Args:
        spec: for the rule that ranks trials.
        record: trials that were there before (a resumed study).
        total: trials of the whole study.
        console: where to write; default stderr.
    """

    def __init__(self, spec: StudySpec, record: Record, total: int, console: Console | None = None) -> None:
        self._spec = spec
        self._total = total
        self._console = console or Console(stderr=True)
        self._running: dict[int, Trial] = {}
        self._began: dict[int, float] = {}
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._counts = dict.fromkeys(OUTCOMES, 0)
        self._best: dict[str, tuple[Trial, Row]] = {}
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4, transient=True)
        for trial in record.finished:
            self._count(trial)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def on_trial(self, trial: Trial) -> None:
        """A trial was handed out."""
        self._running[trial.number] = trial
        self._began[trial.number] = time.monotonic()

    def on_row(self, trial: Trial, row: Row) -> None:
        """The live table shows the trial's last update."""

    def on_outcome(self, trial: Trial) -> None:
        """A trial has ended."""
        self._running.pop(trial.number, None)
        self._seconds.append(time.monotonic() - self._began.pop(trial.number, time.monotonic()))
        self._count(trial)
        if not self._console.is_terminal:
            self._console.print(self._line(trial), soft_wrap=True, highlight=False, markup=False)

    @property
    def done(self) -> int:
        """Trials with an outcome."""
        return sum(self._counts.values())

    def seconds_left(self) -> float | None:
        """From this session's last trials, as many at a time as there are lanes. None before the second: the first one also
        starts Ray Tune."""
        if len(self._seconds) < 2:
            return None
        return statistics.median(self._seconds) * (self._total - self.done) / self._spec.operations.lanes

    def _count(self, trial: Trial) -> None:
        assert trial.status is not None
        self._counts[trial.status] += 1
        row = best_row(trial, self._spec)
        if row is None:
            return
        known = self._best.get(trial.method)
        if known is None or row[OBJECTIVE] < known[1][OBJECTIVE]:
            self._best[trial.method] = (trial, row)

    def _line(self, trial: Trial) -> str:
        row = best_row(trial, self._spec)
        score = f"score {row[OBJECTIVE]:.4f} at update {row['update']}" if row else trial.reason or "no score"
        return (
            f"[{self.done}/{self._total}] trial {trial.number} {trial.method} lr {trial.config['learning_rate']:.2e} "
            f"{trial.status}: {score}{self._time_left()}"
        )

    def _time_left(self) -> str:
        left = self.seconds_left()
        return "" if left is None or self.done >= self._total else f", {_duration(left)} left"

    def _render(self) -> Group:
        counts = ", ".join(f"{count} {name}" for name, count in self._counts.items() if count)
        head = Text(f"{self._spec.name}: {self.done}/{self._total} trials{self._time_left()}")
        head.append(f"   {counts}" if counts else "", style="dim")
        return Group(
            head, *([self._running_table()] if self._running else []), *([self._best_table()] if self._best else [])
        )

    def _running_table(self) -> Table:
        table = Table(
            "running", "method", "learning rate", "update", "score", box=None, header_style="dim", padding=(0, 2)
        )
        for number, trial in sorted(self._running.items()):
            last = trial.rows[-1] if trial.rows else None
            table.add_row(
                f"trial {number}",
                trial.method,
                f"{trial.config['learning_rate']:.2e}",
                f"{last['update'] if last else 0}/{trial.config['steps']}",
                f"{last[OBJECTIVE]:.4f}" if last else "",
            )
        return table

    def _best_table(self) -> Table:
        table = Table(
            "best so far", "method", "learning rate", "update", "score", box=None, header_style="dim", padding=(0, 2)
        )
        ranked = sorted(self._best.values(), key=lambda pair: pair[1][OBJECTIVE])
        for place, (trial, row) in enumerate(ranked):
            table.add_row(
                f"trial {trial.number}",
                trial.method,
                f"{trial.config['learning_rate']:.2e}",
                str(row["update"]),
                f"{row[OBJECTIVE]:.4f}",
                style="bold" if place == 0 else "",
            )
        return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"

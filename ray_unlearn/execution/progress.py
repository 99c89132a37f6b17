"""Progress of a study: a live table on a terminal or in a notebook, otherwise a line per trial."""

import statistics
from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.execution.notebook_display import NotebookDisplay
from ray_unlearn.spec.printable import printable
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.live import in_words
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.schema import Row, at_strength
from ray_unlearn.store.score import OBJECTIVE, ScoreRule
from ray_unlearn.store.score_picture import course_line, score_svg
from ray_unlearn.store.status import Tally

RECENT = 100
"""Number of last trials for the estimate of the time left, as a search changes what it tries."""


class Pace:
    """The time that trials take, from those that this run has finished, and the time left."""

    def __init__(self, environment: Environment = REAL) -> None:
        self._monotonic = environment.monotonic
        self._began: dict[int, float] = {}
        self._seconds: deque[float] = deque(maxlen=RECENT)

    def began(self, number: int) -> None:
        """Note that a trial was handed out."""
        self._began[number] = self._monotonic()

    def ended(self, number: int) -> None:
        """Note that a trial has ended."""
        began = self._began.pop(number, None)
        if began is not None:
            self._seconds.append(self._monotonic() - began)

    def seconds_left(self, unfinished: int, lanes: int) -> float | None:
        """Estimated seconds until `unfinished` trials, running ones included, are done.

        It rests on the mean of the last trials: pruned ones are short and others long, and their
        sum takes the time. None before the second trial, because the first one also starts Ray
        Tune.
        """
        if len(self._seconds) < 2:
            return None
        mean, now = statistics.fmean(self._seconds), self._monotonic()
        done = sum(min(mean, now - began) for began in self._began.values())
        return max(0.0, mean * unfinished - done) / max(1, min(lanes, unfinished))


class Progress:
    """An observer and context manager that shows a study by the trials reported to it.

    Args:
        spec: for the rule that ranks trials.
        record: the trials before this run (of a resumed study).
        total: trials of the whole study.
        console: where to write; default: stderr.
    """

    def __init__(
        self, spec: StudySpec, record: Record, total: int, console: Console | None = None
    ) -> None:
        self._spec = spec
        self._total = total
        self._console = console or Console(stderr=True)
        self._running: dict[int, Trial] = {}
        self._at_once = 1
        """Number of trials that ran when the last one was handed out, as lanes come and go."""
        self._pace = Pace()
        self._rule = ScoreRule.of(record, spec)
        self._tally = Tally(self._rule)
        self._notebook = (
            NotebookDisplay(self._render, self._picture) if self._console.is_jupyter else None
        )
        self._live = Live(
            console=self._console, get_renderable=self._render, refresh_per_second=4, transient=True
        )
        for trial in record.finished:
            self._tally.add(trial)

    def __enter__(self) -> Self:
        if self._notebook is not None:
            self._notebook.start()
        elif self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._notebook is not None:
            self._notebook.stop()
        elif self._console.is_terminal:
            self._live.stop()

    def on_trial(self, trial: Trial) -> None:
        """Show a trial that was handed out."""
        self._running[trial.number] = trial
        self._at_once = len(self._running)
        self._pace.began(trial.number)
        self._refresh()

    def on_row(self, trial: Trial, row: Row) -> None:
        """Show the trial's last update."""
        self._refresh()

    def on_outcome(self, trial: Trial) -> None:
        """Show a trial that has ended."""
        self._running.pop(trial.number, None)
        self._pace.ended(trial.number)
        self._tally.add(trial)
        self._refresh()
        if self._notebook is None and not self._console.is_terminal:
            line = printable(self._line(trial))
            self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    @property
    def done(self) -> int:
        """Number of trials with an outcome."""
        return self._tally.finished

    def seconds_left(self) -> float | None:
        """Estimated seconds left, from this session's last trials; see `Pace`."""
        return self._pace.seconds_left(self._total - self.done, self._at_once)

    def _refresh(self) -> None:
        """Refresh a notebook's table; a terminal's refreshes itself, from a thread of rich."""
        if self._notebook is not None:
            self._notebook.update()

    def _line(self, trial: Trial) -> str:
        row = self._rule.row(trial)
        score = (
            f"score {row[OBJECTIVE]:.4f} at update {row['update']}{at_strength(row)}"
            if row
            else trial.reason or self._rule.outside(trial) or "no score"
        )
        return (
            f"[{self.done}/{self._total}] trial {trial.number} {trial.method} lr "
            f"{trial.config['learning_rate']:.2e} "
            f"{trial.status}: {score}{self._time_left()}"
        )

    def _time_left(self) -> str:
        left = self.seconds_left()
        return "" if left is None or self.done >= self._total else f", {in_words(left)} left"

    def _render(self) -> Group:
        counts = ", ".join(
            f"{count} {name}" for name, count in self._tally.outcomes.items() if count
        )
        head = Text(f"{self._spec.name}: {self.done}/{self._total} trials{self._time_left()}")
        head.append(f"   {counts}" if counts else "", style="dim")
        course = self._tally.course
        line = [] if course.score is None else [Text(course_line(course, self._total))]
        return Group(
            head,
            *([] if self._notebook is not None else line),
            *([self._running_table()] if self._running else []),
            *([self._best_table()] if self._tally.ranked else []),
        )

    def _picture(self) -> str:
        """The course of the search for a notebook, as SVG."""
        return score_svg(self._tally.course, self._total)

    def _running_table(self) -> Table:
        table = Table(
            "running",
            "method",
            "learning rate",
            "update",
            "score",
            box=None,
            header_style="dim",
            padding=(0, 2),
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
            "best so far",
            "method",
            "learning rate",
            "update",
            "score",
            box=None,
            header_style="dim",
            padding=(0, 2),
        )
        for place, (trial, row) in enumerate(self._tally.ranked):
            table.add_row(
                f"trial {trial.number}",
                trial.method,
                f"{trial.config['learning_rate']:.2e}",
                f"{row['update']}{at_strength(row)}",
                f"{row[OBJECTIVE]:.4f}",
                style="bold" if place == 0 else "",
            )
        return table

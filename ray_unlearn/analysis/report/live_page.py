"""The page of a study that is running: one file for a browser, which renews itself.

It says what `status --watch` says, from the storage alone, with the look of the report.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from ray_unlearn.analysis.numerals import DASH
from ray_unlearn.analysis.report.page import Block, Bullets, Heading, Paragraph, Section, Table
from ray_unlearn.analysis.report.render import PACKAGE, html_templates
from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.store.failure_reasons import reasons_in_words
from ray_unlearn.store.live import in_words
from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import at_strength
from ray_unlearn.store.score import OBJECTIVE, ScoreRule
from ray_unlearn.store.score_picture import picture_in_words, score_svg
from ray_unlearn.store.status import Follower, Status
from ray_unlearn.store.status_words import (
    driver_in_words,
    outcomes_in_words,
    problems_of,
    time_left,
    trials_in_words,
    unfinished_in_words,
    waits,
)

TEMPLATE = "live.html.jinja"
SHOWN_TRIALS = 200
SHOWN_LANES = 64
SHOWN_NOTES = 20
STATES = {
    "starting": "starting",
    "running": "running",
    "silent": "no sign of life",
    "ended": "not running",
    "unknown": "not known to run",
}


@dataclass(frozen=True)
class LivePage:
    """What the page says at one look."""

    title: str
    state: str
    """A key of `STATES`, for its colour."""
    state_words: str
    lead: str
    said: tuple[str, ...]
    """Lines below the lead: how it runs, what is wrong."""
    finished: int
    total: int
    picture: Markup
    picture_words: str
    sections: tuple[Section, ...]
    looked: str
    """When, for people."""
    every_s: int
    """Seconds until the browser loads it again; 0: never."""


def keep_page(
    follower: Follower,
    path: Path,
    every_s: float,
    written: Callable[[], None],
    environment: Environment = REAL,
) -> None:
    """Write the page again and again, whole each time, until the run has ended.

    Args:
        follower: reads the study.
        path: the file.
        every_s: seconds between two looks.
        written: called once the page is there.
        environment: its clock and pauses.

    Raises:
        UserError: no study there at the first look.
        StorageError: the first page cannot be written; later ones are tried again.
    """
    first = True
    while True:
        found = follower.poll()
        page = live_page(found, follower, every_s, environment)
        try:
            write_whole(path, live_html(page, follower.rule.spec.methods).encode())
        except OSError as error:
            if first or found.over:
                raise StorageError(f"{path}: cannot be written: {error}") from None
        if first:
            written()
        if found.over:
            return
        first = False
        environment.sleep(every_s)


def live_page(
    found: Status, follower: Follower, every_s: float, environment: Environment = REAL
) -> LivePage:
    """The page of a study as it was at the last look."""
    trials = follower.record.trials
    said = [outcomes_in_words(found), unfinished_in_words(found), f"{found.rows} evaluation rows"]
    lines = ["; ".join(said), driver_in_words(found, in_view=True), found.feasible]
    if found.reasons:
        lines.append(f"{found.without_result} without a result: {reasons_in_words(found.reasons)}")
    lines += [f"problem: {text}" for text in problems_of(found)]
    left = time_left(found)
    return LivePage(
        found.name,
        found.driver,
        STATES[found.driver],
        trials_in_words(found) + (f", {left}" if left else ""),
        tuple(line for line in lines if line),
        found.finished,
        found.asked_for or max(1, found.finished),
        Markup(score_svg(found.course, found.asked_for)),  # numbers and words of ours, escaped
        picture_in_words(found.course),
        tuple(_sections(found, list(trials.values()), follower.rule)),
        f"{environment.now():%Y-%m-%d %H:%M:%S} UTC",
        0 if found.over else max(1, round(every_s)),
    )


def live_html(page: LivePage, methods: tuple[str, ...]) -> str:
    """The page as HTML that needs no other file."""
    templates = html_templates(methods)
    css = files(PACKAGE).joinpath("live.css").read_text(encoding="utf-8")
    style = Markup(f"{templates.globals['css']}{css}")  # files of ours
    return templates.get_template(TEMPLATE).render(page=page, style=style)


def _sections(found: Status, trials: list[Trial], rule: ScoreRule) -> list[Section]:
    sections = []
    if found.best:
        sections.append(Section("Best of each method", (_best(found),), "best"))
    sections.append(Section("Trials", (_trials(trials, rule),), "trials"))
    if found.live is not None and found.live.lanes and found.driver == "running":
        sections.append(Section("Lanes", _lanes(found), "lanes"))
    if found.notes:
        latest = tuple(reversed(found.notes[-SHOWN_NOTES:]))
        title = "Notes" if len(latest) == len(found.notes) else f"The last {len(latest)} notes"
        sections.append(Section(title, (Bullets(latest, muted=True),), "notes"))
    return sections


def _best(found: Status) -> Table:
    return Table(
        "Selection half; a lower score is better. The forget set's perplexity should come to the "
        "target.",
        (
            Heading("method", numeric=False),
            Heading("score"),
            Heading("forget ppl"),
            Heading("target ppl"),
            Heading("trial"),
            Heading("update"),
            Heading("learning rate"),
        ),
        tuple(
            (
                *(best.method, f"{best.score:.4f}"),
                *(_number(best.forget_ppl), _number(best.target_ppl)),
                *(str(best.number), best.where, f"{best.learning_rate:.2e}"),
            )
            for best in found.best
        ),
        tuple(best.method for best in found.best),
    )


def _trials(trials: list[Trial], rule: ScoreRule) -> Table:
    """Running trials first, then the last ones that ended."""
    running = [trial for trial in trials if trial.status is None]
    ended = [trial for trial in trials if trial.status is not None]
    shown = [*reversed(running), *reversed(ended)][:SHOWN_TRIALS]
    caption = "The latest first; a score is of the row that scores the trial, selection half."
    if len(shown) < len(trials):
        caption += f" {len(trials) - len(shown):,} earlier ones are not shown."
    return Table(
        caption,
        (
            Heading("trial", numeric=False),
            Heading("method", numeric=False),
            Heading("learning rate"),
            Heading("update"),
            Heading("score"),
            Heading("outcome", numeric=False),
            Heading("reason", numeric=False, wide=True),
        ),
        tuple(_trial_line(trial, rule) for trial in shown),
        tuple(trial.method for trial in shown),
    )


def _trial_line(trial: Trial, rule: ScoreRule) -> tuple[str, ...]:
    rate = f"{trial.config['learning_rate']:.2e}"
    if trial.status is None:
        row = trial.rows[-1] if trial.rows else None
        update = f"{row['update'] if row else 0} of {trial.config['steps']}"
    else:
        row = rule.row(trial)
        update = f"{row['update']}{at_strength(row)}" if row else DASH
    score = f"{row[OBJECTIVE]:.4f}" if row else DASH
    outcome = (trial.status or "under way").replace("_", " ")
    reason = trial.reason or (rule.outside(trial) if trial.status else "")
    return str(trial.number), trial.method, rate, update, score, outcome, reason


def _lanes(found: Status) -> tuple[Block, ...]:
    assert found.live is not None
    lanes = sorted(found.live.lanes, key=lambda lane: lane["state"] in ("busy", "idle"))
    columns = ("lane", "state", "trial", "busy", "up", "restarts", "where")
    table = Table(
        "What each lane does, and how much of its time it computes.",
        tuple(Heading(name, numeric=name not in ("lane", "state", "where")) for name in columns),
        tuple(
            (
                *(str(lane["index"]), str(lane["state"])),
                DASH if lane["trial"] is None else str(lane["trial"]),
                _part(lane["busy_s"], lane["up_s"]),
                in_words(lane["up_s"]) if lane["up_s"] else DASH,
                *(str(lane["restarts"] or 0), str(lane["node"] or DASH)),
            )
            for lane in lanes[:SHOWN_LANES]
        ),
    )
    return table, *(Paragraph(f"A lane waits for {text}.", style="note") for text in waits(found))


def _part(busy_s: float | None, up_s: float | None) -> str:
    return f"{busy_s / up_s:.0%}" if up_s and busy_s is not None else DASH


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else DASH

"""`status --watch`: a view of a running study that updates itself, or one line per change."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live as Display
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ray_unlearn.cli.show import json_ready, shown
from ray_unlearn.spec.printable import printable
from ray_unlearn.store.failure_reasons import reasons_in_words
from ray_unlearn.store.live import in_words
from ray_unlearn.store.score_picture import course_line
from ray_unlearn.store.status import Follower, Status
from ray_unlearn.store.status_words import (
    driver_in_words,
    lanes_in_words,
    outcomes_in_words,
    problems_of,
    time_left,
    trials_in_words,
    unfinished_in_words,
    waits,
)

SHOWN_LANES = 16
SHOWN_NOTES = 4
STARTS_S = 20.0
"""Seconds that a view waits at a stopped study: a `resume` loads that long before it says so."""


def watch(
    follower: Follower, every_s: float, as_json: bool, console: Console | None = None
) -> None:
    """Show a study until its run has ended; Ctrl-C ends the view, not the study.

    Args:
        follower: reads the study.
        every_s: seconds between two looks.
        as_json: print a line of JSON for each change.
        console: where the view goes; default: stdout.

    Raises:
        UserError: no study there at the first look.
    """
    console = console or Console(highlight=False)
    found = follower.poll()
    try:
        if console.is_terminal and not as_json:
            with Display(view(found), console=console, auto_refresh=False) as display:
                begins = time.monotonic() + (STARTS_S if _was_stopped(found) else 0)
                while not found.over or time.monotonic() < begins:
                    time.sleep(every_s)
                    found = follower.poll()
                    display.update(view(found), refresh=True)
            return
        shown: Any = None
        while True:
            if (now := lasting(found)) != shown:
                shown = now
                print(
                    json.dumps(json_ready(found.as_json()), allow_nan=False)
                    if as_json
                    else printable(line(found)),
                    flush=True,
                )
            if found.over:
                return
            time.sleep(every_s)
            found = follower.poll()
    except KeyboardInterrupt:
        return


def _was_stopped(found: Status) -> bool:
    return found.over and found.finished != found.asked_for


def lasting(found: Status) -> Any:
    """The parts of a status that count as a change: everything but passing time."""
    lanes = (
        [(lane["index"], lane["state"], lane["trial"]) for lane in found.live.lanes]
        if found.live
        else []
    )
    lasting = asdict(found) | {"live": None, "age_s": None}
    return json.dumps(lasting), found.driver, lanes, problems_of(found)


def line(found: Status) -> str:
    """A study in one line, for logs."""
    best = f"; best {found.best[0].score:.4f} ({found.best[0].method})" if found.best else ""
    lanes = (
        f", {lanes_in_words(found.live.lanes)}"
        if found.live and found.live.lanes and found.driver == "running"
        else ""
    )
    feasible = f"; {found.feasible}" if found.feasible else ""
    left = f"; {time_left(found)}" if time_left(found) else ""
    problems = "".join(f"; problem: {text}" for text in problems_of(found))
    return (
        f"{datetime.now():%H:%M:%S} {trials_in_words(found)}: {outcomes_in_words(found)}; "
        f"{unfinished_in_words(found)}; {found.rows} rows{best}{feasible}; "
        f"driver {found.driver}{lanes}{left}{problems}"
    )


def view(found: Status) -> RenderableType:
    """The view on a terminal."""
    total = found.asked_for or max(1, found.finished)
    head = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=total, completed=found.finished, width=36)
    head.add_row(
        shown(f"{found.name}: {trials_in_words(found)}", style="bold"), bar, time_left(found)
    )
    parts: list[RenderableType] = [
        head,
        shown(
            f"{outcomes_in_words(found)}; {unfinished_in_words(found)}; "
            f"{found.rows} evaluation rows"
        ),
    ]
    if found.feasible:
        parts.append(shown(found.feasible, style="" if found.best else "yellow"))
    if said := driver_in_words(found, in_view=True):
        style = {"silent": "bold red", "running": "green", "starting": "green"}.get(
            found.driver, "dim"
        )
        parts.append(shown(said, style=style))
    if found.reasons:
        said = f"{found.without_result} without a result: {reasons_in_words(found.reasons)}"
        parts.append(shown(said, style="bold red" if found.none_succeeded else "yellow"))
    parts += [shown(f"problem: {text}", style="yellow") for text in problems_of(found)]
    if found.live and found.live.lanes and found.driver == "running":
        parts.append(Padding(_lanes(found.live.lanes), (1, 0, 0, 0)))
        parts += [shown(f"a lane waits for {text}", style="yellow") for text in waits(found)]
    if found.course.score is not None:
        parts.append(Padding(shown(course_line(found.course, found.asked_for)), (1, 0, 0, 0)))
    if found.best:
        parts.append(Padding(_best(found), (1, 0, 0, 0)))
    if found.notes:
        notes = [_one_line(f"note: {text}") for text in found.notes]
        parts.append(Padding(Group(*notes[-SHOWN_NOTES:]), (1, 0, 0, 0)))
    return Group(*parts)


def _one_line(text: str) -> Text:
    note = shown(text, style="dim")
    note.overflow, note.no_wrap = "ellipsis", True
    return note


def _lanes(lanes: list[dict[str, Any]]) -> Table:
    table = _table(
        "lane", "state", "trial", "busy", "up", "restarts", "where", words=("state", "where")
    )
    if len(lanes) > SHOWN_LANES:  # healthy lanes come last and are left out first
        lanes = sorted(lanes, key=lambda lane: lane["state"] in ("busy", "idle"))
    for lane in lanes[:SHOWN_LANES]:
        up, busy = lane["up_s"], lane["busy_s"]
        table.add_row(
            shown(lane["index"]),
            shown(lane["state"]),
            shown("" if lane["trial"] is None else lane["trial"]),
            f"{busy / up:.0%}" if up and busy is not None else "",
            in_words(up) if up else "",
            shown(lane["restarts"] or ""),
            shown(lane["node"] or ""),
        )
    if len(lanes) > SHOWN_LANES:
        rest = lanes[SHOWN_LANES:]
        table.add_row("...", shown(f"{len(rest)} more: {lanes_in_words(rest)}"))
    return table


def _best(found: Status) -> Table:
    columns = (
        "best of each method",
        "trial",
        "learning rate",
        "update",
        "score",
        "forget ppl",
        "target ppl",
    )
    table = _table(*columns, words=columns[:1])
    for place, best in enumerate(found.best):
        numbers = [f"{best.learning_rate:.2e}", best.where, f"{best.score:.4f}"]
        perplexities = [f"{best.forget_ppl:.4g}", f"{best.target_ppl:.4g}"]
        table.add_row(
            shown(best.method),
            str(best.number),
            *numbers,
            *perplexities,
            style="" if place else "bold",
        )
    return table


def _table(*columns: str, words: Sequence[str]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 3, 0, 0), pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in words else "right")
    return table

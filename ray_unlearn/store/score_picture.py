"""Small pictures of the best score so far: blocks for a terminal, an SVG for a page."""

import math
from collections.abc import Callable, Iterable
from html import escape

from ray_unlearn.spec.printable import printable
from ray_unlearn.store.best_so_far import BestSoFar

BLOCKS = "▁▂▃▄▅▆▇█"
"""The lowest is at the target, or below it."""
COLUMNS = 32
WIDTH, HEIGHT = 640, 215
LEFT, RIGHT, TOP, BOTTOM = 70, 16, 24, 26
FLOOR = HEIGHT - BOTTOM - 25
"""Where the lowest score is: the target's label has room below it."""
LINE_GAP = 18
"""Least distance of two labels, in the units of the picture."""
TO_COME = "·"
MOST_DOTS = 40
LINE = "var(--accent, #0072b2)"

Place = Callable[[float], float]


def picture_in_words(best: BestSoFar) -> str:
    """The numbers of the picture in one sentence; empty before a trial has a score."""
    if best.score is None:
        return ""
    start = "" if best.vanilla is None else f" from {best.vanilla:.3g} (vanilla)"
    goal = "" if best.target is None else f"; target {best.target:.3g} ({best.target_is})"
    return f"best score {best.score:.4g}{start} after {best.trials} trials{goal}"


def course_line(best: BestSoFar, asked_for: int | None) -> str:
    """The blocks between the scores at both ends, and the target; empty before there is a score."""
    if best.score is None:
        return ""
    start = "" if best.vanilla is None else f"{best.vanilla:.3g} (vanilla) "
    goal = "" if best.target is None else f"   target {best.target:.3g}: {best.target_is}"
    return f"best so far   {start}{score_blocks(best, asked_for)} {best.score:.4g}{goal}"


def score_blocks(best: BestSoFar, asked_for: int | None, columns: int = COLUMNS) -> str:
    """The picture in one line of block characters; dots stand for trials that are to come.

    Args:
        best: to draw.
        asked_for: trials of the whole study, which are the line's length; None: those so far.
        columns: most characters.

    Returns:
        An empty text before a trial has a score.
    """
    if best.score is None:
        return ""
    total = max(best.trials, asked_for or 0)
    width = min(columns, total)
    low, high = _range(best)
    drawn = ""
    for column in range(width):
        trials = -(-(column + 1) * total // width)  # the last trial of the column
        first = column * total // width + 1
        level = best.at(min(trials, best.trials))
        if first > best.trials:
            drawn += TO_COME
        elif level is None:
            drawn += " "
        else:
            part = round((level - low) / (high - low), 9)  # a rounding error is no step
            drawn += BLOCKS[min(len(BLOCKS) - 1, max(0, math.ceil(part * (len(BLOCKS) - 1))))]
    return drawn


def score_svg(best: BestSoFar, asked_for: int | None) -> str:
    """The picture as an `<svg>` element that takes text colour and fonts from where it stands.

    Args:
        best: to draw.
        asked_for: trials of the whole study, which are the width; None: those so far.

    Returns:
        An empty text before a trial has a score.
    """
    if best.score is None:
        return ""
    total = max(best.trials, asked_for or 0)
    low, high = _range(best)

    def x(trials: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * trials / total

    def y(score: float) -> float:
        part = (min(high, max(low, score)) - low) / (high - low)
        return FLOOR - (FLOOR - TOP) * part

    parts = _frame(x(0), x(total), total)
    if best.vanilla is not None:
        parts += _level(x(0), x(total), y(best.vanilla), "-.4em", "vanilla", "1 4")
    if best.target is not None:
        parts += _level(
            x(0), x(total), y(best.target), "1.15em", f"target: {best.target_is}", "6 4"
        )
    parts += _curve(best, x, y)
    marks = (best.score, best.target, best.vanilla)
    parts += _scores([one for one in marks if one is not None], y)
    label = escape(printable(picture_in_words(best)), quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{label}" style="width:100%;max-width:{WIDTH}px;height:auto" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="currentColor">'
        f"{''.join(parts)}</svg>"
    )


def _range(best: BestSoFar) -> tuple[float, float]:
    """The lowest and the highest score drawn: from the target to the vanilla model or the first."""
    scores = [one.score for one in best.improvements]
    low = min([*scores, *([] if best.target is None else [best.target])])
    high = max(scores[0] if best.vanilla is None else best.vanilla, scores[-1])
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))


def _frame(left: float, right: float, total: int) -> list[str]:
    base = HEIGHT - BOTTOM
    words = "1 trial" if total == 1 else f"{total:,} trials"
    return [
        f'<path d="M{left} {base}H{right}" stroke="currentColor" stroke-opacity=".35"/>',
        f'<text x="{left}" y="{base + 19}" opacity=".7">0</text>',
        f'<text x="{right}" y="{base + 19}" text-anchor="end" opacity=".7">{words}</text>',
    ]


def _level(left: float, right: float, y: float, below: str, words: str, dash: str) -> list[str]:
    return [
        f'<path d="M{left} {y:.1f}H{right}" stroke="currentColor" stroke-opacity=".55" '
        f'stroke-dasharray="{dash}"/>',
        f'<text x="{right}" y="{y:.1f}" dy="{below}" text-anchor="end" opacity=".75">'
        f"{escape(words)}</text>",
    ]


def _curve(best: BestSoFar, x: Place, y: Place) -> list[str]:
    steps = [(one.trials, one.score) for one in best.improvements]
    start = steps[0] if best.vanilla is None else (0, best.vanilla)
    path = f"M{x(start[0]):.1f} {y(start[1]):.1f}"
    path += "".join(f"H{x(trials):.1f}V{y(score):.1f}" for trials, score in steps)
    last = y(steps[-1][1])
    dots = "".join(
        f'<circle cx="{x(trials):.1f}" cy="{y(score):.1f}" r="3" stroke="none" fill="{LINE}"/>'
        for trials, score in steps[-MOST_DOTS:]
    )
    return [
        f'<path d="{path}H{x(best.trials):.1f}" fill="none" stroke="{LINE}" stroke-width="2"/>',
        dots,
        f'<circle cx="{x(best.trials):.1f}" cy="{last:.1f}" r="4.5" fill="{LINE}"/>',
    ]


def _scores(marks: Iterable[float], y: Place) -> list[str]:
    """The marks at the left edge; of two that would run into each other the first one alone."""
    placed: list[float] = []
    found = []
    for score in marks:
        if all(abs(y(score) - other) >= LINE_GAP for other in placed):
            placed.append(y(score))
            found.append(
                f'<text x="{LEFT - 8}" y="{y(score):.1f}" dy=".35em" text-anchor="end">'
                f"{score:.3g}</text>"
            )
    return found

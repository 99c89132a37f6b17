"""What all figures share: panels in a grid, rows with names, legends, and axes that read well.

Axes that run over decades are logarithmic. A view ends where values stop telling anything apart;
what is beyond it is counted in the panel, never dropped.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from ray_unlearn.analysis.figures.look import INK, MUTED, method_look

WIDTH = 11.0
"""Width of every figure in inches, so that text has one size on the page."""
PANELS_PER_LINE = 4
PANEL_WIDTH = WIDTH / 3
"""Width in inches of a panel of a figure with one column per hyperparameter."""
ROW = 0.27
"""Height of a row in inches."""
MOST_DECADES = 7.0
"""Decades of scores that a log axis shows; a trial that is worse by more is as useless."""
LARGEST = 1e100
"""Greatest number that is drawn: matplotlib computes far beyond the limits of an axis."""

Limits = tuple[float, float]
Style = dict[str, Any]
"""Keywords of a matplotlib artist."""


def new_panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, `height` inches each, in lines of `PANELS_PER_LINE`."""
    lines = math.ceil(count / PANELS_PER_LINE)
    figure = Figure(figsize=(WIDTH, height * lines + 0.5), layout="constrained")
    return figure, panel_grid(figure, count)


def panel_grid(figure: Any, count: int) -> list[Axes]:
    """`count` panels in a figure or a part of one, in lines of `PANELS_PER_LINE`."""
    lines = math.ceil(count / PANELS_PER_LINE)
    grid = figure.subplots(lines, PANELS_PER_LINE, squeeze=False).ravel()
    return used_panels(grid, count)


def used_panels(grid: Any, count: int) -> list[Axes]:
    """The first `count` panels of a flat array; the others are hidden."""
    for spare in grid[count:]:
        spare.set_visible(False)
    return list(grid[:count])


def outer_labels(panels: Sequence[Axes], x: str, y: str, columns: int = PANELS_PER_LINE) -> None:
    """Axis labels at the left of each line and below each column only."""
    for position, panel in enumerate(panels):
        if position % columns == 0:
            panel.set_ylabel(y)
        if position >= len(panels) - columns:
            panel.set_xlabel(x)


def method_title(panel: Axes, method: str, methods: tuple[str, ...]) -> None:
    """The method's name in its colour."""
    panel.set_title(cut_to(method, 32), color=method_look(method, methods).colour, fontsize=8)


def cut_to(text: str, most: int) -> str:
    """`text` in at most `most` characters, the last an ellipsis where it is cut."""
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def drawable(values: ArrayLike, floor: float = -LARGEST) -> NDArray[np.float64]:
    """`values` with an end to their size; a value below `floor` is drawn there.

    A log axis has no zero, and limits beyond the greatest float are infinite.
    """
    return np.clip(np.asarray(values, dtype=float), floor, LARGEST)


def log_view(values: ArrayLike, floor: float) -> Limits:
    """Limits of a log axis of scores: from the least to the greatest, over `MOST_DECADES` at most.

    Infinite and missing values are ignored; without any other, the limits are a decade.
    """
    numbers = np.asarray(values, dtype=float)
    numbers = drawable(numbers[np.isfinite(numbers)], floor)
    if not len(numbers):
        return floor, 10 * floor
    low = float(numbers.min())
    return low, min(float(numbers.max()), low * 10**MOST_DECADES)


def count_beyond(panel: Axes, beyond: int, of: int, what: str) -> None:
    """Say how many things a view leaves out, at the panel's upper right; nothing when none."""
    if beyond:
        panel.annotate(
            f"{beyond:,} of {of:,} {what} beyond \u2191",
            (1, 0.9),
            xycoords="axes fraction",
            ha="right",
            va="top",
            fontsize=7,
            color=MUTED,
        )


def log_ticks(panel: Axes, axis: str, limits: Limits) -> None:
    """Label a log axis like 3e-4 or 0.05, at 1, 2, 5 per decade where it is short."""
    decades = math.log10(limits[1]) - math.log10(limits[0])
    steps = (1.0, 2.0, 5.0) if decades < 1.6 else (1.0, 3.0) if decades < 2.6 else (1.0,)
    line = panel.xaxis if axis == "x" else panel.yaxis
    line.set_major_locator(LogLocator(subs=steps, numticks=12))
    line.set_major_formatter(FuncFormatter(lambda value, _: tick_label(value)))
    line.set_minor_formatter(NullFormatter())


def tick_label(value: float) -> str:
    """A number as a tick shows it: 0.05, 200, 3e-4."""
    if value == 0 or 1e-2 <= abs(value) < 1e4:
        return f"{value:g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def rows_figure(rows: int, panels: int, extra: float = 0.9) -> tuple[Figure, list[Axes]]:
    """Panels side by side that share `rows` rows; `extra` inches for titles and legend."""
    figure = Figure(figsize=(WIDTH, ROW * max(rows, 2) + extra), layout="constrained")
    grid = figure.subplots(1, panels, sharey=True, squeeze=False)
    return figure, list(grid[0])


def name_rows(panel: Axes, names: Sequence[str], colours: Sequence[str] | None = None) -> None:
    """Names of rows at the left, the first on top."""
    panel.set_yticks(range(len(names)), [cut_to(name, 60) for name in names], fontsize=8)
    for i, text in enumerate(panel.get_yticklabels()):
        text.set_color(colours[i] if colours else INK)
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)


def name_methods(panel: Axes, shown: Sequence[str], methods: tuple[str, ...]) -> None:
    """A row per method, each in its colour."""
    name_rows(panel, shown, [method_look(method, methods).colour for method in shown])


def line_key(label: str, **style: Any) -> Line2D:
    """A line in a legend."""
    return Line2D([], [], label=label, **style)


def marker_key(label: str, marker: str = "o", **style: Any) -> Line2D:
    """A marker in a legend."""
    return Line2D([], [], ls="", marker=marker, label=label, **style)

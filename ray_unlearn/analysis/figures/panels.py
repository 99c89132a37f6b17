"""What all figures share: panels in a grid, titles in the method's colour, axis labels that read
like numbers."""

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ray_unlearn.analysis.figures.look import look

WIDTH = 11.0
"""Width of every figure in inches, so that text has one size on the page."""
COLUMNS_OF_PANELS = 4
PANEL_WIDTH = WIDTH / 3
"""Of a figure with one column per hyperparameter, in inches."""


def new_panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    lines = math.ceil(count / COLUMNS_OF_PANELS)
    figure = Figure(figsize=(WIDTH, height * lines + 0.5), layout="constrained")
    return figure, grid_of(figure, count)


def grid_of(figure: Any, count: int) -> list[Axes]:
    lines = math.ceil(count / COLUMNS_OF_PANELS)
    grid = figure.subplots(lines, COLUMNS_OF_PANELS, squeeze=False).ravel()
    for spare in grid[count:]:
        spare.set_visible(False)
    return list(grid[:count])


def title(panel: Axes, method: str, methods: tuple[str, ...]) -> None:
    panel.set_title(
        method if len(method) <= 32 else method[:31] + "\u2026",
        color=look(method, methods).colour,
        fontsize=8,
    )


def plain_log_ticks(panel: Axes, axis: str, limits: tuple[float, float]) -> None:
    """Labels such as 3e-4 or 0.05 at 1, 2, 5 per decade where the axis is short, at decades where
    it is long."""
    decades = math.log10(limits[1] / limits[0])
    steps = (1.0, 2.0, 5.0) if decades < 1.6 else (1.0, 3.0) if decades < 2.6 else (1.0,)
    line = panel.xaxis if axis == "x" else panel.yaxis
    line.set_major_locator(LogLocator(subs=steps, numticks=12))
    line.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    line.set_minor_formatter(NullFormatter())


def short(value: float) -> str:
    if value == 0 or 1e-2 <= abs(value) < 1e4:
        return f"{value:g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"

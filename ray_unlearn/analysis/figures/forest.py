"""Intervals in rows: what the comparison figures share."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ray_unlearn.analysis.figures.look import INK
from ray_unlearn.analysis.figures.panels import WIDTH

ROW = 0.27
"""Height of a row in inches."""


def rows_figure(
    rows: int, panels: int, width: float = WIDTH, extra: float = 0.9
) -> tuple[Figure, list[Axes]]:
    """Panels side by side that share their rows."""
    figure = Figure(figsize=(width, ROW * max(rows, 2) + extra), layout="constrained")
    grid = figure.subplots(1, panels, sharey=True, squeeze=False)
    return figure, list(grid[0])


def name_rows(panel: Axes, names: Sequence[str], colours: Sequence[str] | None = None) -> None:
    """Names at the left, the first on top."""
    panel.set_yticks(
        range(len(names)),
        [name if len(name) <= 60 else name[:59] + "\u2026" for name in names],
        fontsize=8,
    )
    for i, text in enumerate(panel.get_yticklabels()):
        text.set_color(colours[i] if colours else INK)
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)

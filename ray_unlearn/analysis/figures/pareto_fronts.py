"""Pareto fronts: which methods offer the best trades of forgetting for utility, by group."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ray_unlearn.analysis.figures.drawing import Drawing
from ray_unlearn.analysis.figures.look import FAINT, MUTED, method_look, thinned
from ray_unlearn.analysis.figures.panels import (
    WIDTH,
    Limits,
    Style,
    cut_to,
    drawable,
    line_key,
    log_ticks,
    marker_key,
    outer_labels,
    used_panels,
)
from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.statistics.pareto import front
from ray_unlearn.analysis.trials import TrialTable

CAPTION = (
    "The trades that each method offers: no evaluation of the method in this group is better in "
    "both. Lower left is better; both axes are logarithmic and values below 0.001 are drawn there. "
    "A front is the best of many noisy evaluations, so it is optimistic, more so for a method with "
    "more trials."
)
MOST_COLUMNS = 3
MOST_EVALUATIONS = 6000
LEAST = 1e-3
"""Values below are drawn here: a log axis has no zero."""
MOST = 10.0
"""Nats per token at the upper end of an axis at most."""


def pareto_figure(findings: Findings) -> Drawing | None:
    """Forgetting against utility; None where a table has no such columns."""
    data = pareto_data(findings.table)
    if data.empty or not data["front"].any():
        return None
    data, methods = data.assign(drawn=thinned(len(data), MOST_EVALUATIONS)), findings.table.methods
    caption = CAPTION
    if len(data) > MOST_EVALUATIONS:
        caption += (
            f" {MOST_EVALUATIONS:,} of {len(data):,} evaluations, chosen at random, are drawn as "
            "dots."
        )
    title = "Forgetting against utility, group by group"
    return Drawing("pareto_fronts", title, caption, data, lambda: _draw(data, methods))


def pareto_data(table: TrialTable) -> pd.DataFrame:
    """Forget gap and utility loss of every finite evaluation.

    `front`: not dominated within its method and group.
    """
    goals = ["forget_gap", "utility_loss"]
    if not set(goals) <= set(table.rows):
        return pd.DataFrame()
    rows = table.rows[["trial", "update", *goals]]
    rows = rows[np.isfinite(rows[goals].to_numpy(dtype=float)).all(axis=1)]
    rows = rows.merge(table.trials[["trial", "method", "group"]], on="trial").reset_index(drop=True)
    best = np.zeros(len(rows), dtype=bool)
    for _, part in rows.groupby(["method", "group"], sort=False):
        best[part.index[front(part[goals].to_numpy(dtype=float))]] = True
    return rows.assign(front=best)


def _draw(data: pd.DataFrame, methods: tuple[str, ...]) -> Figure:
    groups = list(dict.fromkeys(data["group"]))
    columns = min(MOST_COLUMNS, len(groups))
    lines = math.ceil(len(groups) / columns)
    size = WIDTH * max(2, columns) / MOST_COLUMNS, 3.3 * lines + 0.7
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    edge = data[data["front"]]
    view = _limits(edge["forget_gap"]), _limits(edge["utility_loss"])
    panels = used_panels(grid, len(groups))
    for panel, group in zip(panels, groups, strict=True):
        _scales(panel, view)
        _draw_group(panel, data[data["group"] == group], methods, view[0][1])
        panel.set_title(cut_to(group, 40))
    outer_labels(panels, "forget gap [nats/token]", "utility loss [nats/token]", columns)
    for panel in panels[-columns:]:
        panel.tick_params(labelbottom=True)
    keys = [_key(method, methods) for method in methods if method in set(edge["method"])]
    keys.append(marker_key("other evaluations", ms=3, color=MUTED, alpha=0.5))
    figure.legend(handles=keys, loc="outside lower center", ncols=4)
    return figure


def _key(method: str, methods: tuple[str, ...]) -> object:
    style = method_look(method, methods)
    return line_key(method, color=style.colour, ls=style.dash, marker=style.marker, ms=4)


def _scales(panel: Axes, view: tuple[Limits, Limits]) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlim(view[0])
    panel.set_ylim(view[1])
    log_ticks(panel, "x", view[0])
    log_ticks(panel, "y", view[1])


def _draw_group(panel: Axes, part: pd.DataFrame, methods: tuple[str, ...], right: float) -> None:
    """All evaluations as dots, and the front of each method as steps to the right end."""
    dots = part[part["drawn"]]
    x, y = (drawable(dots[name], LEAST) for name in ("forget_gap", "utility_loss"))
    panel.scatter(x, y, s=4, color=FAINT, linewidths=0, rasterized=True, zorder=1)
    for method in methods:
        own = part[part["front"] & (part["method"] == method)].sort_values("forget_gap")
        if own.empty:
            continue
        style = method_look(method, methods)
        x, y = (drawable(own[name], LEAST) for name in ("forget_gap", "utility_loss"))
        line: Style = {"color": style.colour, "ls": style.dash, "lw": 1.3}
        panel.step(np.append(x, right), np.append(y, y[-1]), where="post", **line)
        panel.plot(x, y, ls="", marker=style.marker, ms=3.5, color=style.colour)


def _limits(values: pd.Series) -> Limits:
    low = float(drawable(float(values.min()) / 1.2, LEAST))
    return low / 1.2, max(min(float(values.max()), MOST), low * 10) * 1.2

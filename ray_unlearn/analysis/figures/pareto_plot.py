"""Forgetting against utility: which methods offer the best trades, group by group."""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ray_unlearn.analysis.figures.look import FAINT, MUTED, look, styled
from ray_unlearn.analysis.figures.panels import WIDTH, plain_log_ticks

COLUMNS = 3
FLOOR = 1e-3
"""Values below are drawn here: a log axis has no zero."""


def fronts(data: pd.DataFrame, methods: tuple[str, ...]) -> Figure:
    """A panel per group, the front of each method as steps. data: `guideline_data.pareto`."""
    with styled():
        groups = list(dict.fromkeys(data["group"]))
        columns = min(COLUMNS, len(groups))
        lines = math.ceil(len(groups) / columns)
        figure = Figure(
            figsize=(WIDTH * max(2, columns) / COLUMNS, 3.3 * lines + 0.7), layout="constrained"
        )
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
        edge = data[data["front"]]
        x_limits, y_limits = _view(edge["forget_gap"]), _view(edge["utility_loss"])
        for position, panel in enumerate(grid):
            if position >= len(groups):
                panel.set_visible(False)
                continue
            part = data[(data["group"] == groups[position])]
            dots = part[part["drawn"]]
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.scatter(
                dots["forget_gap"].clip(lower=FLOOR), dots["utility_loss"].clip(lower=FLOOR), s=4, color=FAINT, linewidths=0,
                rasterized=True, zorder=1,
            )  # fmt: skip
            for method in methods:
                own = part[part["front"] & (part["method"] == method)].sort_values("forget_gap")
                if own.empty:
                    continue
                style = look(method, methods)
                x = own["forget_gap"].clip(lower=FLOOR).to_numpy(dtype=float)
                y = own["utility_loss"].clip(lower=FLOOR).to_numpy(dtype=float)
                panel.step(
                    np.append(x, x_limits[1]),
                    np.append(y, y[-1]),
                    where="post",
                    color=style.colour,
                    ls=style.dash,
                    lw=1.3,
                )
                panel.plot(x, y, ls="", marker=style.marker, ms=3.5, color=style.colour)
            panel.set_xlim(x_limits)
            panel.set_ylim(y_limits)
            plain_log_ticks(panel, "x", x_limits)
            plain_log_ticks(panel, "y", y_limits)
            name = groups[position]
            panel.set_title(name if len(name) < 40 else name[:39] + "\u2026")
            if position % columns == 0:
                panel.set_ylabel("utility loss [nats/token]")
            if position >= len(groups) - columns:
                panel.set_xlabel("forget gap [nats/token]")
                panel.tick_params(labelbottom=True)
        shown = [method for method in methods if method in set(edge["method"])]
        keys = [
            Line2D(
                [],
                [],
                color=look(m, methods).colour,
                ls=look(m, methods).dash,
                marker=look(m, methods).marker,
                ms=4,
                label=m,
            )
            for m in shown
        ]
        keys.append(
            Line2D(
                [], [], ls="", marker="o", ms=3, color=MUTED, alpha=0.5, label="other evaluations"
            )
        )
        figure.legend(handles=keys, loc="outside lower center", ncols=4)
        return figure


def _view(values: pd.Series) -> tuple[float, float]:
    low = max(FLOOR, float(values.min()) / 1.2)
    return low / 1.2, max(min(float(values.max()), 10.0), low * 10) * 1.2

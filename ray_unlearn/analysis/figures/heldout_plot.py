"""What a guideline buys on a domain (or model) that it was not derived from."""

import math

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ray_unlearn.analysis.figures.forest import ROW, name_rows
from ray_unlearn.analysis.figures.look import INK, MUTED, look, styled
from ray_unlearn.analysis.figures.panels import WIDTH, title

COLUMNS = 3


def heldout(data: pd.DataFrame, methods: tuple[str, ...]) -> Figure:
    """A panel per method, a row per held-out group: regret inside, in the full space, at the
    default."""
    with styled():
        shown = [method for method in methods if method in set(data["method"])]
        groups = list(dict.fromkeys(data["group"]))
        columns = min(COLUMNS, len(shown))
        lines = math.ceil(len(shown) / columns)
        figure = Figure(
            figsize=(
                WIDTH * max(2, columns) / COLUMNS,
                lines * (ROW * max(len(groups), 2) + 0.75) + 0.4,
            ),
            layout="constrained",
        )
        grid = figure.subplots(lines, columns, sharey=True, sharex=True, squeeze=False).ravel()
        for position, panel in enumerate(grid):
            if position >= len(shown):
                panel.set_visible(False)
                continue
            method = shown[position]
            colour = look(method, methods).colour
            for line in data[data["method"] == method].to_dict("records"):
                place = groups.index(line["group"])
                panel.plot(
                    [line["regret"], line["regret_full_space"]],
                    [place, place],
                    color=colour,
                    lw=1.2,
                    alpha=0.6,
                )
                panel.scatter(
                    line["regret_default"],
                    place,
                    s=30,
                    marker="x",
                    color=INK,
                    linewidths=1.1,
                    zorder=3,
                )
                panel.scatter(
                    line["regret_full_space"],
                    place,
                    s=34,
                    facecolors="white",
                    edgecolors=MUTED,
                    linewidths=1.3,
                    zorder=4,
                )
                panel.scatter(line["regret"], place, s=38, color=colour, zorder=5)
            name_rows(panel, groups)
            title(panel, method, methods)
            if position >= len(shown) - columns:
                panel.set_xlabel("score lost to the best known")
                panel.tick_params(labelbottom=True)
        grid[0].set_xlim(
            left=min(
                0.0, float(data[["regret", "regret_full_space", "regret_default"]].min().min())
            )
        )
        keys = [
            Line2D(
                [],
                [],
                ls="",
                marker="o",
                color=INK,
                ms=6,
                label="best of k trials inside the region",
            ),
            Line2D(
                [],
                [],
                ls="",
                marker="o",
                mfc="white",
                mec=MUTED,
                mew=1.3,
                ms=6,
                label="best of k in the full space",
            ),
            Line2D(
                [], [], ls="", marker="x", color=INK, ms=5, label="default (centre of the space)"
            ),
        ]
        figure.legend(handles=keys, loc="outside lower center", ncols=3)
        return figure

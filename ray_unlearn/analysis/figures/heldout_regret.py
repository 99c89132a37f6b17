"""Transfer: what a guideline buys on a domain (or model) that it was not derived from."""

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ray_unlearn.analysis.figures.drawing import Drawing
from ray_unlearn.analysis.figures.look import INK, MUTED, method_look
from ray_unlearn.analysis.figures.panels import (
    ROW,
    WIDTH,
    Style,
    drawable,
    marker_key,
    method_title,
    name_rows,
    used_panels,
)
from ray_unlearn.analysis.guidelines.findings import Findings

CAPTION = (
    "Each row is one group, left out when the good region was derived from the others. Filled: "
    "expected score of the best of k trials inside that region; hollow: of k trials anywhere in "
    "the searched space; cross: the centre of the space, untuned. All are measured from the best "
    "known there. A guideline is worth having where the filled dot is left of the hollow one."
)
MOST_COLUMNS = 3
REGRETS = ["regret", "regret_full_space", "regret_default"]


def heldout_figure(findings: Findings) -> Drawing | None:
    """Transfer of all methods; None where nothing was held out."""
    data = heldout_data(findings)
    if data.empty:
        return None
    methods = findings.table.methods
    title = "On a group that the guideline has not seen"
    return Drawing("heldout_regret", title, CAPTION, data, lambda: _draw(data, methods))


def heldout_data(findings: Findings) -> pd.DataFrame:
    """A line per method and held-out group."""
    lines = [
        {
            "method": name,
            "group": group.group,
            "regret": group.regret,
            "regret_full_space": group.regret_full_space,
            "regret_default": group.regret_default,
            "n_inside": group.n_inside,
            "n_trials": group.n_trials,
            "k": group.inside_trials,
            "matches": group.matches,
            "region": "; ".join(
                f"{param} {low:.3g} to {high:.3g}" for param, (low, high) in group.box.items()
            ),
        }
        for name, found in findings.methods.items()
        for group in found.heldout
    ]
    return pd.DataFrame(lines)


def _draw(data: pd.DataFrame, methods: tuple[str, ...]) -> Figure:
    shown = [method for method in methods if method in set(data["method"])]
    groups = list(dict.fromkeys(data["group"]))
    columns = min(MOST_COLUMNS, len(shown))
    lines = math.ceil(len(shown) / columns)
    height = lines * (ROW * max(len(groups), 2) + 0.75) + 0.4
    figure = Figure((WIDTH * max(2, columns) / MOST_COLUMNS, height), layout="constrained")
    grid = figure.subplots(lines, columns, sharey=True, sharex=True, squeeze=False).ravel()
    for position, panel in enumerate(used_panels(grid, len(shown))):
        method = shown[position]
        for line in data[data["method"] == method].to_dict("records"):
            _draw_line(
                panel, groups.index(line["group"]), line, method_look(method, methods).colour
            )
        name_rows(panel, groups)
        method_title(panel, method, methods)
        if position >= len(shown) - columns:
            panel.set_xlabel("score lost to the best known")
            panel.tick_params(labelbottom=True)
    grid[0].set_xlim(left=min(0.0, float(drawable(data[REGRETS].min().min()))))
    figure.legend(handles=_keys(), loc="outside lower center", ncols=3)
    return figure


def _draw_line(panel: Axes, place: int, line: dict[Any, Any], colour: str) -> None:
    inside, anywhere, default = (float(drawable(line[name])) for name in REGRETS)
    panel.plot([inside, anywhere], [place, place], color=colour, lw=1.2, alpha=0.6)
    panel.scatter(default, place, s=30, marker="x", color=INK, linewidths=1.1, zorder=3)
    hollow: Style = {"facecolors": "white", "edgecolors": MUTED, "linewidths": 1.3}
    panel.scatter(anywhere, place, s=34, zorder=4, **hollow)
    panel.scatter(inside, place, s=38, color=colour, zorder=5)


def _keys() -> list[object]:
    return [
        marker_key("best of k trials inside the region", color=INK, ms=6),
        marker_key("best of k in the full space", mfc="white", mec=MUTED, mew=1.3, ms=6),
        marker_key("default (centre of the space)", marker="x", color=INK, ms=5),
    ]

"""Where each hyperparameter of a method is good: isolation profile above, probability of being good
below."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ray_unlearn.analysis.axes import Axis
from ray_unlearn.analysis.figures.look import CORE, EXCLUDED, INK, MUTED, styled
from ray_unlearn.analysis.figures.panels import PANEL_WIDTH, plain_log_ticks
from ray_unlearn.analysis.guidelines.sentences import label

COLUMNS = 3


def regions(data: pd.DataFrame, axes: tuple[Axis, ...], tolerance: float, colour: str) -> Figure:
    """One column per hyperparameter, in lines of three.

    data: `guideline_data.regions`. axes: those that `data` has a profile of. tolerance: tau.
        colour: of the method.
    """
    with styled():
        columns = min(len(axes), COLUMNS)
        lines = -(-len(axes) // columns)
        width = max(2, columns) * PANEL_WIDTH
        figure = Figure(figsize=(width, 3.5 * lines + 0.45), layout="constrained")
        grid = figure.subplots(2 * lines, columns, squeeze=False, height_ratios=[3.0, 1.0] * lines)
        top = _top(data, tolerance)
        for i, axis in enumerate(axes):
            line, column = divmod(i, columns)
            above, strip = grid[2 * line][column], grid[2 * line + 1][column]
            part = data[data["param"] == axis.name]
            _profile(above, part, axis, tolerance, colour, top)
            _strip(strip, part, axis, colour)
            for panel in (above, strip):
                _shade(panel, part, axis)
                _scale(panel, axis)
            _arrows(above, part)
            above.tick_params(labelbottom=False)
            above.set_title(label(axis.name), fontsize=9)
            strip.set_xlabel(label(axis.name))
            if column == 0:
                above.set_ylabel("score lost to the best")
                strip.set_ylabel("P(good)")
        for spare in range(len(axes), lines * columns):
            for row in (0, 1):
                grid[2 * (spare // columns) + row][spare % columns].set_visible(False)
        figure.legend(
            handles=_keys(data, colour),
            loc="outside lower center",
            ncols=3 if columns < 3 else 6,
            fontsize=7.5,
        )
        return figure


def _top(data: pd.DataFrame, tolerance: float) -> float:
    """Upper limit of the score axis: the whole band, but not so much that the tolerance becomes a
    hair."""
    highest = float(data.loc[data["kind"] == "profile", "high"].max())
    return float(np.clip(1.15 * highest, 4 * tolerance, 25 * tolerance))


def _profile(
    panel: Axes, part: pd.DataFrame, axis: Axis, tolerance: float, colour: str, top: float
) -> None:
    trials = part[(part["kind"] == "trial") & part["drawn"]]
    known = trials[~trials["infeasible"] & trials["regret"].notna()]
    x = known["x"].to_numpy(dtype=float)
    if axis.scale == "categorical":
        x = x + np.linspace(-0.22, 0.22, len(x)) if len(x) > 1 else x
    seen = (known["regret"] <= top).to_numpy()
    panel.scatter(
        x[seen],
        known["regret"][seen],
        s=11,
        color=MUTED,
        alpha=0.6,
        linewidths=0,
        zorder=2,
        rasterized=True,
    )
    panel.scatter(
        x[~seen], np.full(int((~seen).sum()), 0.965), transform=panel.get_xaxis_transform(), s=11, marker="^", color=MUTED,
        alpha=0.5, linewidths=0, zorder=2, rasterized=True,
    )  # fmt: skip
    lost = trials[trials["infeasible"]]
    panel.scatter(
        lost["x"], np.full(len(lost), 1.02), transform=panel.get_xaxis_transform(), s=12, marker="x", color=INK,
        linewidths=0.7, alpha=0.7, clip_on=False, zorder=4, rasterized=True,
    )  # fmt: skip
    curve = part[part["kind"] == "profile"]
    if axis.scale == "categorical":
        spread = [curve["regret"] - curve["low"], curve["high"] - curve["regret"]]
        panel.errorbar(
            curve["x"],
            curve["regret"],
            yerr=spread,
            fmt="o",
            color=colour,
            ms=5,
            capsize=3,
            lw=1.4,
            zorder=5,
        )
    else:
        panel.fill_between(
            curve["x"], curve["low"], curve["high"], color=colour, alpha=0.22, lw=0, zorder=3
        )
        panel.plot(curve["x"], curve["regret"], color=colour, lw=1.8, zorder=5)
    panel.axhline(tolerance, color=INK, lw=0.9, ls=(0, (4, 2)), zorder=4)
    bottom = min(0.0, float(known["regret"].min()) if len(known) else 0.0)
    panel.set_ylim(max(bottom * 1.1, -0.35 * top) - 0.04 * top, top)
    panel.yaxis.set_major_locator(MaxNLocator(5))


def _strip(panel: Axes, part: pd.DataFrame, axis: Axis, colour: str) -> None:
    curve = part[part["kind"] == "profile"]
    if axis.scale == "categorical":
        panel.bar(curve["x"], curve["p_good"], width=0.5, color=colour, alpha=0.55, zorder=3)
    else:
        panel.fill_between(curve["x"], 0, curve["p_good"], color=colour, alpha=0.35, lw=0, zorder=3)
        panel.plot(curve["x"], curve["p_good"], color=colour, lw=1.2, zorder=4)
    for level in (0.1, 0.9):
        panel.axhline(level, color=MUTED, lw=0.7, ls=(0, (1, 1.5)), zorder=5)
    for _, edge in part[part["kind"].isin(["low_edge", "high_edge"])].iterrows():
        panel.plot(
            [edge["low"], edge["high"]], [0.5, 0.5], color=INK, lw=1.6, marker="|", ms=7, zorder=7
        )
    panel.set_ylim(0, 1.04)
    panel.set_yticks([0.1, 0.5, 0.9])
    panel.grid(False)


def _shade(panel: Axes, part: pd.DataFrame, axis: Axis) -> None:
    margin = 0.3 if axis.scale == "categorical" else 0.0
    for kind, look in (("core", CORE), ("excluded", EXCLUDED)):
        for _, run in part[part["kind"] == kind].iterrows():
            panel.axvspan(
                run["low"] - margin, run["high"] + margin, color=look, alpha=0.35, lw=0, zorder=0
            )


def _arrows(panel: Axes, part: pd.DataFrame) -> None:
    """At a censored end of the core: it may go on beyond."""
    for _, core in part[part["kind"] == "core"].iterrows():
        for censored, end, inward in (("censored_low", "low", 24), ("censored_high", "high", -24)):
            if core[censored]:
                panel.annotate(
                    "", (core[end], 0.9), xytext=(inward, 0), xycoords=panel.get_xaxis_transform(), textcoords="offset points",
                    arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}, zorder=8,
                )  # fmt: skip


def _scale(panel: Axes, axis: Axis) -> None:
    if axis.scale == "categorical":
        panel.set_xlim(-0.6, len(axis.choices) - 0.4)
        panel.set_xticks(
            range(len(axis.choices)),
            [choice if len(choice) < 14 else choice[:13] + "\u2026" for choice in axis.choices],
        )
        return
    if axis.scale == "log":
        panel.set_xscale("log")
        panel.set_xlim(axis.low, axis.high)
        plain_log_ticks(panel, "x", (axis.low, axis.high))
    else:
        panel.set_xlim(axis.low, axis.high)
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=axis.whole))


def _keys(data: pd.DataFrame, colour: str) -> list[Any]:
    kinds = set(data["kind"])
    keys: list[Any] = [
        (
            Line2D(
                [],
                [],
                color=colour,
                lw=1.8,
                label="best score over all other values, with 90 % band",
            )
        ),
        Line2D([], [], color=INK, lw=0.9, ls=(0, (4, 2)), label="tolerance"),
        Line2D(
            [], [], ls="", marker="o", color=MUTED, ms=3.5, label="trial (\u25b2 beyond the axis)"
        ),
    ]
    if data["infeasible"].eq(True).any():
        keys.append(Line2D([], [], ls="", marker="x", color=INK, ms=4.5, label="infeasible trial"))
    if "core" in kinds:
        keys.append(Patch(color=CORE, alpha=0.35, lw=0, label="core: P(good) \u2265 0.9"))
    if "excluded" in kinds:
        keys.append(Patch(color=EXCLUDED, alpha=0.35, lw=0, label="excluded"))
    if kinds & {"low_edge", "high_edge"}:
        keys.append(
            Line2D([], [], color=INK, lw=1.6, marker="|", ms=7, label="90 % interval of an edge")
        )
    return keys

"""Good values of each hyperparameter of a method.

Isolation profile above, probability of being good below.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ray_unlearn.analysis.figures.drawing import Drawing
from ray_unlearn.analysis.figures.look import (
    CHOSEN,
    CORE,
    EXCLUDED,
    INK,
    MOST_DOTS,
    MUTED,
    method_look,
)
from ray_unlearn.analysis.figures.panels import (
    PANEL_WIDTH,
    Style,
    cut_to,
    drawable,
    line_key,
    log_ticks,
    marker_key,
)
from ray_unlearn.analysis.figures.region_lines import region_data
from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.guidelines.grades import THRESHOLDS
from ray_unlearn.analysis.guidelines.method_findings import MethodFindings
from ray_unlearn.analysis.guidelines.sentences import label, tolerance
from ray_unlearn.spec.guideline_file import Value
from ray_unlearn.surfaces.axes import Axis

MOST_COLUMNS = 3
RECOMMENDED_LINE: Style = {"color": CHOSEN, "lw": 1.3, "ls": (0, (1, 1)), "zorder": 6}


def profiled(method: MethodFindings) -> tuple[str, ...]:
    """Hyperparameters of a method that have a profile.

    Those that matter come first, by their p-value, then the learning rate, then the others.
    """
    limit = THRESHOLDS.family_error
    p = {name: effect.p for name, effect in method.effects.items() if effect.p <= limit}
    names = [region.axis.name for region in method.regions if len(region.grid)]
    return tuple(sorted(names, key=lambda name: (p.get(name, 1.0), name != "learning_rate")))


def region_figure(
    findings: Findings,
    method: MethodFindings,
    params: Sequence[str],
    setting: Mapping[str, Value] | None = None,
    part: str = "",
) -> Drawing | None:
    """Good values of one method; None where none of the hyperparameters has a profile.

    Args:
        findings: of all methods.
        method: whose values are drawn.
        params: hyperparameters to draw, in this order (`profiled`).
        setting: what is recommended, which is marked.
        part: what tells this figure from others of the method, for its file.
    """
    data = region_data(method, params, setting or {})
    if data.empty:
        return None
    known = {region.axis.name: region.axis for region in method.regions}
    axes = tuple(known[name] for name in params)
    tau = findings.table.score.tolerance
    colour = method_look(method.method, findings.table.methods).colour
    name = "-".join(word for word in (method.method or "all", part) if word)
    return Drawing(
        f"region_profiles-{name}",
        f"Which values are good: {method.method or 'all trials'}",
        _caption(method, data, axes),
        data,
        lambda: _draw(data, axes, tau, colour),
    )


def _caption(method: MethodFindings, data: pd.DataFrame, axes: tuple[Axis, ...]) -> str:
    dots = data.loc[(data["kind"] == "trial") & (data["param"] == axes[0].name), "drawn"]
    caption = (
        "Above: best score that a value allows. Below: probability that the value is good. "
        f"{len(method.trials):,} trials."
    )
    used = min(region.n_used for region in method.regions if len(region.grid))
    if used < len(method.trials):
        caption += (
            f" The curve rests on {used:,} of them, chosen where scores are good and at random."
        )
    if not dots.astype(bool).all():
        caption += f" {MOST_DOTS:,} of them, chosen at random, are drawn; all are in the numbers."
    return caption


def reading_regions(findings: Findings) -> str:
    """How to read every figure of good values, once."""
    groups = len(findings.table.groups)
    worst = (
        f" A value must be good in all of the {groups} groups: the worst one counts."
        if groups > 1
        else ""
    )
    return (
        "How to read the figures of good values. Above: the best score that a value allows, "
        "whatever the other hyperparameters are set to, measured from where it is lowest (0). Good "
        "is what stays below the dashed line, the tolerance of "
        f"{tolerance(findings.table.score)}. The band is where the curve is with 90 % probability "
        "given the trials. Dots are trials, by what their score loses to that of the best trial of "
        "their group; most are above the curve because their other values are not the best ones. "
        f"Below: the probability that a value is good.{worst} Green is the core, to be used; red "
        "is excluded; between them it is not known. An arrow marks an end of the core that is no "
        "edge of what is good: the search, or the trials, end there. The "
        "dotted line is the recommended setting."
    )


def _draw(data: pd.DataFrame, axes: tuple[Axis, ...], tau: float, colour: str) -> Figure:
    """One column per hyperparameter, in lines of three. tau: the tolerance."""
    columns = min(len(axes), MOST_COLUMNS)
    lines = -(-len(axes) // columns)
    size = max(2, columns) * PANEL_WIDTH, 3.0 * lines + 0.45
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(2 * lines, columns, squeeze=False, height_ratios=[3.0, 1.0] * lines)
    top = _top(data, tau)
    for i in range(lines * columns):
        line, column = divmod(i, columns)
        above, strip = grid[2 * line][column], grid[2 * line + 1][column]
        if i >= len(axes):
            above.set_visible(False)
            strip.set_visible(False)
            continue
        part = data[data["param"] == axes[i].name]
        _profile(above, part, axes[i], tau, colour, top)
        _strip(strip, part, axes[i], colour)
        if column == 0:
            above.set_ylabel("score lost to the best")
            strip.set_ylabel("P(good)")
    ncols = 3 if columns < 3 else 4
    figure.legend(
        handles=_keys(data, colour), loc="outside lower center", ncols=ncols, fontsize=7.5
    )
    return figure


def _top(data: pd.DataFrame, tau: float) -> float:
    """Upper limit of the score axis: the band, but not so much that the tolerance is a hair."""
    highest = float(data.loc[data["kind"] == "profile", "high"].max())
    return float(np.clip(1.15 * highest, 4 * tau, 25 * tau))


def _profile(
    panel: Axes, part: pd.DataFrame, axis: Axis, tau: float, colour: str, top: float
) -> None:
    known = _dots(panel, part, axis, top)
    _curve(panel, part[part["kind"] == "profile"], axis, colour)
    panel.axhline(tau, color=INK, lw=0.9, ls=(0, (4, 2)), zorder=4)
    lowest = (part["low"].where(part["kind"] == "profile").min(), known["regret"].min())
    bottom = float(np.nanmin([0.0, *lowest]))
    panel.set_ylim(max(bottom * 1.1, -0.35 * top) - 0.04 * top, top)
    panel.yaxis.set_major_locator(MaxNLocator(5))
    _shade(panel, part, axis)
    _scale(panel, axis)
    _arrows(panel, part)
    for place in part.loc[part["kind"] == "recommended", "x"]:
        panel.axvline(place, **RECOMMENDED_LINE)
    panel.tick_params(labelbottom=False)
    panel.set_title(label(axis.name), fontsize=9)


def _dots(panel: Axes, part: pd.DataFrame, axis: Axis, top: float) -> pd.DataFrame:
    """Trials, those beyond the axis as triangles, those without a score as crosses.

    Returns:
        The trials with a score.
    """
    trials = part[(part["kind"] == "trial") & part["drawn"]]
    known = trials[~trials["without_score"] & trials["regret"].notna()]
    x = known["x"].to_numpy(dtype=float)
    if axis.scale == "categorical" and len(x) > 1:
        x = x + np.linspace(-0.22, 0.22, len(x))
    seen = (known["regret"] <= top).to_numpy()
    style: Style = {"linewidths": 0, "zorder": 2, "color": MUTED, "s": 11, "rasterized": True}
    panel.scatter(x[seen], known["regret"][seen], alpha=0.6, **style)
    upper = panel.get_xaxis_transform()
    beyond = np.full(int((~seen).sum()), 0.965)
    panel.scatter(x[~seen], beyond, transform=upper, marker="^", alpha=0.5, **style)
    lost = trials[trials["without_score"]]
    panel.scatter(
        lost["x"], np.full(len(lost), 1.02), transform=upper, s=12, marker="x", color=INK,
        linewidths=0.7, alpha=0.7, clip_on=False, zorder=4, rasterized=True,
    )  # fmt: skip
    return known


def _curve(panel: Axes, curve: pd.DataFrame, axis: Axis, colour: str) -> None:
    x, middle, low, high = (drawable(curve[name]) for name in ("x", "regret", "low", "high"))
    if axis.scale == "categorical":
        style: Style = {"fmt": "o", "color": colour, "ms": 5, "capsize": 3, "lw": 1.4, "zorder": 5}
        panel.errorbar(x, middle, yerr=[middle - low, high - middle], **style)
    else:
        panel.fill_between(x, low, high, color=colour, alpha=0.22, lw=0, zorder=3)
        panel.plot(x, middle, color=colour, lw=1.8, zorder=5)


def _strip(panel: Axes, part: pd.DataFrame, axis: Axis, colour: str) -> None:
    curve = part[part["kind"] == "profile"]
    if axis.scale == "categorical":
        panel.bar(curve["x"], curve["p_good"], width=0.5, color=colour, alpha=0.55, zorder=3)
    else:
        panel.fill_between(curve["x"], 0, curve["p_good"], color=colour, alpha=0.35, lw=0, zorder=3)
        panel.plot(curve["x"], curve["p_good"], color=colour, lw=1.2, zorder=4)
    for level in (0.1, 0.9):
        panel.axhline(level, color=MUTED, lw=0.7, ls=(0, (1, 1.5)), zorder=5)
    interval: Style = {"color": INK, "lw": 1.6, "marker": "|", "ms": 7, "zorder": 7}
    for _, edge in part[part["kind"].isin(["low_edge", "high_edge"])].iterrows():
        panel.plot([edge["low"], edge["high"]], [0.5, 0.5], **interval)
    panel.set_ylim(0, 1.04)
    panel.set_yticks([0.1, 0.5, 0.9])
    panel.grid(False)
    _shade(panel, part, axis)
    _scale(panel, axis)
    panel.set_xlabel(label(axis.name))


def _shade(panel: Axes, part: pd.DataFrame, axis: Axis) -> None:
    margin = 0.3 if axis.scale == "categorical" else 0.0
    for kind, ground in (("core", CORE), ("excluded", EXCLUDED)):
        for _, run in part[part["kind"] == kind].iterrows():
            ends = run["low"] - margin, run["high"] + margin
            panel.axvspan(*ends, color=ground, alpha=0.35, lw=0, zorder=0)


def _arrows(panel: Axes, part: pd.DataFrame) -> None:
    """At a censored end of the core: it may go on beyond."""
    style: Style = {"arrowstyle": "-|>", "color": INK, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
    for _, core in part[part["kind"] == "core"].iterrows():
        for censored, end, inward in (("censored_low", "low", 24), ("censored_high", "high", -24)):
            if core[censored]:
                panel.annotate(
                    "", (core[end], 0.9), xytext=(inward, 0), textcoords="offset points",
                    xycoords=panel.get_xaxis_transform(), arrowprops=style, zorder=8,
                )  # fmt: skip


def _scale(panel: Axes, axis: Axis) -> None:
    if axis.scale == "categorical":
        panel.set_xlim(-0.6, len(axis.choices) - 0.4)
        panel.set_xticks(range(len(axis.choices)), [cut_to(choice, 14) for choice in axis.choices])
        return
    if axis.scale == "log":
        panel.set_xscale("log")
        log_ticks(panel, "x", (axis.low, axis.high))
    else:
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=axis.whole))
    panel.set_xlim(axis.low, axis.high)


def _keys(data: pd.DataFrame, colour: str) -> list[Any]:
    kinds = set(data["kind"])
    keys: list[Any] = [
        line_key("best score over all other values, with 90 % band", color=colour, lw=1.8),
        line_key("tolerance", color=INK, lw=0.9, ls=(0, (4, 2))),
        marker_key("trial (\u25b2 beyond the axis)", color=MUTED, ms=3.5),
    ]
    if data["without_score"].eq(True).any():
        keys.append(marker_key("trial without a score", marker="x", color=INK, ms=4.5))
    if "recommended" in kinds:
        keys.append(line_key("recommended setting", **RECOMMENDED_LINE))
    if "core" in kinds:
        keys.append(Patch(color=CORE, alpha=0.35, lw=0, label="core: P(good) \u2265 0.9"))
    if "excluded" in kinds:
        keys.append(Patch(color=EXCLUDED, alpha=0.35, lw=0, label="excluded"))
    if kinds & {"low_edge", "high_edge"}:
        edge = "90 % interval of an edge"
        keys.append(line_key(edge, color=INK, lw=1.6, marker="|", ms=7))
    return keys

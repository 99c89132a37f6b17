"""What the recommended setting of each method is expected to reach, and what is still to gain."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ray_unlearn.analysis.figures.drawing import Drawing
from ray_unlearn.analysis.figures.look import INK, MUTED, MethodLook, method_look
from ray_unlearn.analysis.figures.panels import (
    ROW,
    Style,
    count_beyond,
    drawable,
    line_key,
    log_ticks,
    marker_key,
    name_methods,
    tick_label,
)
from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.spec.guideline_file import Guidelines, Recommendation

FIGURE_WIDTH = 6.8
"""Inches: it stands beside text."""
LOG_FROM = 30.0
"""Ratio of the largest to the smallest score from which the axis is logarithmic."""
REACH: Style = {"lw": 4, "alpha": 0.45}
EXPECTED = "Filled: expected score of the recommended setting."
MEASURED = "Ring: score measured of the best trial, which is lucky."
ALONE = (
    "Ring: score measured of the best trial; with so few trials nothing more is known of a method."
)


def settings_figure(findings: Findings, guidelines: Guidelines) -> Drawing | None:
    """A row per method; None where no recommendation has a score.

    Args:
        findings: for the methods' looks and the score of doing nothing.
        guidelines: the recommendations and best trials that are drawn.
    """
    data = settings_data(guidelines, _nothing(findings))
    if not (np.isfinite(data["expected"]) | np.isfinite(data["best_trial"])).any():
        return None
    return Drawing(
        "recommended_settings",
        "What each method reaches",
        _caption(data, guidelines),
        data,
        lambda: _draw(data, findings.table.methods, guidelines.score.direction),
    )


def settings_data(guidelines: Guidelines, nothing: float = math.nan) -> pd.DataFrame:
    """One line per recommendation, scores as they were given.

    Columns: method; `expected` of the setting (NaN without a response surface); `reach`: what the
    method's best is better than with probability 0.95 at most; `best_trial`, as measured, where
    there is one group; `nothing`: the score of doing nothing.
    """
    turn = -1 if guidelines.score.direction == "minimize" else 1
    lines = []
    for one in guidelines.recommendations:
        known = one.regret is not None and one.score is not None
        expected = float(one.score) if known and one.score is not None else math.nan
        reach = expected + turn * one.regret.high if one.regret is not None else math.nan
        if guidelines.score.weights is not None:
            reach = max(reach, 0.0)  # no score of ours is lower
        best = _best_trial(guidelines, one)
        lines.append((one.method or "", expected, reach, best, nothing))
    return pd.DataFrame(lines, columns=["method", "expected", "reach", "best_trial", "nothing"])


def _best_trial(guidelines: Guidelines, one: Recommendation) -> float:
    """The score of the method's best trial, where one group has it; else NaN."""
    own = [best.score for best in guidelines.best_trials if best.method == one.method]
    return own[0] if len(own) == 1 and one.n_groups == 1 else math.nan


def _nothing(findings: Findings) -> float:
    scores = list(findings.table.nothing.values())
    return float(findings.table.as_given(scores[0])) if len(scores) == 1 else math.nan


def _caption(data: pd.DataFrame, guidelines: Guidelines) -> str:
    way = "lower" if guidelines.score.direction == "minimize" else "higher"
    parts = []
    if data["expected"].notna().any():
        bar = f"Bar: how much {way} the method's best may still be (95 %)."
        parts += [EXPECTED, bar]
    if data["best_trial"].notna().any():
        parts.append(MEASURED if parts else ALONE)
    if data["nothing"].notna().any():
        parts.append("Dashed: the score of doing nothing.")
    return " ".join([*parts, f"{way.capitalize()} is better."])


def _draw(data: pd.DataFrame, methods: tuple[str, ...], direction: str) -> Figure:
    rows = max(len(data), 2)
    figure = Figure(figsize=(FIGURE_WIDTH, ROW * rows + 1.1), layout="constrained")
    panel = figure.subplots()
    low, high, log = _view(data)
    floor = low if log else -math.inf
    for i, line in enumerate(data.to_dict("records")):
        _row(panel, i, line, method_look(line["method"], methods), floor)
    if np.isfinite(nothing := data["nothing"].max()) and low <= nothing <= high:
        panel.axvline(nothing, color=INK, lw=0.9, ls=(0, (4, 2)), zorder=1)
    if log:
        panel.set_xscale("log")
        log_ticks(panel, "x", (low, high))
    else:
        panel.xaxis.set_major_formatter(lambda value, _: tick_label(round(value, 6)))
    panel.set_xlim(low, high)
    shown = data["expected"].where(data["expected"].notna(), data["best_trial"])
    count_beyond(panel, int((shown > high).sum()), len(data), "methods")
    if methods == ("",):
        panel.set_yticks([])
    else:
        name_methods(panel, list(data["method"]), methods)
    way = "lower" if direction == "minimize" else "higher"
    panel.set_xlabel(f"score ({way} is better)")
    _keys(figure, data)
    return figure


def _row(panel: Axes, i: int, line: dict[Any, Any], look: MethodLook, floor: float) -> None:
    colour, marker = look.colour, look.marker
    if math.isfinite(line["expected"]):
        ends = drawable([line["reach"], line["expected"]], floor)
        panel.plot(ends, [i, i], color=colour, solid_capstyle="butt", zorder=2, **REACH)
        dot: Style = {"color": colour, "marker": marker, "s": 42, "zorder": 4}
        panel.scatter(drawable([line["expected"]]), [i], **dot)
    if math.isfinite(line["best_trial"]):
        ring: Style = {"facecolors": "none", "edgecolors": colour, "linewidths": 1.3, "zorder": 3}
        panel.scatter(drawable([line["best_trial"]]), [i], s=46, marker="o", **ring)


def _view(data: pd.DataFrame) -> tuple[float, float, bool]:
    """Limits of the axis, and whether it is logarithmic."""
    known = data[["expected", "best_trial"]].to_numpy(dtype=float)
    known = drawable(known[np.isfinite(known)])
    ends = drawable(data[["reach", "nothing"]].to_numpy(dtype=float))
    low, high = float(known.min()), float(known.max())
    if low > 0 and high > LOG_FROM * low:
        return low / 2, min(high * 1.3, low * 1e4), True
    ends = ends[np.isfinite(ends)]
    wide = max(high - low, 1e-12 * max(abs(high), 1.0))
    # An end that is far away must not squeeze what is compared.
    near = ends[(ends >= low - 3 * wide) & (ends <= high + 3 * wide)] if len(known) > 1 else ends
    low, high = min([low, *near]), max([high, *near])
    margin = 0.06 * max(high - low, 1e-9 * max(abs(high), 1.0))
    return low - margin, high + margin, False


def _keys(figure: Figure, data: pd.DataFrame) -> None:
    keys = []
    if data["expected"].notna().any():
        keys.append(marker_key("expected", marker="s", color=MUTED, ms=6))
        keys.append(line_key("still to gain, 95 %", color=MUTED, **REACH))
    if data["best_trial"].notna().any():
        keys.append(marker_key("best trial", mfc="none", mec=MUTED, mew=1.3, ms=6))
    if data["nothing"].notna().any():
        keys.append(line_key("doing nothing", color=INK, lw=0.9, ls=(0, (4, 2))))
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), fontsize=7.5)

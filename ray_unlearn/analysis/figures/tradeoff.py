"""Forgetting against utility in a study, with the course of each trial."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ray_unlearn.analysis.best_trials import HALF
from ray_unlearn.analysis.figures.drawing import Drawing
from ray_unlearn.analysis.figures.look import (
    INK,
    MOST_DOTS,
    MUTED,
    RASTER_ABOVE,
    MethodLook,
    method_look,
    thinned,
)
from ray_unlearn.analysis.figures.panels import (
    LARGEST,
    PANELS_PER_LINE,
    WIDTH,
    Limits,
    log_ticks,
    method_title,
    outer_labels,
    panel_grid,
)
from ray_unlearn.analysis.figures.study_data import (
    UTILITY_LOSS,
    rows_by_method,
    stacked_parts,
    thinning_note,
    worth_drawing,
)
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.store.row_score import Baselines, scored

CAPTION = (
    "Each point is one evaluation; a thin line joins those of one trial in the order of updates, "
    "starting near vanilla at the lower left. The aim is the foot of the dashed line: forget "
    "perplexity as high as that of unseen text of the same kind, and no utility lost. Left of the "
    "line the forget set is still remembered, right of it the model is damaged beyond forgetting. "
    "Rows of diverged trials are among the points. The vertical axis is linear below 0.1 and "
    "logarithmic above. The exactly retrained model, where there is one, shows what the target "
    "means in reality."
)
COLUMNS = ["kind", "method", "number", "update", "forget_ppl", UTILITY_LOSS, "candidate", "chosen"]
TARGET = "approximate"
"""Kind of the line of the approximate-retraining target."""
UTILITY_TICKS = (0, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
SMALL_PANEL_TICKS = (0, 0.1, 0.5, 2, 10)
MOST_UTILITY_LOSS = 100.0
"""Nats per token at the upper end of the view at most: e^100 times the perplexity is ruin."""
HALO = [withStroke(linewidth=2.5, foreground="white", alpha=0.8)]


def tradeoff_figure(study: StudyResults) -> Drawing | None:
    """Forgetting against utility; None where nothing was evaluated."""
    data = tradeoff_data(study)
    if not worth_drawing(data):
        return None
    caption = CAPTION + thinning_note(data)
    return Drawing(
        "tradeoff", "Forgetting against utility", caption, data, lambda: _draw(data, study.methods)
    )


def tradeoff_data(study: StudyResults) -> pd.DataFrame:
    """Every evaluation that can be drawn, then vanilla, target and exactly retrained model."""
    parts = [rows[rows["update"].notna()].assign(kind="row") for _, rows in rows_by_method(study)]
    frame = stacked_parts(parts, COLUMNS)
    ppl = frame["forget_ppl"].astype(float)
    finite = np.isfinite(ppl) & (ppl > 0) & np.isfinite(frame[UTILITY_LOSS].astype(float))
    both = pd.concat([frame.loc[finite], _references(study)], ignore_index=True)
    return both.reindex(columns=COLUMNS)


def _references(study: StudyResults) -> pd.DataFrame:
    vanilla = study.baseline("vanilla")
    if vanilla is None:
        return pd.DataFrame()
    lines = [
        {"kind": "vanilla", "forget_ppl": vanilla["forget_ppl"], UTILITY_LOSS: 0.0},
        {"kind": TARGET, "forget_ppl": vanilla[f"approximate_ppl_{HALF}"]},
    ]
    exact = study.baseline("exact_retrain")
    if exact is not None:
        row, reference = ({str(k): float(v) for k, v in m.items()} for m in (exact, vanilla))
        loss = scored(row, Baselines(reference))[UTILITY_LOSS]
        lines.append(
            {"kind": "exact_retrain", "forget_ppl": exact["forget_ppl"], UTILITY_LOSS: loss}
        )
    return pd.DataFrame(lines).assign(candidate=False, chosen=False)


def _draw(data: pd.DataFrame, methods: tuple[str, ...]) -> Figure:
    rows = data[data["kind"] == "row"]
    many = len(rows) > RASTER_ABOVE
    shown = [method for method in methods if method in set(rows["method"])]
    height = 2.15 * math.ceil(len(shown) / PANELS_PER_LINE)
    figure = Figure(figsize=(WIDTH, 3.9 + height), layout="constrained")
    halves = figure.add_gridspec(2, 1, height_ratios=(3.9, height))
    above, below = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
    overview, panels = above.subplots(), panel_grid(below, len(shown))
    view = _view(data)
    _overview(overview, data, view)
    for position, (panel, method) in enumerate(zip(panels, shown, strict=True)):
        own, style = rows[rows["method"] == method], method_look(method, methods)
        cloud = _few(own, MOST_DOTS // len(shown))
        _points(overview, cloud, style, size=9, alpha=0.35, name=f"all-{position}", many=many)
        _best(overview, cloud, style, size=95, label=method, clip_on=False)
        _scales(panel, view, SMALL_PANEL_TICKS)
        _draw_references(panel, data, named=False)
        _courses(panel, _few_trials(own), style, name=f"rows-{position}", many=many)
        method_title(panel, method, methods)
        _count_outside(panel, own, view)
    outer_labels(panels, "forget ppl", "utility loss")
    above.legend(loc="outside right center", title="chosen configuration", alignment="left")
    return figure


def _overview(panel: Axes, data: pd.DataFrame, view: tuple[Limits, Limits]) -> None:
    _scales(panel, view, UTILITY_TICKS)
    _draw_references(panel, data, named=True)
    panel.set_title("All methods: every row (small), chosen configurations (large)")
    panel.set_xlabel("forget perplexity, log axis")
    panel.set_ylabel("utility loss, reporting half [nats/token]\nlower is better")
    _count_outside(panel, data[data["kind"] == "row"], view)


def _scales(panel: Axes, view: tuple[Limits, Limits], ticks: tuple[float, ...]) -> None:
    panel.set_xscale("log")
    panel.set_yscale("symlog", linthresh=0.1, linscale=0.6)
    panel.set_xlim(view[0])
    panel.set_ylim(view[1])
    log_ticks(panel, "x", view[0])
    panel.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick <= view[1][1]]))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _view(data: pd.DataFrame) -> tuple[Limits, Limits]:
    """Axis limits from vanilla to a decade beyond the target; the rest is counted, not shown."""
    points = data[data[UTILITY_LOSS].notna()]
    anchors = data.loc[data["kind"] != "row", "forget_ppl"].dropna()
    chosen = points[points["chosen"]]
    if anchors.empty:
        low, high = float(points["forget_ppl"].min()), float(points["forget_ppl"].max())
    else:
        low = float(min(anchors.min(), points["forget_ppl"].min()))
        high = float(max(anchors.max() * 10, chosen["forget_ppl"].max() if len(chosen) else 0))
    low, high = max(low, 1 / LARGEST), min(high, LARGEST)
    inside = points[points["forget_ppl"] <= high]
    top = min(float(inside[UTILITY_LOSS].max()), MOST_UTILITY_LOSS) if len(inside) else 1.0
    return (low / 1.15, high * 1.15), (-0.012, max(top * 1.2, 0.15))


def _draw_references(panel: Axes, data: pd.DataFrame, named: bool) -> None:
    lines = data[data["kind"] != "row"].to_dict("records")
    references = {str(line["kind"]): line for line in lines}
    if TARGET in references:
        target = float(references[TARGET]["forget_ppl"])
        panel.axvline(target, color=INK, lw=1.1, ls=(0, (4, 2)), zorder=2)
        if named:
            panel.annotate(
                "approximate target", (target, 1), xycoords=panel.get_xaxis_transform(),
                xytext=(3, -2), textcoords="offset points", va="top", ha="left", color=INK,
                fontsize=8, path_effects=HALO,
            )  # fmt: skip
    for name, marker, sizes, text in (
        ("vanilla", "o", (22, 55), "vanilla (nothing forgotten)"),
        ("exact_retrain", "*", (60, 150), "exactly retrained"),
    ):
        if name in references:
            place = float(references[name]["forget_ppl"]), float(references[name][UTILITY_LOSS])
            panel.scatter(
                *place, s=sizes[named], marker=marker, facecolors="white", edgecolors=INK,
                linewidths=1.1, zorder=5, clip_on=False,
            )  # fmt: skip
            if named:
                panel.annotate(
                    text, place, xytext=(9, 5), textcoords="offset points", color=INK, fontsize=8,
                    zorder=7, path_effects=HALO,
                )  # fmt: skip


def _few(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most `most` rows, and the chosen ones."""
    return rows[thinned(len(rows), most) | rows["chosen"].to_numpy(dtype=bool)]


def _few_trials(rows: pd.DataFrame) -> pd.DataFrame:
    """Whole trials with at most `MOST_DOTS` rows in all, and the chosen one's."""
    numbers = rows["number"].unique()
    most = max(1, int(MOST_DOTS * len(numbers) / max(len(rows), 1)))
    drawn = {*numbers[thinned(len(numbers), most)], *rows.loc[rows["chosen"], "number"]}
    return rows[rows["number"].isin(drawn)]


def _points(
    panel: Axes,
    rows: pd.DataFrame,
    style: MethodLook,
    *,
    size: float,
    alpha: float,
    name: str,
    many: bool,
) -> None:
    drawn = panel.scatter(
        rows["forget_ppl"], rows[UTILITY_LOSS], s=size, color=style.colour, marker=style.marker,
        alpha=alpha, linewidths=0, zorder=3, rasterized=many,
    )  # fmt: skip
    drawn.set_gid(name)


def _best(panel: Axes, rows: pd.DataFrame, style: MethodLook, size: float, **more: Any) -> None:
    best = rows[rows["chosen"]]
    panel.scatter(
        best["forget_ppl"], best[UTILITY_LOSS], s=size, color=style.colour, marker=style.marker,
        edgecolors="white", linewidths=1.2, zorder=6, **more,
    )  # fmt: skip


def _courses(panel: Axes, rows: pd.DataFrame, style: MethodLook, *, name: str, many: bool) -> None:
    """A line per trial, its evaluations, and the chosen one."""
    places = rows[["forget_ppl", UTILITY_LOSS]].to_numpy(dtype=float)
    trials = rows.reset_index(drop=True).groupby("number").indices.values()
    lines = LineCollection(
        [places[index] for index in trials], colors=style.colour, linewidths=0.6,
        alpha=0.2 if many else 0.45, rasterized=many,
    )  # fmt: skip
    panel.add_collection(lines, autolim=False)
    _points(panel, rows, style, size=7, alpha=0.25 if many else 0.7, name=name, many=many)
    _best(panel, rows, style, size=60)


def _count_outside(panel: Axes, rows: pd.DataFrame, view: tuple[Limits, Limits]) -> None:
    outside = int(((rows["forget_ppl"] > view[0][1]) | (rows[UTILITY_LOSS] > view[1][1])).sum())
    if outside:
        panel.annotate(
            f"{outside:,} of {len(rows):,} rows are beyond \u2192", (1, 0.02), fontsize=7,
            xycoords="axes fraction", ha="right", va="bottom", color=MUTED,
        )  # fmt: skip

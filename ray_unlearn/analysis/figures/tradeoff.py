"""Scatter of forgetting against utility, with the trajectories of the trials."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ray_unlearn.analysis.figures.figure_data import TARGET, UTILITY_LOSS
from ray_unlearn.analysis.figures.look import (
    INK,
    MOST_DOTS,
    MUTED,
    RASTER_ABOVE,
    Look,
    look,
    styled,
    thinned,
)
from ray_unlearn.analysis.figures.panels import (
    COLUMNS_OF_PANELS,
    WIDTH,
    grid_of,
    plain_log_ticks,
    title,
)

HALO = [withStroke(linewidth=2.5, foreground="white", alpha=0.8)]
Limits = tuple[float, float]


def tradeoff(data: pd.DataFrame, methods: tuple[str, ...]) -> Figure:
    """Utility loss against forget perplexity: all methods together, then each with its
    trajectories."""
    with styled():
        rows = data[data["kind"] == "row"]
        many = len(rows) > RASTER_ABOVE
        shown = [method for method in methods if method in set(rows["method"])]
        lines = math.ceil(len(shown) / COLUMNS_OF_PANELS)
        figure = Figure(figsize=(WIDTH, 3.9 + 2.15 * lines), layout="constrained")
        halves = figure.add_gridspec(2, 1, height_ratios=(3.9, 2.15 * lines))
        above, below = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
        overview = above.subplots()
        panels = grid_of(below, len(shown))
        view = _tradeoff_view(data)
        for panel in (overview, *panels):
            panel.set_xscale("log")
            panel.set_yscale("symlog", linthresh=0.1, linscale=0.6)
            panel.set_xlim(view[0])
            panel.set_ylim(view[1])
            plain_log_ticks(panel, "x", view[0])
            ticks = [
                tick for tick in (0, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if tick <= view[1][1]
            ]
            few = (
                ticks
                if panel is overview
                else [tick for tick in ticks if tick in (0, 0.1, 0.5, 2, 10)]
            )
            panel.yaxis.set_major_locator(FixedLocator(few))
            panel.yaxis.set_minor_locator(NullLocator())
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            _draw_references(panel, data, named=panel is overview)
        for position, method in enumerate(shown):
            style = look(method, methods)
            cloud = _few(rows[rows["method"] == method], MOST_DOTS // len(shown))
            _points(overview, cloud, style, size=9, alpha=0.35, name=f"all-{position}", many=many)
            best = cloud[cloud["chosen"]]
            overview.scatter(
                best["forget_ppl"], best[UTILITY_LOSS], s=95, color=style.colour, marker=style.marker,
                edgecolors="white", linewidths=1.2, zorder=6, label=method, clip_on=False,
            )  # fmt: skip
        for position, (panel, method) in enumerate(zip(panels, shown, strict=True)):
            whole = _few_trials(rows[rows["method"] == method])
            _trajectories(panel, whole, look(method, methods), name=f"rows-{position}", many=many)
            title(panel, method, methods)
            _count_outside(panel, rows[rows["method"] == method], view)
            if position % COLUMNS_OF_PANELS == 0:
                panel.set_ylabel("utility loss")
            if position >= len(shown) - COLUMNS_OF_PANELS:
                panel.set_xlabel("forget ppl")
        overview.set_title("All methods: every row (small), chosen configurations (large)")
        overview.set_xlabel("forget perplexity, log axis")
        overview.set_ylabel("utility loss, reporting half [nats/token]\nlower is better")
        _count_outside(overview, rows, view)
        above.legend(loc="outside right center", title="chosen configuration", alignment="left")
        return figure


def _tradeoff_view(data: pd.DataFrame) -> tuple[Limits, Limits]:
    """Axis limits around what matters: from vanilla to a decade past the target; the rest is
    counted, not shown."""
    points = data[data[UTILITY_LOSS].notna()]
    anchors = data.loc[data["kind"] != "row", "forget_ppl"]
    chosen = points[points["chosen"]]
    if anchors.empty:
        low, high = float(points["forget_ppl"].min()), float(points["forget_ppl"].max())
    else:
        low = float(min(anchors.min(), points["forget_ppl"].min()))
        high = float(max(anchors.max() * 10, chosen["forget_ppl"].max() if len(chosen) else 0))
    inside = points[points["forget_ppl"] <= high]
    top = float(inside[UTILITY_LOSS].max()) if len(inside) else 1.0
    return (low / 1.15, high * 1.15), (-0.012, max(top * 1.2, 0.15))


def _draw_references(panel: Axes, data: pd.DataFrame, named: bool) -> None:
    references = {
        str(line["kind"]): line for line in data[data["kind"] != "row"].to_dict("records")
    }
    if TARGET in references:
        target = float(references[TARGET]["forget_ppl"])
        panel.axvline(target, color=INK, lw=1.1, ls=(0, (4, 2)), zorder=2)
        if named:
            panel.annotate(
                "approximate target", (target, 1), xycoords=panel.get_xaxis_transform(), xytext=(3, -2),
                textcoords="offset points", va="top", ha="left", color=INK, fontsize=8, path_effects=HALO,
            )  # fmt: skip
    for name, marker, text in (
        ("vanilla", "o", "vanilla (nothing forgotten)"),
        ("exact_retrain", "*", "exactly retrained"),
    ):
        if name in references:
            place = float(references[name]["forget_ppl"]), float(references[name][UTILITY_LOSS])
            panel.scatter(
                *place, s=(150 if marker == "*" else 55) if named else (60 if marker == "*" else 22), marker=marker,
                facecolors="white", edgecolors=INK, linewidths=1.1, zorder=5, clip_on=False,
            )  # fmt: skip
            if named:
                panel.annotate(
                    text,
                    place,
                    xytext=(9, 5),
                    textcoords="offset points",
                    color=INK,
                    fontsize=8,
                    zorder=7,
                    path_effects=HALO,
                )


def _few(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most so many rows, and the chosen ones."""
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
    style: Look,
    *,
    size: float,
    alpha: float,
    name: str,
    many: bool,
) -> None:
    drawn = panel.scatter(
        rows["forget_ppl"], rows[UTILITY_LOSS], s=size, color=style.colour, marker=style.marker, alpha=alpha, linewidths=0, zorder=3,
        rasterized=many,
    )  # fmt: skip
    drawn.set_gid(name)


def _trajectories(panel: Axes, rows: pd.DataFrame, style: Look, *, name: str, many: bool) -> None:
    places = rows[["forget_ppl", UTILITY_LOSS]].to_numpy(dtype=float)
    lines = [
        places[index] for index in rows.reset_index(drop=True).groupby("number").indices.values()
    ]
    panel.add_collection(
        LineCollection(
            lines, colors=style.colour, linewidths=0.6, alpha=0.2 if many else 0.45, rasterized=many
        ),
        autolim=False,
    )
    _points(panel, rows, style, size=7, alpha=0.25 if many else 0.7, name=name, many=many)
    best = rows[rows["chosen"]]
    panel.scatter(
        best["forget_ppl"],
        best[UTILITY_LOSS],
        s=60,
        color=style.colour,
        marker=style.marker,
        edgecolors="white",
        lw=1,
        zorder=6,
    )


def _count_outside(panel: Axes, rows: pd.DataFrame, view: tuple[Limits, Limits]) -> None:
    outside = int(((rows["forget_ppl"] > view[0][1]) | (rows[UTILITY_LOSS] > view[1][1])).sum())
    if outside:
        panel.annotate(
            f"{outside:,} of {len(rows):,} rows lie beyond \u2192", (1, 0.02), xycoords="axes fraction", ha="right", va="bottom",
            fontsize=7, color=MUTED,
        )  # fmt: skip

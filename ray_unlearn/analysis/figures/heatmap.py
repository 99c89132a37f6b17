"""Heatmap of a study's raw scores: where each method works, by learning rate and updates."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from ray_unlearn.analysis.best_trials import SCORE
from ray_unlearn.analysis.figures.drawing import Drawing
from ray_unlearn.analysis.figures.look import ABSENT, CHOSEN, MUTED, RASTER_ABOVE
from ray_unlearn.analysis.figures.panels import (
    Limits,
    Style,
    drawable,
    log_ticks,
    log_view,
    method_title,
    new_panels,
    outer_labels,
)
from ray_unlearn.analysis.figures.study_data import (
    CHOSEN_LABEL,
    rows_by_method,
    stacked_parts,
    worth_drawing,
)
from ray_unlearn.analysis.one_score import unit_label
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.spec.search_space import FloatRange

CAPTION = (
    "One panel per method. A horizontal band is one trial, drawn at its learning rate (its edges "
    "are half-way to the neighbouring trials); a column is an evaluated number of updates. Nothing "
    "is interpolated, and trials that differ in other hyperparameters as well are side by side. "
    "The colour is the score on the reporting half, on one scale for all methods: yellow is close "
    "to a model that never saw the forget set, dark is far (forgotten too little, too much, or at "
    "the price of utility). The framed cell was chosen on the selection half, so it need not be "
    "the brightest. Hatched cells belong to diverged trials or were not reached; a method without "
    "any evaluation has no panel."
)
COLUMNS = [
    "method", "number", "update", "low", "high", "learning_rate", "status", SCORE, "drawn",
    "chosen",
]  # fmt: skip
OUTSIDE = "outside"
COLOUR_MAP = "viridis_r"
# Lines only: dots cost a third of a megabyte in an SVG.
HATCHES = {
    "diverged": "////",
    "pruned": "|||",
    "out_of_memory": "xxxx",
    "failed": "xxxx",
    "running": "",
    "not evaluated": "",
    OUTSIDE: "\\\\\\\\",
}
NO_SCORE_LABELS = {
    "diverged": "trial diverged",
    "pruned": "stopped early (pruned)",
    "out_of_memory": "out of memory or failed",
    "failed": "out of memory or failed",
    "running": "not evaluated",
    "not evaluated": "not evaluated",
    OUTSIDE: "outside the constraints",
}


def heatmap_figure(study: StudyResults) -> Drawing | None:
    """Score by learning rate and updates; None where nothing was evaluated."""
    data = heatmap_data(study)
    if not worth_drawing(data):
        return None
    title = "Where each method works: learning rate by updates"
    unit = unit_label(study)
    return Drawing("heatmap", title, CAPTION, data, lambda: _draw(data, study.methods, unit))


def heatmap_data(study: StudyResults) -> pd.DataFrame:
    """One line per cell: a trial at an update at which any trial of its method was evaluated.

    A trial fills the band [low, high] of learning rates, which ends half-way (in log learning
    rate) to its neighbours. Trials of one learning rate share its band equally, in order of
    number. `drawn` says what the cell shows: `score`, or why there is none (the trial's status).
    """
    parts = [_cells(rows, *_bounds(study, method)) for method, rows in rows_by_method(study)]
    return stacked_parts(parts, COLUMNS)


def _cells(rows: pd.DataFrame, low: float, high: float) -> pd.DataFrame:
    updates = sorted(rows["update"].dropna().unique())
    trials = rows.drop_duplicates("number").sort_values(["learning_rate", "number"], kind="stable")
    if not updates:
        return pd.DataFrame()
    edges = learning_rate_bands(trials["learning_rate"].to_numpy(), low, high)
    frame = trials[["method", "number", "learning_rate", "status"]].assign(
        low=edges[:-1], high=edges[1:]
    )
    cells = frame.merge(pd.DataFrame({"update": updates}), how="cross")
    known = rows.sort_values("scored", ascending=False, kind="stable")
    known = known.drop_duplicates(["number", "update"])
    known["outside"] = ~known["feasible"] if "feasible" in known else False
    known = known[["number", "update", SCORE, "chosen", "outside"]]
    cells = cells.merge(known, on=["number", "update"], how="left")
    cells["chosen"] = cells["chosen"].eq(True)
    status = cells["status"].where(cells["status"] != "complete", "not evaluated")
    outside = cells.pop("outside").eq(True) & np.isfinite(cells[SCORE])
    cells["drawn"] = np.where(np.isfinite(cells[SCORE]), "score", status)
    cells.loc[outside, "drawn"], cells.loc[outside, SCORE] = OUTSIDE, np.nan
    return cells


def learning_rate_bands(rates: np.ndarray, low: float, high: float) -> np.ndarray:
    """Edges [n + 1], rising, of one band per trial.

    Args:
        rates: learning rates [n], rising; equal ones share a band.
        low, high: bounds of the search; 0 where they are not known.
    """
    distinct, counts = np.unique(rates, return_counts=True)
    logs = np.log(distinct)
    middle = (logs[1:] + logs[:-1]) / 2
    first, last = (logs[1] - logs[0], logs[-1] - logs[-2]) if len(logs) > 1 else (1.0, 1.0)
    bottom = min(math.log(low), logs[0]) if low > 0 else logs[0] - first / 2
    top = max(math.log(high), logs[-1]) if high > 0 else logs[-1] + last / 2
    # A trial exactly on a bound of the search still gets a band to be seen in.
    bottom -= 0.05 * (bottom == logs[0])
    top += 0.05 * (top == logs[-1])
    edges = np.concatenate([[bottom], middle, [top]])
    split = [np.linspace(edges[i], edges[i + 1], count + 1)[:-1] for i, count in enumerate(counts)]
    limits: np.ndarray = np.exp(np.concatenate([*split, [edges[-1]]]))
    return limits


def _bounds(study: StudyResults, method: str) -> Limits:
    """Search bounds of the learning rate; (0, 0) where they are not known."""
    if study.spec is None:
        return 0.0, 0.0
    parameter = study.spec.spaces[method].parameters["learning_rate"]
    return (parameter.low, parameter.high) if isinstance(parameter, FloatRange) else (0.0, 0.0)


def _draw(data: pd.DataFrame, methods: tuple[str, ...], unit: str) -> Figure:
    shown = [method for method in methods if method in set(data["method"])]
    figure, panels = new_panels(len(shown), height=2.35)
    norm, colours = _score_norm(data[SCORE]), colormaps[COLOUR_MAP]
    limits = float(data["low"].min()), float(data["high"].max())
    many = len(data) > RASTER_ABOVE
    for position, (panel, method) in enumerate(zip(panels, shown, strict=True)):
        _draw_panel(panel, position, data[data["method"] == method], norm, colours, many=many)
        method_title(panel, method, methods)
        panel.set_yscale("log")
        panel.set_ylim(limits)
        log_ticks(panel, "y", limits)
    outer_labels(panels, "updates", "learning rate")
    _colour_bar(figure, panels, norm, colours, unit)
    figure.legend(handles=_keys(data), loc="outside lower center", ncols=6)
    return figure


def _colour_bar(
    figure: Figure, panels: list[Axes], norm: LogNorm, colours: Colormap, unit: str
) -> None:
    mappable = ScalarMappable(norm, colours)
    bar = figure.colorbar(mappable, ax=panels, fraction=0.018, pad=0.01, extend="max")
    bar.set_label(f"score, reporting half{unit}, lower is better")
    log_ticks(bar.ax, "y", (norm.vmin or 1e-3, norm.vmax or 1.0))
    bar.ax.grid(False)


def _draw_panel(
    panel: Axes, position: int, cells: pd.DataFrame, norm: LogNorm, colours: Colormap, *, many: bool
) -> None:
    updates = np.sort(cells["update"].unique())
    bands = cells.drop_duplicates("number").sort_values("low")
    edges = np.append(bands["low"].to_numpy(), cells["high"].max())
    order = cells.sort_values(["low", "update"])
    scores = order[SCORE].to_numpy(dtype=float).reshape(len(edges) - 1, len(updates))
    shades = np.ma.masked_invalid(scores).clip(min=float(norm.vmin or 0))
    panel.set_facecolor(ABSENT)
    mesh = panel.pcolormesh(
        np.arange(len(updates) + 1), edges, shades, norm=norm, cmap=colours,
        edgecolors="face", linewidth=0.3, rasterized=many,
    )  # fmt: skip
    mesh.set_gid(f"score-{position}")
    for first, last, (low, high), hatch in _runs(_hatched(cells), updates):
        corner, width = (first, low), last - first + 1
        style: Style = {"hatch": HATCHES[hatch], "edgecolor": MUTED, "lw": 0}
        panel.add_patch(Rectangle(corner, width, high - low, fill=False, **style))
    for cell in cells[cells["chosen"]].to_dict("records"):
        _frame(panel, int(np.searchsorted(updates, float(cell["update"]))), cell)
    _update_ticks(panel, updates)


def _frame(panel: Axes, column: int, cell: dict[Any, Any]) -> None:
    """Red on white, so that it is seen on every colour."""
    height = cell["high"] - cell["low"]
    for colour, width in (("white", 3.0), (CHOSEN, 1.6)):
        style: Style = {"edgecolor": colour, "lw": width, "zorder": 3, "clip_on": False}
        panel.add_patch(Rectangle((column, cell["low"]), 1, height, fill=False, **style))


def _update_ticks(panel: Axes, updates: np.ndarray) -> None:
    places = range(0, len(updates), math.ceil(len(updates) / 8))
    panel.set_xticks([place + 0.5 for place in places], [f"{updates[place]:g}" for place in places])
    panel.set_xlim(0, len(updates))
    panel.tick_params(length=0, axis="x")
    panel.grid(False)


def _hatched(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells that are no configuration: of diverged trials, and those a trial did not reach."""
    diverged = cells["status"] == "diverged"
    hatch = cells["drawn"].where(~diverged, "diverged")
    lost = cells["drawn"].isin(["pruned", "out_of_memory", "failed"])
    return cells.assign(hatch=hatch)[diverged | lost]


def _runs(cells: pd.DataFrame, updates: np.ndarray) -> Iterator[tuple[int, int, Limits, str]]:
    """First and last column, band and hatch of neighbouring cells of a trial that look alike."""
    open_run: list[Any] = []
    for cell in cells.sort_values(["low", "update"]).to_dict("records"):
        column = int(np.searchsorted(updates, float(cell["update"])))
        band = (float(cell["low"]), float(cell["high"]))
        if open_run and open_run[1] == column - 1 and open_run[2:] == [band, cell["hatch"]]:
            open_run[1] = column
            continue
        if open_run:
            yield tuple(open_run)
        open_run = [column, column, band, cell["hatch"]]
    if open_run:
        yield tuple(open_run)


def _keys(data: pd.DataFrame) -> list[Any]:
    keys: list[Any] = []
    if data["chosen"].any():
        keys.append(Patch(facecolor="none", edgecolor=CHOSEN, linewidth=1.6, label=CHOSEN_LABEL))
    unseen = data["drawn"][data["drawn"].isin(["running", "not evaluated"])]
    reasons = {*_hatched(data)["hatch"], *unseen}
    labels: dict[str, str] = {}
    for reason, hatch in HATCHES.items():
        if reason in reasons:
            labels.setdefault(NO_SCORE_LABELS[reason], hatch)
    return keys + [
        Patch(facecolor=ABSENT, edgecolor=MUTED, linewidth=0.4, hatch=hatch, label=text)
        for text, hatch in labels.items()
    ]


def _score_norm(scores: pd.Series) -> LogNorm:
    """From the best score (0.001 at least) to the ninth decile: a few bad trials are dark."""
    finite = scores[np.isfinite(scores) & (scores > 0)]
    low, high = log_view(finite, 1e-3)
    if len(finite):
        high = min(high, float(np.quantile(drawable(finite), 0.9)))
    return LogNorm(low, max(high, low * 2))

"""Heatmaps of the score over learning rate and updates."""

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

from ray_unlearn.analysis.figures.figure_data import SCORE
from ray_unlearn.analysis.figures.look import ABSENT, CHOSEN, MUTED, RASTER_ABOVE, styled
from ray_unlearn.analysis.figures.panels import (
    COLUMNS_OF_PANELS,
    new_panels,
    plain_log_ticks,
    title,
)

COLOUR_MAP = "viridis_r"
# Lines only: dots cost a third of a megabyte in an SVG.
HATCHES = {
    "infeasible": "////",
    "pruned": "|||",
    "out_of_memory": "xxxx",
    "failed": "xxxx",
    "running": "",
    "not evaluated": "",
}
NO_SCORE_LABELS = {
    "infeasible": "trial diverged (infeasible)",
    "pruned": "stopped early (pruned)",
    "out_of_memory": "out of memory or failed",
    "failed": "out of memory or failed",
    "running": "not evaluated",
    "not evaluated": "not evaluated",
}


def heatmaps(data: pd.DataFrame, methods: tuple[str, ...]) -> Figure:
    """Score over learning rate (log) and updates: a cell per trial and evaluated update, nothing
    interpolated."""
    with styled():
        shown = [method for method in methods if method in set(data["method"])]
        figure, panels = new_panels(len(shown), height=2.35)
        norm = _score_norm(data[SCORE])
        colours = colormaps[COLOUR_MAP]
        limits = float(data["low"].min()), float(data["high"].max())
        for position, (panel, method) in enumerate(zip(panels, shown, strict=True)):
            _heatmap(
                panel,
                position,
                data[data["method"] == method],
                norm,
                colours,
                many=len(data) > RASTER_ABOVE,
            )
            title(panel, method, methods)
            panel.set_yscale("log")
            panel.set_ylim(limits)
            plain_log_ticks(panel, "y", limits)
            if position % COLUMNS_OF_PANELS == 0:
                panel.set_ylabel("learning rate")
            if position >= len(shown) - COLUMNS_OF_PANELS:
                panel.set_xlabel("updates")
        bar = figure.colorbar(
            ScalarMappable(norm, colours), ax=panels, fraction=0.018, pad=0.01, extend="max"
        )
        bar.set_label("score, reporting half [nats/token], lower is better")
        plain_log_ticks(bar.ax, "y", (norm.vmin or 1e-3, norm.vmax or 1.0))
        bar.ax.grid(False)
        figure.legend(handles=_heatmap_keys(data), loc="outside lower center", ncols=6)
        return figure


def _heatmap(
    panel: Axes, position: int, cells: pd.DataFrame, norm: LogNorm, colours: Colormap, *, many: bool,
) -> None:  # fmt: skip
    updates = np.sort(cells["update"].unique())
    edges = np.append(
        cells.drop_duplicates("number").sort_values("low")["low"].to_numpy(), cells["high"].max()
    )
    order = cells.sort_values(["low", "update"])
    scores = order[SCORE].to_numpy(dtype=float).reshape(len(edges) - 1, len(updates))
    panel.set_facecolor(ABSENT)
    mesh = panel.pcolormesh(
        np.arange(len(updates) + 1), edges, np.ma.masked_invalid(scores).clip(min=float(norm.vmin or 0)), norm=norm, cmap=colours,
        edgecolors="face", linewidth=0.3, rasterized=many,
    )  # fmt: skip
    mesh.set_gid(f"score-{position}")
    for first, last, band, hatch in _runs(_hatched(cells), updates):
        width, height = last - first + 1, band[1] - band[0]
        panel.add_patch(
            Rectangle(
                (first, band[0]),
                width,
                height,
                fill=False,
                hatch=HATCHES[hatch],
                edgecolor=MUTED,
                lw=0,
            )
        )
    for cell in cells[cells["chosen"]].to_dict("records"):
        corner = int(np.searchsorted(updates, float(cell["update"]))), cell["low"]
        for colour, line in (("white", 3.0), (CHOSEN, 1.6)):
            panel.add_patch(
                Rectangle(
                    corner,
                    1,
                    cell["high"] - cell["low"],
                    fill=False,
                    edgecolor=colour,
                    lw=line,
                    zorder=3,
                    clip_on=False,
                )
            )
    every = math.ceil(len(updates) / 8)
    places = range(0, len(updates), every)
    panel.set_xticks([place + 0.5 for place in places], [f"{updates[place]:g}" for place in places])
    panel.set_xlim(0, len(updates))
    panel.tick_params(length=0, axis="x")
    panel.grid(False)


def _hatched(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells that are no configuration: all of a diverged trial's, and those that other trials did
    not reach."""
    diverged = cells["status"] == "infeasible"
    hatch = cells["drawn"].where(~diverged, "infeasible")
    return cells.assign(hatch=hatch)[
        diverged | cells["drawn"].isin(["pruned", "out_of_memory", "failed"])
    ]


def _runs(
    cells: pd.DataFrame, updates: np.ndarray
) -> Iterator[tuple[int, int, tuple[float, float], str]]:
    """Neighbouring cells of one trial with one hatch, as first column, last column, band and
    hatch."""
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


def _heatmap_keys(data: pd.DataFrame) -> list[Any]:
    keys: list[Any] = []
    if data["chosen"].any():
        keys.append(
            Patch(
                facecolor="none",
                edgecolor=CHOSEN,
                linewidth=1.6,
                label="the method's chosen configuration",
            )
        )
    reasons = [
        *(_hatched(data)["hatch"].unique()),
        *data["drawn"][data["drawn"].isin(["running", "not evaluated"])].unique(),
    ]
    labels: dict[str, str] = {}
    for reason, hatch in HATCHES.items():
        if reason in reasons:
            labels.setdefault(NO_SCORE_LABELS[reason], hatch)
    return keys + [
        Patch(facecolor=ABSENT, edgecolor=MUTED, linewidth=0.4, hatch=hatch, label=text)
        for text, hatch in labels.items()
    ]


def _score_norm(scores: pd.Series) -> LogNorm:
    finite = scores[np.isfinite(scores) & (scores > 0)]
    if finite.empty:
        return LogNorm(1e-3, 1.0)
    low = max(float(finite.min()), 1e-3)
    return LogNorm(low, max(float(np.quantile(finite, 0.9)), low * 2))

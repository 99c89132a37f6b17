"""Score of each trial against its learning rate: how much care a method needs."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ray_unlearn.analysis.best_trials import SCORE, scoring_rows
from ray_unlearn.analysis.figures.drawing import Drawing
from ray_unlearn.analysis.figures.look import (
    CHOSEN,
    INK,
    MOST_DOTS,
    RASTER_ABOVE,
    MethodLook,
    method_look,
    thinned,
)
from ray_unlearn.analysis.figures.panels import (
    Limits,
    count_beyond,
    drawable,
    log_ticks,
    log_view,
    marker_key,
    method_title,
    new_panels,
    outer_labels,
)
from ray_unlearn.analysis.figures.study_data import (
    CHOSEN_LABEL,
    SCORE_FLOOR,
    rows_by_method,
    stacked_parts,
    thinning_note,
    worth_drawing,
)
from ray_unlearn.analysis.one_score import unit_label
from ray_unlearn.analysis.read.study_results import StudyResults

CAPTION = (
    "One point per trial: its score, on the reporting half. Both axes are logarithmic. A broad low "
    "valley means a forgiving method; a narrow one, next to crosses, a method that needs care. The "
    "other hyperparameters vary too, so the scatter at one learning rate is not noise alone."
)
COLUMNS = ["method", "number", "learning_rate", "status", "update", SCORE, "chosen"]


def learning_rate_figure(study: StudyResults) -> Drawing | None:
    """Score by learning rate; None where no trial has a score."""
    data = learning_rate_data(study)
    if not worth_drawing(data):
        return None
    caption = CAPTION + thinning_note(data)
    return Drawing(
        "learning_rates", "Score against learning rate", caption, data,
        lambda: _draw(data, study.methods, unit_label(study)),
    )  # fmt: skip


def learning_rate_data(study: StudyResults) -> pd.DataFrame:
    """One line per trial: the row that scores it; NaN where it has none."""
    parts = []
    for _, rows in rows_by_method(study):
        best = scoring_rows(rows)[["number", "update", SCORE, "chosen"]]
        trials = rows.drop_duplicates("number")[["method", "number", "learning_rate", "status"]]
        merged = trials.merge(best, on="number", how="left")
        parts.append(merged.assign(chosen=merged["chosen"].eq(True)))
    return stacked_parts(parts, COLUMNS)


def _draw(data: pd.DataFrame, methods: tuple[str, ...], unit: str) -> Figure:
    shown = [method for method in methods if method in set(data["method"])]
    figure, panels = new_panels(len(shown), height=2.1)
    low, high = log_view(data[SCORE], SCORE_FLOOR)
    scores = low / 1.3, high * 1.6
    rates = float(data["learning_rate"].min()) / 1.1, float(data["learning_rate"].max()) * 1.1
    many = len(data) > RASTER_ABOVE
    for position, (panel, method) in enumerate(zip(panels, shown, strict=True)):
        part = data[data["method"] == method]
        _scales(panel, rates, scores)
        _scored(panel, position, part, method_look(method, methods), many=many)
        _unscored(panel, position, part[part[SCORE].isna()], many=many)
        count_beyond(panel, int((part[SCORE] > scores[1]).sum()), len(part), "trials")
        method_title(panel, method, methods)
    outer_labels(panels, "learning rate", f"score{unit}")
    figure.legend(handles=_keys(), loc="outside lower center", ncols=2)
    return figure


def _scales(panel: Axes, rates: Limits, scores: Limits) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlim(rates)
    panel.set_ylim(scores)
    log_ticks(panel, "x", rates)
    log_ticks(panel, "y", scores)


def _scored(
    panel: Axes, position: int, part: pd.DataFrame, style: MethodLook, *, many: bool
) -> None:
    scored = part[part[SCORE].notna()]
    scored = scored[thinned(len(scored), MOST_DOTS) | scored["chosen"].to_numpy(dtype=bool)]
    drawn = panel.scatter(
        scored["learning_rate"], drawable(scored[SCORE], SCORE_FLOOR), s=20, color=style.colour,
        marker=style.marker, alpha=0.8, linewidths=0, zorder=3, rasterized=many,
    )  # fmt: skip
    drawn.set_gid(f"trials-{position}")
    best = scored[scored["chosen"]]
    places = best["learning_rate"], drawable(best[SCORE], SCORE_FLOOR)
    panel.scatter(*places, s=110, facecolors="none", edgecolors=CHOSEN, lw=1.5)


def _unscored(panel: Axes, position: int, lost: pd.DataFrame, *, many: bool) -> None:
    crosses = panel.scatter(
        lost["learning_rate"], np.full(len(lost), 0.97), transform=panel.get_xaxis_transform(),
        marker="x", s=20, color=INK, linewidths=0.9, clip_on=False, rasterized=many,
    )  # fmt: skip
    crosses.set_gid(f"without-score-{position}")


def _keys() -> list[object]:
    lost = "trial without a score (diverged, failed, not finished)"
    return [
        marker_key(CHOSEN_LABEL, mfc="none", mec=CHOSEN, mew=1.5, ms=9),
        marker_key(lost, marker="x", color=INK, ms=5),
    ]

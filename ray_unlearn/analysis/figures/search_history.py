"""Best score so far against trials: how the search of a study went."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ray_unlearn.analysis.best_trials import scoring_rows
from ray_unlearn.analysis.figures.drawing import Drawing
from ray_unlearn.analysis.figures.look import MOST_DOTS, RASTER_ABOVE, method_look, thinned
from ray_unlearn.analysis.figures.panels import (
    WIDTH,
    count_beyond,
    drawable,
    log_ticks,
    log_view,
)
from ray_unlearn.analysis.figures.study_data import (
    SCORE_FLOOR,
    rows_by_method,
    stacked_parts,
    thinning_note,
    worth_drawing,
)
from ray_unlearn.analysis.one_score import unit_label
from ray_unlearn.analysis.read.study_results import StudyResults

CAPTION = (
    "Best score so far against the number of trials of that method, on the half that the search "
    "saw. A line that still falls at its end asks for more trials. These numbers are optimistic, "
    "being a minimum over many; the verdict table has those of the reporting half."
)
COLUMNS = ["method", "number", "order", "status", "score_selection", "best_so_far"]


def search_history_figure(study: StudyResults) -> Drawing | None:
    """The course of the search; None where no trial has a score."""
    data = search_history_data(study)
    if not worth_drawing(data):
        return None
    caption = CAPTION + thinning_note(data)
    return Drawing(
        "search_history",
        "How the search went",
        caption,
        data,
        lambda: _draw(data, study.methods, unit_label(study)),
    )


def search_history_data(study: StudyResults) -> pd.DataFrame:
    """Trials of each method in the order they were asked for, with the best score so far.

    Both are of the half that the search saw (selection): the figure is about the search, not
    about its result.
    """
    parts = []
    for _, rows in rows_by_method(study):
        scores = scoring_rows(rows).set_index("number")["score_selection"]
        trials = rows.drop_duplicates("number").sort_values("number")
        trials = trials[["method", "number", "status"]].assign(order=range(1, len(trials) + 1))
        trials["score_selection"] = trials["number"].map(scores)
        parts.append(trials.assign(best_so_far=trials["score_selection"].cummin().ffill()))
    return stacked_parts(parts, COLUMNS)


def _draw(data: pd.DataFrame, methods: tuple[str, ...], unit: str) -> Figure:
    figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
    panel = figure.subplots()
    panel.set_yscale("log")
    low, high = log_view(data["score_selection"], SCORE_FLOOR)
    limits = low / 1.25, high * 1.25
    for position, method in enumerate(methods):
        part = data[data["method"] == method]
        if part["best_so_far"].notna().any():
            _draw_method(panel, position, part, method, methods, many=len(data) > RASTER_ABOVE)
    panel.set_xlabel("trial of the method, in the order asked for")
    panel.set_ylabel(f"score, selection half{unit}\nlower is better")
    panel.set_ylim(limits)
    log_ticks(panel, "y", limits)
    beyond = int((data["score_selection"] > limits[1]).sum())
    count_beyond(panel, beyond, len(data), "trials")
    title = "best so far (line), trials (points)"
    figure.legend(loc="outside right center", title=title, alignment="left")
    return figure


def _draw_method(
    panel: Axes,
    position: int,
    part: pd.DataFrame,
    method: str,
    methods: tuple[str, ...],
    *,
    many: bool,
) -> None:
    style = method_look(method, methods)
    panel.step(
        part["order"], drawable(part["best_so_far"], SCORE_FLOOR), where="post",
        color=style.colour, ls=style.dash, label=method,
    )  # fmt: skip
    dots = part[thinned(len(part), max(1, MOST_DOTS // len(methods)))]
    drawn = panel.scatter(
        dots["order"], drawable(dots["score_selection"], SCORE_FLOOR), s=14, color=style.colour,
        marker=style.marker, alpha=0.5, linewidths=0, rasterized=many, zorder=1.5,
    )  # fmt: skip
    drawn.set_gid(f"trials-{position}")

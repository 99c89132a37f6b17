"""Membership inference: attack AUC along each method's best trial."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ray_unlearn.analysis.figures.drawing import Drawing
from ray_unlearn.analysis.figures.look import CHOSEN, INK, MUTED, method_look
from ray_unlearn.analysis.figures.panels import WIDTH, Style
from ray_unlearn.analysis.figures.study_data import (
    ATTACKS,
    rows_by_method,
    stacked_parts,
    worth_drawing,
)
from ray_unlearn.analysis.read.study_results import StudyResults

CAPTION = (
    "Probability that an attack ranks a forget document above an unseen one, along the trial of "
    "each method's chosen configuration (circled). 0.5 is the target: the attack learns nothing. "
    "Above, the forget set is still remembered; below, it stands out by being worse than unseen "
    "text (over-unlearned). Values are signed, never folded."
)
COLUMNS = ["kind", "method", "number", "update", *ATTACKS, "chosen"]
TITLES = {ATTACKS[0]: "Loss attack", ATTACKS[1]: "Min-K%++ attack, k = 20"}
BASELINES = (
    ("vanilla", (0, (4, 2)), "vanilla"),
    ("exact_retrain", (0, (1, 1.5)), "exactly retrained"),
)


def membership_figure(study: StudyResults) -> Drawing | None:
    """Attacks along the best trials; None where none was evaluated."""
    data = membership_data(study)
    if not worth_drawing(data):
        return None
    title = "Can an attacker still tell? Membership inference along the best trials"
    return Drawing("membership_inference", title, CAPTION, data, lambda: _draw(data, study.methods))


def membership_data(study: StudyResults) -> pd.DataFrame:
    """Signed AUC of two attacks along each method's best trial, and of the baselines."""
    parts = []
    for _, rows in rows_by_method(study):
        best = set(rows.loc[rows["chosen"], "number"])
        parts.append(rows[rows["number"].isin(best) & rows["update"].notna()].assign(kind="row"))
    baselines = study.baselines.reset_index(names="kind").reindex(columns=COLUMNS)
    baselines = baselines.assign(method="", chosen=False)
    return pd.concat([stacked_parts(parts, COLUMNS), baselines], ignore_index=True)[COLUMNS]


def _draw(data: pd.DataFrame, methods: tuple[str, ...]) -> Figure:
    figure = Figure(figsize=(WIDTH, 3.7), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, attack in zip(panels, ATTACKS, strict=True):
        _baselines(panel, data, attack)
        rows = data[data["kind"] == "row"]
        for method in methods:
            trial = rows[(rows["method"] == method) & rows[attack].notna()]
            _curve(panel, trial, attack, method, methods)
        panel.set_title(TITLES[attack])
        panel.set_xlabel("updates")
        panel.set_ylim(min(0.0, float(np.nanmin([*rows[attack], 0.0]))), 1.02)
        panel.set_xlim(left=0)
    panels[0].set_ylabel(
        "AUC, reporting half (target 0.5)\n\u2190 over-unlearned     still remembered \u2192"
    )
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def _baselines(panel: Axes, data: pd.DataFrame, attack: str) -> None:
    panel.axhline(0.5, color=INK, lw=1.1, zorder=2)
    for name, dash, text in BASELINES:
        for value in data.loc[data["kind"] == name, attack].dropna():
            panel.axhline(value, color=MUTED, lw=1.1, ls=dash, zorder=2, label=text)


def _curve(
    panel: Axes, trial: pd.DataFrame, attack: str, method: str, methods: tuple[str, ...]
) -> None:
    if trial.empty:
        return
    style = method_look(method, methods)
    panel.plot(
        trial["update"], trial[attack], color=style.colour, ls=style.dash, marker=style.marker,
        ms=4, label=method,
    )  # fmt: skip
    best = trial[trial["chosen"]]
    circle: Style = {"s": 110, "facecolors": "none", "edgecolors": CHOSEN, "lw": 1.5, "zorder": 5}
    panel.scatter(best["update"], best[attack], **circle)

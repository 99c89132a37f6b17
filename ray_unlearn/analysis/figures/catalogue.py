"""The figures of a report: which there are, the numbers each one shows, and the words that say how
to read it.

Small multiples, one panel per method, all panels with the same axes; one colour, marker and dash
per method throughout (`style.look`). Axes that run over decades are logarithmic; what lies outside
a view is counted in it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ray_unlearn.analysis.figures import figure_data
from ray_unlearn.analysis.figures.curves import learning_rates, membership, search_history
from ray_unlearn.analysis.figures.figure_data import ATTACKS, SCORE, UTILITY_LOSS
from ray_unlearn.analysis.figures.heatmap import heatmaps
from ray_unlearn.analysis.figures.look import MOST_DOTS
from ray_unlearn.analysis.figures.tradeoff import tradeoff
from ray_unlearn.analysis.read.study_results import StudyResults


@dataclass(frozen=True)
class Drawing:
    """A finished figure with the numbers it shows and the words that say how to read it."""

    name: str
    title: str
    caption: str
    data: pd.DataFrame
    figure: Figure


@dataclass(frozen=True)
class _Kind:
    name: str
    title: str
    caption: str
    numbers: Callable[[StudyResults], pd.DataFrame]
    draw: Callable[[pd.DataFrame, tuple[str, ...]], Figure]


THINNED = (
    f" At most {MOST_DOTS:,} points per panel are drawn, chosen at random; the numbers hold all."
)


def draw_all(study: StudyResults) -> list[Drawing]:
    """Every figure that the study has numbers for; none where no trial was evaluated."""
    drawings = []
    for kind in KINDS:
        data = kind.numbers(study)
        if _has_something(data):
            caption = kind.caption + (
                THINNED if len(data) > MOST_DOTS and kind.draw is not heatmaps else ""
            )
            drawings.append(
                Drawing(kind.name, kind.title, caption, data, kind.draw(data, study.methods))
            )
    return drawings


def _has_something(data: pd.DataFrame) -> bool:
    values = [name for name in (SCORE, UTILITY_LOSS, *ATTACKS, "score_selection") if name in data]
    trials = data[data["method"].fillna("") != ""]
    return bool(not trials.empty and np.isfinite(trials[values].to_numpy(dtype=float)).any())


KINDS = (
    _Kind(
        "learning_rate_by_updates",
        "Where each method works: learning rate by updates",
        "One panel per method. A horizontal band is one trial, drawn at its learning rate (its edges lie half-way to the "
        "neighbouring trials); a column is an evaluated number of updates. Nothing is interpolated, and trials that differ "
        "in other hyperparameters as well lie side by side. The colour is the score on the reporting half, on one scale "
        "for all methods: yellow is close to a model that never saw the forget set, dark is far (forgotten too little, too "
        "much, or at the price of utility). The framed cell was chosen on the selection half, so it need not be the "
        "brightest. Hatched cells belong to diverged trials or were not reached; a method without any evaluation has no panel.",
        figure_data.surface,
        heatmaps,
    ),
    _Kind(
        "forgetting_against_utility",
        "Forgetting against utility",
        "Each point is one evaluation; a thin line joins those of one trial in the order of updates, starting near vanilla "
        "at the lower left. The aim is the foot of the dashed line: forget perplexity as high as that of unseen text of the "
        "same kind, and no utility lost. Left of the line the forget set is still remembered, right of it the model is "
        "damaged beyond forgetting. Rows of diverged trials are among the points. The vertical axis is linear below 0.1 and logarithmic above. The exactly retrained "
        "model, where there is one, shows what the target means in reality.",
        figure_data.tradeoff,
        tradeoff,
    ),
    _Kind(
        "score_by_learning_rate",
        "Score against learning rate",
        "One point per trial: the score, on the reporting half, of its best configuration (chosen on the selection half). "
        "Both axes are logarithmic. A broad low valley means a forgiving method; a narrow one, next to crosses, a method "
        "that needs care. The other hyperparameters vary too, so the scatter at one learning rate is not noise alone.",
        figure_data.rates,
        learning_rates,
    ),
    _Kind(
        "membership_inference",
        "Can an attacker still tell? Membership inference along the best trials",
        "Probability that an attack ranks a forget document above an unseen one, along the trial of each method's chosen "
        "configuration (circled). 0.5 is the target: the attack learns nothing. Above, the forget set is still "
        "remembered; below, it stands out by being worse than unseen text (over-unlearned). Values are signed, never folded.",
        figure_data.attacks,
        membership,
    ),
    _Kind(
        "search_history",
        "How the search went",
        "Best score so far against the number of trials of that method, on the half that the search saw. A line that still "
        "falls at its end asks for more trials. These numbers are optimistic, being a minimum over many; the verdict table "
        "has those of the reporting half.",
        figure_data.history,
        search_history,
    ),
)  # fmt: skip

"""The rows of a study as its figures need them: by method, with the chosen configuration marked.

All scores and metrics are of the reporting half, as in the verdict table. `chosen` marks the row
that scores each method's best trial, which the selection half decided.
"""

import numpy as np
import pandas as pd

from ray_unlearn.analysis.best_trials import HALF, SCORE, best_rows
from ray_unlearn.analysis.figures.look import MOST_DOTS
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.store.schema import AS_TRAINED

UTILITY_LOSS = f"utility_loss_{HALF}"
ATTACKS = (f"mia_loss_auc_{HALF}", f"mia_min_k_pp_20_auc_{HALF}")
CHOSEN_LABEL = "the method's chosen configuration"
SCORE_FLOOR = 1e-4
"""Scores below are drawn here: a log axis has no zero."""


def rows_by_method(study: StudyResults) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each method that has trials, in the study's order, with `chosen`.

    Of calibrated rows only those that score a trial: a course is made of what was trained.
    """
    rows = study.rows.assign(chosen=study.rows.index.isin(best_rows(study.rows).index))
    rows = rows[rows["scored"] | (rows["strength"] == AS_TRAINED) | rows["update"].isna()]
    parts = [(method, rows[rows["method"] == method]) for method in study.methods]
    return [(method, part) for method, part in parts if len(part)]


def stacked_parts(parts: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """All parts below each other with these columns, also where there is none."""
    parts = [part for part in parts if not part.empty]
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.concat(parts, ignore_index=True)[columns]


def worth_drawing(data: pd.DataFrame) -> bool:
    """Whether any trial has a finite number to draw."""
    values = [name for name in (SCORE, UTILITY_LOSS, *ATTACKS, "score_selection") if name in data]
    trials = data[data["method"].fillna("") != ""]
    return bool(not trials.empty and np.isfinite(trials[values].to_numpy(dtype=float)).any())


def thinning_note(data: pd.DataFrame) -> str:
    """What a caption adds where not every point is drawn."""
    if len(data) <= MOST_DOTS:
        return ""
    most = f"At most {MOST_DOTS:,} points per panel are drawn"
    return f" {most}, chosen at random; the numbers hold all."

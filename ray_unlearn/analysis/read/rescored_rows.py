"""Rows scored again with other weights, from the parts of their scores."""

import numpy as np
import pandas as pd

from ray_unlearn.analysis.read.evaluation_rows import best_candidates, lacks
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.objective_spec import ScoreRuleName
from ray_unlearn.spec.score_weights import OPTION, ScoreWeights
from ray_unlearn.store.row_score import weighted_score
from ray_unlearn.store.schema import HALVES

UTILITY = ("retain", "general")
GAP, RETAIN, GENERAL = "forget_gap", "retain_utility_loss", "general_utility_loss"


def rescored_rows(
    rows: pd.DataFrame,
    baselines: pd.DataFrame,
    rule: ScoreRuleName,
    weights: ScoreWeights,
    where: str,
) -> pd.DataFrame:
    """Rows of one of our studies with other scores, and the rows that then score their trials.

    As `store.row_score.scored` and `store.score.scoring_index`, for all rows at once.

    Args:
        rows: as `evaluation_rows.in_order` gives them.
        baselines: by name; the vanilla model's losses are what utility is lost against.
        rule: `stop_rule` takes the same rows whatever the weights.
        weights: of the score's parts.
        where: name of the source, for errors.

    Raises:
        UserError: a table without the vanilla model's losses, or without those of its rows.
    """
    if "vanilla" not in baselines.index:
        raise UserError(
            f"{where}: {OPTION} needs the vanilla model's losses, and there is no baseline; name "
            "the study's directory, or write its baselines beside the table (baselines.parquet)"
        )
    vanilla = baselines.loc[["vanilla"]].iloc[0]
    found = rows.copy()
    for half in HALVES:
        nlls = {name: f"{name}_nll_{half}" for name in UTILITY}
        _check_known(rows, vanilla, (f"forget_gap_{half}", *nlls.values()), f"score_{half}", where)
        losses = {
            name: np.maximum(0.0, rows[column] - vanilla[column]) for name, column in nlls.items()
        }
        gap = rows[f"forget_gap_{half}"]
        found[f"score_{half}"] = weighted_score(gap, losses["retain"], losses["general"], weights)
    if rule == "best_row":
        found["scored"] = found.index.isin(best_candidates(found, "number"))
    return found


def _check_known(
    rows: pd.DataFrame, vanilla: pd.Series, columns: tuple[str, ...], score: str, where: str
) -> None:
    """Refuse rows that have a score but not its parts."""
    unknown = [
        name
        for name in columns
        if rows.loc[np.isfinite(rows[score]), name].isna().any()
        or (name in vanilla and not name.startswith("forget_gap") and np.isnan(vanilla[name]))
    ]
    if unknown:
        raise UserError(
            f"{where}: {lacks(unknown)}, in whole or in part, and {OPTION} needs the parts of "
            "every score; name the study's directory, or write its table again"
        )


def rescored_evaluations(rows: pd.DataFrame, weights: ScoreWeights, where: str) -> pd.DataFrame:
    """Evaluations of a foreign table with the score made of its parts; lower is better.

    Args:
        rows: `score` (NaN: diverged), perhaps `score_selection`, and the parts by our names:
            `forget_gap`, or `forget_nll` and `target_nll`; `retain_utility_loss` and
            `general_utility_loss`, or `utility_loss`, their mean, where both have one weight.
        weights: of the parts.
        where: the table's name, for errors.

    Returns:
        The rows without `score_selection`: parts are known of one half only.

    Raises:
        UserError: a part that no column tells.
    """
    parts = {name: rows[name] for name in (GAP, RETAIN, GENERAL) if name in rows}
    if GAP not in parts and {"forget_nll", "target_nll"} <= set(rows):
        parts[GAP] = (rows["forget_nll"] - rows["target_nll"]).abs()
    if "utility_loss" in rows and weights.retain == weights.general:
        parts = {RETAIN: rows["utility_loss"], GENERAL: rows["utility_loss"]} | parts
    absent = [name for name in (GAP, RETAIN, GENERAL) if name not in parts]
    if absent:
        raise UserError(
            f"{where}: {OPTION} needs the parts of the score, and the table {lacks(absent)}; name "
            f"{'it' if len(absent) == 1 else 'them'} with --map COLUMN={absent[0]}, or leave out "
            f"{OPTION}"
        )
    score = weighted_score(parts[GAP], parts[RETAIN], parts[GENERAL], weights)
    found = rows.drop(columns="score_selection", errors="ignore")
    return found.assign(score=score.where(np.isfinite(score) & rows["score"].notna()))

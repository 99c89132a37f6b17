"""The verdict table: what each method reached in each study, and how its trials ended.

The best configuration of a method is chosen on the *selection* half of the documents, by the rule
of `store.score`; every metric beside it is measured on the *reporting* half, so the choice does not
flatter itself. Diverged trials are counted, never dropped.

Which rows are *feasible* is said by `store.feasibility`.
"""

import math

import numpy as np
import pandas as pd

from ray_unlearn.analysis.best_trials import HALF, UTILITY_SETS, best_rows, offered_rows
from ray_unlearn.analysis.one_score import DECIDED
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.store.feasibility import SLACK, beyond_tolerances, tolerance_of_target
from ray_unlearn.store.schema import STATUSES
from ray_unlearn.store.target import FORGET_TOLERANCE

TARGET_PPL = f"approximate_ppl_{HALF}"


def verdict(study: StudyResults) -> pd.DataFrame:
    """One line per method of the study, in its order, with NaN for missing numbers.

    trials, complete ... running   trials asked for, and how they ended
    candidates, feasible_rows      rows that stand for a configuration; those that are feasible
    decided, feasible_trials       trials that ran as far as the configuration allowed (diverged
                                   ones among them); those with a feasible row
    number, trial_id, update, ...  the best configuration, chosen by `score_selection`
    retain_change, general_change  ppl / ppl_0 - 1
    distance, distance_to          nats/token to `exact_retrain`, or to the `approximate` target
                                   where there is none
    """
    rows = study.rows.assign(feasible=feasible(study))
    best = best_rows(rows).set_index("method")
    lines = [_counts(rows[rows["method"] == method], method) for method in study.methods]
    table = pd.DataFrame(lines).set_index("method", drop=False)
    metrics = [name for name in best.columns if name not in table.columns and name != "study"]
    table = table.join(best[metrics]).reset_index(drop=True)
    vanilla = study.baseline("vanilla")
    table["target_ppl"] = math.nan if vanilla is None else vanilla[TARGET_PPL]
    for name in UTILITY_SETS:
        table[f"{name}_change"] = relative_change(table, vanilla, name)
    exact = table[f"exact_distance_{HALF}"]
    table["distance"] = exact.where(exact.notna(), table[f"forget_gap_{HALF}"])
    table["distance_to"] = np.where(exact.notna(), "exact_retrain", "approximate")
    table.insert(0, "study", study.key)
    return table


def ranked_methods(table: pd.DataFrame) -> pd.DataFrame:
    """Best `score_selection` first; methods without a candidate row last, in the study's order."""
    order = table.sort_values("score_selection", kind="stable", na_position="last")
    return order.reset_index(drop=True)


def feasible(study: StudyResults) -> pd.Series:
    """Whether each row is within the study's constraints, else the tolerances.

    None is within the latter without a baseline.
    """
    if study.objective.subject_to and f"violation_{HALF}" in study.rows:
        return study.rows[f"violation_{HALF}"] == 0.0
    vanilla, rows = study.baseline("vanilla"), study.rows
    if vanilla is None:
        return pd.Series(False, index=rows.index)
    near = pd.Series(True, index=rows.index)
    for beyond in beyond_tolerances(rows, vanilla).values():
        near &= beyond <= SLACK
    return near


def forget_tolerance(study: StudyResults) -> float:
    """How far log ppl(U) may be from the target and still meet it, nats/token."""
    vanilla = study.baseline("vanilla")
    return math.log(FORGET_TOLERANCE) if vanilla is None else tolerance_of_target(vanilla)


def relative_change(table: pd.DataFrame, vanilla: pd.Series | None, name: str) -> pd.Series:
    """ppl / ppl_0 - 1 on one set, reporting half."""
    column = f"{name}_ppl_{HALF}"
    return table[column] / (math.nan if vanilla is None else vanilla[column]) - 1


def _counts(rows: pd.DataFrame, method: str) -> dict[str, object]:
    trials = rows.drop_duplicates("number")
    statuses = {status: int((trials["status"] == status).sum()) for status in STATUSES}
    offered = offered_rows(rows)
    fitting = offered[offered["feasible"]]
    decided = sum(statuses[status] for status in DECIDED)
    return {
        "method": method,
        "trials": len(trials),
        **statuses,
        "decided": decided,
        "divergence_share": statuses["diverged"] / decided if decided else math.nan,
        "candidates": len(offered),
        "feasible_rows": len(fitting),
        "feasible_share": len(fitting) / len(offered) if len(offered) else math.nan,
        "feasible_trials": fitting["number"].nunique(),
    }


def agreement(study: StudyResults) -> float | None:
    """ln(exactly retrained ppl(U) / approximate target), nats/token; None if one is not known."""
    vanilla, exact = study.baseline("vanilla"), study.baseline("exact_retrain")
    if vanilla is None or exact is None:
        return None
    difference = float(exact["forget_nll"] - vanilla[f"approximate_nll_{HALF}"])
    return None if math.isnan(difference) else difference

"""The best trial of each group, chosen on one half and valued on the other.

So its value is free of the luck of having been chosen.
"""

import pandas as pd


def best_by_selection(trials: pd.DataFrame) -> pd.DataFrame:
    """The trial with the lowest `score_selection` of each group, indexed by group, rising.

    Groups without a feasible trial are left out.

    trials: columns of `TrialTable.trials`. Ties go to the lower score, then to the lower number.
    """
    feasible = trials[~trials["infeasible"] & trials["score_selection"].notna()]
    ordered = feasible.sort_values(["score_selection", "score", "trial"], kind="stable")
    return ordered.drop_duplicates("group").set_index("group").sort_index()


def trial_regrets(trials: pd.DataFrame) -> "pd.Series[float]":
    """Score above that of the group's best trial by selection; NaN where infeasible."""
    level = trials["group"].map(best_by_selection(trials)["score"])
    return trials["score"].astype(float) - level.astype(float)

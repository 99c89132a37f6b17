"""The row that scores each trial, and the best trial of each method.

The verdict, the figures and the tables of a report all ask here, so that one trial has one score
on the whole page. Which row it is was decided by the study's score rule (`store.score`).
"""

import numpy as np
import pandas as pd

from ray_unlearn.store.schema import HALVES

HALF = HALVES[1]
"""The half of the documents that results are reported on; the other one, `selection`, chooses."""
SCORE = f"score_{HALF}"
UTILITY_SETS = ("retain", "general")


def offered_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that stand for a deployable configuration and have a score, best first.

    Args:
        rows: evaluation rows of one study, columns as in its result table.

    Returns:
        Ordered by score on the selection half, then trial number, then fewest updates.
    """
    pool: pd.DataFrame = rows[rows["candidate"] & np.isfinite(rows["score_selection"])]
    return pool.sort_values(["score_selection", "number", "update", "strength"], kind="stable")


def scoring_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The row that scores its trial, one per trial that has a score; the best trial first."""
    return offered_rows(rows[rows["scored"]])


def best_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The row that scores the best trial of each method; the best method first."""
    return scoring_rows(rows).drop_duplicates("method")


def best_of_each(trials: pd.DataFrame) -> pd.DataFrame:
    """The best trial of each study and method in a trial table, in the table's order.

    Args:
        trials: `TrialTable.trials`, where lower scores are better. A method whose trials are all
            infeasible has none.
    """
    order = trials[~trials["infeasible"]].sort_values(["score_selection", "trial"], kind="stable")
    return order.drop_duplicates(["study", "method"]).sort_values("trial", kind="stable")

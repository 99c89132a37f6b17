"""How other programs write the outcome of a trial, and what it is here."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.store.schema import STATUSES

COMPLETE = "complete"
WORDS: dict[str, tuple[str, ...]] = {
    "complete": ("", "completed", "finished", "success", "ok", "done", "terminated", "succeeded"),
    "pruned": ("stopped", "early_stopped"),
    "diverged": ("infeasible", "nan", "inf", "nonfinite"),
    "out_of_memory": ("oom", "memoryout", "out of memory"),
    "failed": (
        "fail", "error", "err", "errored", "crashed", "crash", "killed", "timeout", "aborted",
        "cancelled", "canceled", "preempted", "exception", "x",
    ),
    "running": ("waiting", "pending", "scheduled", "queued", "paused", "not_evaluated"),
}  # fmt: skip
"""Our outcome to words of Optuna, Ray Tune, MLflow, W&B, DeepCAVE and people."""
OURS = {word: outcome for outcome, found in WORDS.items() for word in (outcome, *found)}
MISSING = ("", "-", "--", "n/a", "na", "none", "null", "?", "#n/a")
"""What people write into a cell without a value."""


def outcomes_of(
    given: pd.Series, lines: pd.Index, column: str, where: str
) -> tuple[pd.Series, list[str]]:
    """Our outcome of each trial, and notes on words that were translated.

    Args:
        given: a word for each trial; empty: complete.
        lines: their lines in the file, for errors.
        column, where: names for errors.

    Raises:
        UserError: a word that is not known.
    """
    written = given.astype(str).str.strip()
    lower = written.str.lower().str.replace("trialstate.", "", regex=False)
    found = lower.map(OURS)
    if found.isna().any():
        at = int(np.argmax(found.isna().to_numpy()))
        raise UserError(
            f"{where}: column `{column}` is {written.iloc[at]!r} in line "
            f"{lines[at]}{nearest(lower.iloc[at], STATUSES)}"
        )
    told = lower.isin(["killed", "timeout", "aborted", "preempted", "cancelled", "stopped"])
    counts = (written[told] + "\0" + found[told]).value_counts(sort=False)
    notes = [
        f"{count} trials are `{word}` in column `{column}`, which counts as {outcome}"
        for (word, outcome), count in (
            (str(key).split("\0"), count) for key, count in counts.items()
        )
    ]
    return found, notes


def words_among_numbers(
    values: pd.Series, empty: NDArray[np.bool_], failed: tuple[str, ...]
) -> tuple[pd.Series, NDArray[np.object_]]:
    """A score column without words, and the outcome that each word stood for ("" for none).

    A word for a failure (`FAIL`, `OOM`, `diverged`) is no error: the other lines are analysed.
    Words that are not known stay in the column.

    Args:
        values: the column as it was read.
        empty: [n], True where the cell is empty.
        failed: words, lower case, that the user calls failures; `nan` and `inf` may be among them.
    """
    not_finite = {"nan", "inf"} & set(failed)
    if pd.api.types.is_numeric_dtype(values.dtype) and not not_finite:
        return values, np.full(len(values), "", dtype=object)
    lower = values.astype(str).str.strip().str.lower().mask(empty, "")
    known = {
        word: found
        for word, found in OURS.items()
        if found not in (COMPLETE, "running") and word not in ("nan", "inf")
    }
    meant = lower.map(known | dict.fromkeys(failed, "failed")).fillna("")
    return values.mask((meant != "") | lower.isin(MISSING)), meant.to_numpy(dtype=object)

"""Which lines of a foreign table are a trial, a replicate of another, or a baseline."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

UNTOUCHED = frozenset((
    "vanilla", "original", "nothing", "no_unlearning", "before_unlearning", "untouched",
))  # fmt: skip
"""Names of the model that nothing was done to."""
PERHAPS = frozenset((
    "baseline", "none", "base", "base_model", "pretrained", "finetuned", "fine_tuned", "before",
    "target", "target_model", "full",
))  # fmt: skip
"""The same, where no hyperparameter has a value other than 0."""
RETRAINED = frozenset((
    "retrain", "retrained", "retrained_model", "gold", "exact_retrain", "exact_retraining",
    "retain_model", "from_scratch", "oracle",
))  # fmt: skip
"""Names of models that were trained without the forget set: what to compare with, no trials."""
Lines = pd.Categorical | NDArray[np.float64]


def trial_codes(columns: Sequence[pd.Categorical]) -> NDArray[np.int64]:
    """Number [n] of each line's trial: 0, 1, ... in the order of the columns' categories."""
    codes = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        codes = codes * len(column.categories) + column.codes
        codes = np.unique(codes, return_inverse=True)[1].astype(np.int64)
    return codes


def codes_without_names(
    lines: int, searched: Sequence[Lines], update: NDArray[np.float64] | None
) -> NDArray[np.int64]:
    """Number [n] of each line's trial where no column names trials.

    Every line is one; with a column that counts steps, lines of one configuration are, unless two
    of them have the same step.

    Args:
        lines: n.
        searched: hyperparameters, seed, method and so on, each [n].
        update: steps [n]; None: no column counts them.
    """
    each = np.arange(lines, dtype=np.int64)
    if update is None or not searched:
        return each
    as_categories: list[Any] = [
        column if isinstance(column, pd.Categorical) else pd.Categorical(column)
        for column in searched
    ]
    codes = trial_codes(as_categories)
    twice = pd.DataFrame({"trial": codes, "update": update}).duplicated().any()
    return each if twice else codes


def numbered_replicates(trials: pd.DataFrame, same: Sequence[str]) -> tuple[pd.Series, str]:
    """Seeds 0, 1, ... of trials that repeat a configuration, and a note.

    Only where at least half of the trials have such a twin: a sampler repeats a few by chance.

    Args:
        trials: without known seeds.
        same: columns that are equal in replicates.
    """
    if not same or not len(trials):
        return trials["seed"], ""
    grouped = trials.groupby(list(same), dropna=False, sort=False)
    size = grouped["seed"].transform("size")
    if (size > 1).mean() < 0.5:
        return trials["seed"], ""
    note = (
        f"{int((size > 1).sum())} trials repeat a configuration, and no column tells their seeds: "
        "they count as different seeds"
    )
    return grouped.cumcount().astype(float), note


def doing_nothing(trials: pd.DataFrame, hyperparameters: Sequence[str]) -> NDArray[np.object_]:
    """`untouched` or `retrained` for lines [n] that are a model to compare with; "" for trials.

    The method's name tells or, where no method is named, the trial's. A name whose hyperparameters
    vary is a method after all.
    """
    by_method = bool((trials["method"] != "").any())
    names = trials["method" if by_method else "label"].astype(str).str.strip().str.lower()
    names = names.str.replace(r"[\s-]+", "_", regex=True)
    values = trials[list(hyperparameters)].astype(object)
    blank = (values.isna() | (values == "") | (values == 0)).all(axis=1)
    found = np.full(len(trials), "", dtype=object)
    for kind, known in (("untouched", UNTOUCHED), ("retrained", RETRAINED)):
        for name in sorted(set(names) & known):
            own = names == name
            places = trials.loc[own, ["domain", "model"]].drop_duplicates()
            configured = trials.loc[own, ["domain", "model", *hyperparameters]].drop_duplicates()
            if len(configured) == len(places):
                found[own.to_numpy()] = kind
    nameless = (names == "") & by_method
    if hyperparameters:
        found[(blank & (names.isin(PERHAPS) | nameless)).to_numpy()] = "untouched"
    return found if (found == "").any() else np.full(len(trials), "", dtype=object)

"""The numbers behind each figure, one data frame per figure. A figure draws its frame and nothing
else.

All scores and metrics are of the reporting half, as in the verdict table; `chosen` marks each
method's best configuration, which the selection half decided.
"""

import math

import numpy as np
import pandas as pd

from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.report.verdict import HALF, candidates, chosen_rows, utility_loss
from ray_unlearn.spec.search_space import FloatRange

SCORE = f"score_{HALF}"
UTILITY_LOSS = f"utility_loss_{HALF}"
ATTACKS = (f"mia_loss_auc_{HALF}", f"mia_min_k_pp_20_auc_{HALF}")
TARGET = "approximate"
"""Name of the approximate-retraining target among the references of a figure."""


def surface(study: StudyResults) -> pd.DataFrame:
    """One line per cell: a trial of a method at an update that any trial of this method was
    evaluated at.

    A trial fills the band [low, high] of learning rates, which ends half-way (in log learning rate)
    to its neighbours: nothing is interpolated. Trials of one learning rate share its band equally,
    in order of number. `drawn` says what the cell shows: `score`, or why there is no score to show
    (the trial's status).
    """
    parts = [_surface_of(rows, *_bounds(study, method)) for method, rows in _by_method(study)]
    return _stacked(
        parts,
        [
            "method",
            "number",
            "update",
            "low",
            "high",
            "learning_rate",
            "status",
            SCORE,
            "drawn",
            "chosen",
        ],
    )


def _surface_of(rows: pd.DataFrame, low: float, high: float) -> pd.DataFrame:
    updates = sorted(rows["update"].dropna().unique())
    trials = rows.drop_duplicates("number").sort_values(["learning_rate", "number"], kind="stable")
    if not updates:
        return pd.DataFrame()
    bands = _bands(trials["learning_rate"].to_numpy(), low, high)
    frame = trials[["method", "number", "learning_rate", "status"]].assign(
        low=bands[:-1], high=bands[1:]
    )
    cells = frame.merge(pd.DataFrame({"update": updates}), how="cross")
    known = rows[["number", "update", SCORE, "chosen"]]
    cells = cells.merge(known, on=["number", "update"], how="left")
    cells["chosen"] = cells["chosen"].eq(True)
    scored = np.isfinite(cells[SCORE])
    cells["drawn"] = np.where(
        scored, "score", cells["status"].where(cells["status"] != "complete", "not evaluated")
    )
    return cells


def _bands(rates: np.ndarray, low: float, high: float) -> np.ndarray:
    """Edges, rising, of one band per trial; `rates` rising, equal ones allowed."""
    distinct, counts = np.unique(rates, return_counts=True)
    logs = np.log(distinct)
    middle = (logs[1:] + logs[:-1]) / 2
    bottom = (
        min(math.log(low), logs[0])
        if low > 0
        else logs[0] - (logs[1] - logs[0] if len(logs) > 1 else 1.0) / 2
    )
    top = (
        max(math.log(high), logs[-1])
        if high > 0
        else logs[-1] + (logs[-1] - logs[-2] if len(logs) > 1 else 1.0) / 2
    )
    if bottom == logs[0]:  # a trial exactly on the search bound still gets a band to be seen in
        bottom -= 0.05
    if top == logs[-1]:
        top += 0.05
    edges = np.concatenate([[bottom], middle, [top]])
    split = [np.linspace(edges[i], edges[i + 1], count + 1)[:-1] for i, count in enumerate(counts)]
    limits: np.ndarray = np.exp(np.concatenate([*split, [edges[-1]]]))
    return limits


def tradeoff(study: StudyResults) -> pd.DataFrame:
    """Every evaluation row with a finite forget perplexity, and the references: vanilla, target,
    exact retraining."""
    parts = [rows[rows["update"].notna()].assign(kind="row") for _, rows in _by_method(study)]
    columns = [
        "kind",
        "method",
        "number",
        "update",
        "forget_ppl",
        UTILITY_LOSS,
        "candidate",
        "chosen",
    ]
    frame = _stacked(parts, columns)
    ppl = frame["forget_ppl"].astype(float)
    finite = np.isfinite(ppl) & (ppl > 0) & np.isfinite(frame[UTILITY_LOSS].astype(float))
    return pd.concat([frame.loc[finite], _references(study)], ignore_index=True).reindex(
        columns=columns
    )


def _references(study: StudyResults) -> pd.DataFrame:
    vanilla = study.baseline("vanilla")
    if vanilla is None:
        return pd.DataFrame()
    lines = [
        {"kind": "vanilla", "forget_ppl": vanilla["forget_ppl"], UTILITY_LOSS: 0.0},
        {"kind": TARGET, "forget_ppl": vanilla[f"approximate_ppl_{HALF}"]},
    ]
    exact = study.baseline("exact_retrain")
    if exact is not None:
        lines.append(
            {
                "kind": "exact_retrain",
                "forget_ppl": exact["forget_ppl"],
                UTILITY_LOSS: utility_loss(exact, vanilla),
            }
        )
    return pd.DataFrame(lines).assign(candidate=False, chosen=False)


def rates(study: StudyResults) -> pd.DataFrame:
    """One line per trial: its best candidate row (selection half) with that row's score; NaN where
    it has none."""
    parts = []
    for _, rows in _by_method(study):
        best = candidates(rows).drop_duplicates("number")[["number", "update", SCORE, "chosen"]]
        trials = rows.drop_duplicates("number")[["method", "number", "learning_rate", "status"]]
        parts.append(
            trials.merge(best, on="number", how="left").assign(
                chosen=lambda t: t["chosen"].eq(True)
            )
        )
    return _stacked(
        parts, ["method", "number", "learning_rate", "status", "update", SCORE, "chosen"]
    )


def attacks(study: StudyResults) -> pd.DataFrame:
    """Signed AUC of two attacks along each method's best trial, and of the baselines (no
    update)."""
    parts = []
    for _, rows in _by_method(study):
        best = set(rows.loc[rows["chosen"], "number"])
        parts.append(rows[rows["number"].isin(best) & rows["update"].notna()].assign(kind="row"))
    columns = ["kind", "method", "number", "update", *ATTACKS, "chosen"]
    baselines = (
        study.baselines.reset_index(names="kind")
        .reindex(columns=columns)
        .assign(method="", chosen=False)
    )
    return pd.concat([_stacked(parts, columns), baselines], ignore_index=True)[columns]


def history(study: StudyResults) -> pd.DataFrame:
    """Per method, trials in the order they were asked for: score of the trial's best row, and the
    best so far.

    Both on the half that the search saw (selection): the figure is about the search, not about the
    result.
    """
    parts = []
    for _, rows in _by_method(study):
        scores = candidates(rows).drop_duplicates("number").set_index("number")["score_selection"]
        trials = rows.drop_duplicates("number").sort_values("number")[
            ["method", "number", "status"]
        ]
        trials = trials.assign(
            order=range(1, len(trials) + 1), score_selection=trials["number"].map(scores)
        )
        parts.append(trials.assign(best_so_far=trials["score_selection"].cummin().ffill()))
    return _stacked(
        parts, ["method", "number", "order", "status", "score_selection", "best_so_far"]
    )


def _by_method(study: StudyResults) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each method that has trials, in the study's order, with `chosen`."""
    best = chosen_rows(study.rows)
    rows = study.rows.assign(chosen=study.rows.index.isin(best.index))
    return [
        (method, part) for method in study.methods if len(part := rows[rows["method"] == method])
    ]


def _bounds(study: StudyResults, method: str) -> tuple[float, float]:
    """Search bounds of the learning rate; (0, 0) where they are not known."""
    parameter = (
        study.spec.spaces[method].parameters["learning_rate"] if study.spec is not None else None
    )
    return (parameter.low, parameter.high) if isinstance(parameter, FloatRange) else (0.0, 0.0)


def _stacked(parts: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    parts = [part for part in parts if not part.empty]
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.concat(parts, ignore_index=True)[columns]

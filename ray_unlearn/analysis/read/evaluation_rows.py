"""Evaluation rows of our own tables: columns, types and order, checked."""

import math
from collections.abc import Collection
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.objective_spec import ScoreRuleName
from ray_unlearn.store.schema import (
    AS_TRAINED,
    BASELINE_COLUMNS,
    COLUMNS,
    FORMER_OUTCOMES,
    STATUSES,
)
from ray_unlearn.store.study_columns import extra_names
from ray_unlearn.store.table import (
    IDENTITY_COLUMNS,
    OBJECTIVE_COLUMNS,
    TEXT_COLUMNS,
    settings_of,
)

REQUIRED = (
    "number",
    "status",
    "candidate",
    "method",
    "learning_rate",
    "update",
    "forget_nll",
    "score_selection",
    "score_reporting",
)
FLAGS = ("candidate", "scored", "feasible")
NOT_A_NUMBER = ("nan", "+nan", "-nan")
"""How programs write a value that is not finite; an empty cell is something else: nothing was
measured."""


def tidy_rows(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """A table of evaluation rows with our columns in our order and types; lines stay as they are.

    Absent metrics are NaN, absent texts empty. A table of before `scored` was a column is scored by
    `best_row`. Columns of an objective beyond the weighted sum are there only where the table has
    them.

    Raises:
        UserError: a column that is missing or of another type, an unknown status or score rule.
    """
    missing = [name for name in REQUIRED if name not in frame]
    if missing:
        raise UserError(
            f"{where}: {lacks(missing)}; a result table is what `ray-unlearn` wrote, with one "
            "line per evaluation row"
        )
    if frame.empty:
        raise UserError(f"{where}: holds no trial yet; report on it once the first trial has begun")
    columns: dict[str, Any] = {}
    settings = settings_of([str(name) for name in frame])
    every = (*IDENTITY_COLUMNS, "method", "seed", *settings, *COLUMNS)
    more = (name for name in OBJECTIVE_COLUMNS if name in frame)
    for name in (*every, *_more(frame, every), *more):
        if name in TEXT_COLUMNS or (name in settings and _is_text(frame, name)):
            values = frame[name] if name in frame else pd.Series("", index=frame.index)
            columns[name] = values.astype(object).where(values.notna(), "").astype(str)
        elif name in FLAGS:
            absent = pd.Series(False, index=frame.index)
            columns[name] = _flags(frame[name], where) if name in frame else absent
        else:
            columns[name] = (
                numbers(frame[name], where)
                if name in frame
                else pd.Series(np.nan, index=frame.index)
            )
    # Tables of before strength was a column, and their lines; a trial without rows has none.
    as_trained = np.where(columns["update"].notna(), AS_TRAINED, np.nan)
    columns["strength"] = columns["strength"].fillna(pd.Series(as_trained, index=frame.index))
    tidy = pd.DataFrame(columns)
    tidy["status"] = tidy["status"].replace(FORMER_OUTCOMES)
    strange = sorted(set(tidy["status"]) - set(STATUSES))
    if strange:
        raise UserError(f"{where}: status {strange[0]!r} is not one of {', '.join(STATUSES)}")
    if tidy["number"].isna().any():
        raise UserError(
            f"{where}: line {int(tidy['number'].isna().argmax()) + 1} has no trial `number`"
        )
    tidy["number"] = tidy["number"].astype(int)
    tidy["score_rule"] = tidy["score_rule"].replace("", "best_row")
    unknown = sorted(set(tidy["score_rule"]) - set(get_args(ScoreRuleName)))
    if unknown:
        known = ", ".join(get_args(ScoreRuleName))
        raise UserError(f"{where}: score_rule {unknown[0]!r} is not one of {known}")
    if "scored" not in frame and (tidy["score_rule"] != "best_row").any():
        raise UserError(
            f"{where}: {lacks(['scored'])}, which says what row scores a trial by `stop_rule`; "
            "name the study's directory instead, or write its table again"
        )
    return tidy


def _is_text(frame: pd.DataFrame, name: str) -> bool:
    """Whether a hyperparameter that only some methods have is one of several options."""
    if name not in frame or pd.api.types.is_numeric_dtype(frame[name].dtype):
        return False
    values = frame[name].dropna()
    return bool(pd.to_numeric(values, errors="coerce").isna().any())


def best_candidates(rows: pd.DataFrame, trial: str) -> pd.Index:
    """Labels of the rows that score their trials by `best_row`: rising in score.

    As `store.score.scoring_index` for one trial at a time; a table may hold a million lines.

    Args:
        rows: `candidate`, `update`, `score_selection` and the column named by `trial`.
        trial: column that tells the trials apart.
    """
    offered = rows[rows["candidate"] & np.isfinite(rows["score_selection"])]
    keys = [name for name in ("score_selection", "update", "strength") if name in offered]
    order = offered.sort_values(keys, kind="stable")
    return order.drop_duplicates(trial).index


def in_order(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """The rows of one study by trial and update, exact copies of a row left out.

    Says which row scores each trial (`scored`) where the table does not.

    Raises:
        UserError: two different rows of a trial at one update and strength.
    """
    keys = ["number", "update", "strength"]
    again = np.flatnonzero(rows.duplicated(keys, keep=False))
    if len(again):
        repeated = rows.iloc[again]
        copies = (repeated[keys].assign(print=fingerprints(repeated))).duplicated().to_numpy()
        different = repeated[~copies].duplicated(keys)
        if different.any():
            line = repeated[~copies][different].iloc[0]
            raise UserError(
                f"{where}: trial {line['number']} of study {line['study']!r} has two different "
                "rows at update "
                f"{line['update']:g}; keep one of them"
            )
        rows = rows.drop(index=rows.index[again[copies]])
    rows = rows.sort_values(keys, kind="stable").reset_index(drop=True)
    _check_scored(rows, where)
    if not rows["scored"].any() and (rows["score_rule"] == "best_row").all():
        # A table of before `scored` was a column; in a newer one no candidate is finite.
        rows["scored"] = rows.index.isin(best_candidates(rows, "number"))
    return rows


def _check_scored(rows: pd.DataFrame, where: str) -> None:
    """Refuse a trial with two scored rows, or with one that could not be deployed."""
    scored = rows[rows["scored"]]
    wrong = scored[scored["number"].duplicated() | ~scored["candidate"]]
    if len(wrong):
        line = wrong.iloc[0]
        raise UserError(
            f"{where}: trial {line['number']} of study {line['study']!r} cannot be scored at "
            f"update {line['update']:g}: `scored` marks one `candidate` row of a trial; "
            "name the study's directory instead, or write its table again"
        )


def fingerprints(rows: pd.DataFrame) -> NDArray[np.uint64]:
    """A hash [n] of each line.

    Comparing 120 columns of a million lines pairwise would take minutes and gigabytes.
    """
    positive_zero = {name: rows[name] + 0.0 for name in rows.columns[rows.dtypes == np.float64]}
    return np.asarray(
        pd.util.hash_pandas_object(rows.assign(**positive_zero), index=False), dtype=np.uint64
    )


def lacks(names: list[str]) -> str:
    """`lacks the columns a, b`."""
    return f"lacks the column{'s' if len(names) > 1 else ''} {', '.join(names)}"


def numbers(values: pd.Series, where: str, first_line: int = 0) -> pd.Series:
    """Numbers, NaN where missing or written as one.

    Args:
        values: a column; its name is used in errors.
        where: file, for errors.
        first_line: number of the first value's line, where the error shall name the line.

    Raises:
        UserError: a text that is no number.
    """
    if pd.api.types.is_numeric_dtype(values.dtype):
        return values.astype(float)
    found = pd.to_numeric(values, errors="coerce").astype(float)
    strings = values[found.isna() & values.notna()]
    strange = strings[~strings.astype(str).str.strip().str.lower().isin(NOT_A_NUMBER)]
    if not strange.empty:
        line = (
            f" in line {int(values.index.get_indexer(strange.index[:1])[0]) + first_line}"
            if first_line
            else ""
        )
        raise UserError(
            f"{where}: column `{values.name}` must hold numbers, got {strange.iloc[0]!r}{line}"
        )
    return found


def _flags(values: pd.Series, where: str) -> pd.Series:
    if pd.api.types.is_bool_dtype(values.dtype):
        return values.astype(bool)
    known = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
    flags = values.astype(str).str.lower().map(known)
    if flags.isna().any():
        raise UserError(
            f"{where}: column `{values.name}` must hold true or false, got "
            f"{values[flags.isna()].iloc[0]!r}"
        )
    return flags.astype(bool)


def _more(frame: pd.DataFrame, known: Collection[str]) -> list[str]:
    """Columns that only some studies have, watched sets and what is generated."""
    return [name for name in extra_names(map(str, frame.columns)) if name not in known]


def tidy_baselines(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """Baselines by name, with our columns as floats; absent ones are NaN.

    Raises:
        UserError: no column `baseline`, or a baseline given twice.
    """
    if "baseline" not in frame:
        raise UserError(
            f"{where}: lacks the column `baseline` (vanilla, exact_retrain); remove or repair the "
            "file"
        )
    if frame["baseline"].duplicated().any():
        twice = frame.loc[frame["baseline"].duplicated(), "baseline"].iloc[0]
        raise UserError(f"{where}: baseline {twice!r} is given twice; keep one")
    columns = {
        name: numbers(frame[name], where) if name in frame else math.nan
        for name in (*BASELINE_COLUMNS, *_more(frame, BASELINE_COLUMNS))
    }
    return (
        pd.DataFrame(columns, index=frame.index)
        .set_index(frame["baseline"].astype(str))
        .astype(float)
    )

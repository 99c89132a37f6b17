"""Any table of evaluation rows, made ours: columns, types and order, with an error that names what does not fit."""

import math
from typing import Any

import numpy as np
import pandas as pd

from ray_unlearn.results.schema import COLUMNS, OUTCOMES
from ray_unlearn.results.table import TABLE_COLUMNS, TEXT_COLUMNS
from ray_unlearn.spec.errors import UserError

STATUSES = (*OUTCOMES, "running")
REQUIRED = (
    "number", "status", "candidate", "method", "learning_rate", "update", "forget_nll",
    "score_selection", "score_reporting",
)  # fmt: skip


def tidy_rows(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """Our columns in our order and types; absent metrics are missing, absent texts empty."""
    missing = [name for name in REQUIRED if name not in frame]
    if missing:
        raise UserError(
            f"{where}: lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            "a result table is what `ray-unlearn` wrote, with one line per evaluation row"
        )
    if frame.empty:
        raise UserError(f"{where}: holds no trial yet; report on it once the first trial has begun")
    columns: dict[str, Any] = {}
    for name in TABLE_COLUMNS:
        if name in TEXT_COLUMNS:
            values = frame[name] if name in frame else pd.Series("", index=frame.index)
            columns[name] = values.astype(object).where(values.notna(), "").astype(str)
        elif name == "candidate":
            columns[name] = _flags(frame[name], where)
        else:
            columns[name] = _numbers(frame[name], where) if name in frame else pd.Series(np.nan, index=frame.index)
    tidy = pd.DataFrame(columns)
    strange = sorted(set(tidy["status"]) - set(STATUSES))
    if strange:
        raise UserError(f"{where}: status {strange[0]!r} is not one of {', '.join(STATUSES)}")
    if tidy["number"].isna().any():
        raise UserError(f"{where}: line {int(tidy['number'].isna().argmax()) + 1} has no trial `number`")
    tidy["number"] = tidy["number"].astype(int)
    return _without_repeats(tidy, where).sort_values(["number", "update"], kind="stable").reset_index(drop=True)


def _without_repeats(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    rows = rows.drop_duplicates()
    keys = ["study", "domain", "model", "number", "update"]
    repeated = rows[rows.duplicated(keys)]
    if not repeated.empty:
        line = repeated.iloc[0]
        raise UserError(
            f"{where}: trial {line['number']} of study {line['study']!r} has two different rows at update "
            f"{line['update']:g}; keep one of them"
        )
    return rows


def _numbers(values: pd.Series, where: str) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    strings = values[numbers.isna() & values.notna()]
    if not strings.empty:
        raise UserError(f"{where}: column `{values.name}` must hold numbers, got {strings.iloc[0]!r}")
    return numbers


def _flags(values: pd.Series, where: str) -> pd.Series:
    known = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
    flags = values.astype(str).str.lower().map(known)
    if flags.isna().any():
        raise UserError(
            f"{where}: column `{values.name}` must hold true or false, got {values[flags.isna()].iloc[0]!r}"
        )
    return flags.astype(bool)


def tidy_baselines(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    if "baseline" not in frame:
        raise UserError(f"{where}: lacks the column `baseline` (vanilla, exact_retrain); remove the file or mend it")
    if frame["baseline"].duplicated().any():
        twice = frame.loc[frame["baseline"].duplicated(), "baseline"].iloc[0]
        raise UserError(f"{where}: baseline {twice!r} is given twice; keep one")
    columns = {name: _numbers(frame[name], where) if name in frame else math.nan for name in COLUMNS}
    return pd.DataFrame(columns, index=frame.index).set_index(frame["baseline"].astype(str)).astype(float)

"""Lines of a foreign table that contradict each other, or are copies."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ray_unlearn.analysis.read.column_roles import IGNORE, METRICS
from ray_unlearn.analysis.read.evaluation_rows import fingerprints
from ray_unlearn.spec.errors import UserError


def check_constant(
    frame: pd.DataFrame,
    codes: NDArray[np.int64],
    names: list[str],
    theirs: Mapping[str, str],
    where: str,
) -> None:
    """Refuse a trial with two values in a column that has one per trial.

    `frame` is in order of its trials `codes` [n]; `names` are the columns.
    """
    first = np.flatnonzero(np.diff(codes, prepend=-1))[codes]
    for name in names:
        column = frame[name]
        values = (
            column.cat.codes.to_numpy()
            if isinstance(column.dtype, pd.CategoricalDtype)
            else column.to_numpy()
        )
        differs = (values != values[first]) & ~(np.isnan(values) & np.isnan(values[first]))
        if differs.any():
            at = int(np.argmax(differs))
            lines = [
                f"{shown_cell(column.iloc[i])} in line {frame.index[i]}" for i in (first[at], at)
            ]
            raise UserError(
                f"{where}: trial {frame['trial'].iloc[at]} has two values of "
                f"`{theirs.get(name, name)}`, {lines[0]} and "
                f"{lines[1]}, but one trial has one configuration; if it is no hyperparameter, "
                f"`--map {theirs.get(name, name)}={IGNORE}`; if these are two runs, give each its "
                "own trial"
            )


def without_copies(
    frame: pd.DataFrame,
    codes: NDArray[np.int64],
    step: str | None,
    theirs: Mapping[str, str],
    where: str,
) -> NDArray[np.bool_]:
    """True [n] for the lines to use: exact copies are left out.

    Lines that contradict each other are an error.
    """
    update = frame["update"].to_numpy()
    same = np.diff(codes) == 0
    same &= (np.diff(update) == 0) | (np.isnan(update[1:]) & np.isnan(update[:-1]))
    kept = np.ones(len(frame), dtype=bool)
    if not same.any():
        return kept
    involved = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
    metrics = [name for name in METRICS if name in frame]
    repeated = frame.iloc[involved]
    key = pd.DataFrame({"trial": codes[involved], "update": update[involved]})
    copies = key.assign(print=fingerprints(repeated[[*metrics, "missing"]])).duplicated().to_numpy()
    left = key[~copies]
    if left.duplicated().any():
        second = int(np.argmax(left.duplicated().to_numpy()))
        one, other = (repeated[~copies].iloc[i] for i in (second - 1, second))
        name = next((n for n in metrics if shown_cell(one[n]) != shown_cell(other[n])), "score")
        at = f" at step {one['update']:g}" if step else ""
        remedy = (
            "keep one"
            if step
            else "keep one, or name the column that counts steps: `--map COLUMN=step`"
        )
        raise UserError(
            f"{where}: trial {one['trial']} has two different rows{at}: "
            f"`{theirs.get(name, name)}` is {shown_cell(one[name])} "
            f"in line {one.name} and {shown_cell(other[name])} in line {other.name}; {remedy}"
        )
    kept[involved[copies]] = False
    return kept


def shown_cell(value: object) -> str:
    if isinstance(value, float):
        return "empty" if np.isnan(value) else f"{value:.12g}"
    return repr(value) if value else "empty"

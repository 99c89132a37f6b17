"""Tables of trials of other programs.

One line per evaluation (or per trial): a trial name, a score, hyperparameters.

What a column is follows from its name (`columns.ROLES`) or from a mapping `theirs=ours`. Numeric
columns left over are hyperparameters; so are columns of text with few values. A trial is one
(study, domain, model, method, trial): number 3 of two domains is two trials. Within a trial its
hyperparameters, seed, status and sampler are constant.

An empty cell is a missing evaluation, which says nothing; `nan` or `inf` as a score is an
evaluation of a model that has diverged. Parquet knows both (null and NaN), but pandas writes NaN as
null: tables from there need a `status` column.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ray_unlearn.analysis.read.cells import Cells
from ray_unlearn.analysis.read.evaluation_rows import fingerprints
from ray_unlearn.analysis.read.foreign_columns import (
    IGNORE,
    KEYS,
    METRICS,
    MOST_CATEGORIES,
    TAKEN,
    Reading,
    left_over,
    roles_of,
)
from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.spec.study_spec import ScoreRuleName
from ray_unlearn.store.schema import STATUSES

SYNONYMS = {
    "": "complete",
    "completed": "complete",
    "finished": "complete",
    "success": "complete",
    "ok": "complete",
    "diverged": "infeasible",
    "nan": "infeasible",
    "oom": "out_of_memory",
    "error": "failed",
    "crashed": "failed",
}


@dataclass(frozen=True)
class ForeignResults:
    """A foreign table, checked, with scores turned so that lower is better."""

    name: str
    source: str
    source_digest: str
    score: str
    """Their name of the score."""
    maximise: bool
    trials: pd.DataFrame
    """One line per trial: `label` (their name of it), study, domain, model, method, seed, status,
    sampler, `evaluations` (lines with a score, finite or not), hyperparameters (numbers, or text
    for categorical ones)."""
    rows: pd.DataFrame
    """Evaluations with a score: `trial` (line of `trials`), `update` (NaN: unknown) and metrics,
    NaN where not finite."""
    hyperparameters: tuple[str, ...]
    duplicates: int
    """Exact copies of a line that were left out."""
    score_rule: ScoreRuleName
    """Their column `score_rule`; `best_row` where they have none."""
    missing: int
    """Evaluations without a score, of trials whose status does not explain it."""
    notes: tuple[str, ...] = ()


def read_foreign(table: pa.Table, path: Path, digest: str, reading: Reading) -> ForeignResults:
    """The table's trials and evaluations.

    Args:
        table: the file's columns; null is an empty cell.
        path: for errors (whole) and the report (its name).
        digest: of the file.
        reading: names of the columns, direction of the score.

    Raises:
        UserError: a missing column, two columns for one thing, text among numbers, an empty table,
            an unknown status, a trial with two hyperparameter values, or with two scores at one
            step.
    """
    where = str(path)
    table = table.rename_columns([str(name).strip() for name in table.column_names])
    roles = roles_of(table.column_names, reading, where)
    if table.num_rows == 0:
        raise UserError(
            f"{where}: holds no line; a foreign table has one line per evaluation or trial"
        )
    cells = Cells(table, where, 2 if path.suffix == ".csv" else 1)
    trial = cells.text(roles["trial"], needed=True)
    keys = {key: cells.text(roles[key]) for key in KEYS if key in roles}
    codes = _trial_codes([*keys.values(), trial])
    step = roles.get("step")
    update = cells.number(step) if step else np.full(len(codes), np.nan)
    order = np.lexsort((np.nan_to_num(update, nan=-np.inf), codes))

    lines: dict[str, pd.Categorical | NDArray[np.float64]] = {"trial": trial, **keys}
    lines |= {name: cells.number(roles[name]) for name in ("seed", *METRICS) if name in roles}
    lines |= {
        name: cells.text(roles[name])
        for name in ("status", "sampler", "score_rule")
        if name in roles
    }
    searched = left_over(table.column_names, roles, reading, where)
    notes: list[str] = []
    for ours, theirs in sorted(searched.items()):
        column = cells.hyperparameter(theirs)
        if column is not None and ours in TAKEN:
            raise UserError(
                f"{where}: column `{theirs}` cannot be a hyperparameter of this name, which has a "
                "meaning here; say "
                f"`--map {theirs}=ANOTHER_NAME` or `--map {theirs}={IGNORE}`"
            )
        if column is None:
            notes.append(
                f"column `{theirs}` of {path.name} is left out: text with more than "
                f"{MOST_CATEGORIES} values"
            )
        else:
            lines[ours] = column
    constant = [
        name for name in lines if name not in METRICS and name not in KEYS and name != "trial"
    ]
    if step and step == "steps" and len(np.unique(codes)) == len(codes):
        lines["steps"] = update
        constant.append("steps")
    # Null or not is known to the file only; a frame of floats cannot tell a missing score from a
    # diverged one.
    frame = (
        pd.DataFrame(lines, copy=False)
        .assign(missing=cells.is_null(roles["score"]), update=update)
        .iloc[order]
    )
    frame.index = pd.Index(order + cells.first_line, name="line")
    codes = codes[order]
    theirs_of = searched | roles
    _check_constant(frame, codes, constant, theirs_of, where)
    kept = _without_copies(frame, codes, step, theirs_of, where)
    duplicates = len(frame) - int(kept.sum())
    frame, codes = frame[kept], codes[kept]

    hyperparameters = tuple(
        name for name in constant if name not in ("seed", "status", "sampler", "score_rule")
    )
    first = np.flatnonzero(np.diff(codes, prepend=-1))
    trials = _trials(frame.iloc[first], hyperparameters, path, reading, where)
    trials["evaluations"] = np.bincount(
        codes, weights=~frame["missing"], minlength=len(first)
    ).astype(int)
    unexplained = (
        frame["missing"].to_numpy()
        & trials["status"].isin(["complete", "pruned"]).to_numpy()[codes]
    )
    evaluated = ~frame["missing"].to_numpy()
    sign = -1.0 if reading.maximise else 1.0
    rows = pd.DataFrame(
        {"trial": codes[evaluated], "update": frame["update"].to_numpy()[evaluated]}
    )
    for name in (name for name in METRICS if name in frame):
        values = frame[name].to_numpy()[evaluated]
        if name.startswith("score"):
            rows[name] = np.where(np.isfinite(values), sign * values, np.nan)
        else:
            rows[name] = values
    return ForeignResults(
        path.stem,
        path.name,
        digest,
        roles["score"],
        reading.maximise,
        trials,
        rows,
        hyperparameters,
        duplicates,
        _score_rule(frame, where),
        int(unexplained.sum()),
        tuple(notes),
    )


def _trial_codes(columns: list[pd.Categorical]) -> NDArray[np.int64]:
    """Number [n] of each line's trial: 0, 1, ... in the order of the columns' categories."""
    codes = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        codes = codes * len(column.categories) + column.codes
        codes = np.unique(codes, return_inverse=True)[1].astype(np.int64)
    return codes


def _check_constant(
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
            lines = [f"{_shown(column.iloc[i])} in line {frame.index[i]}" for i in (first[at], at)]
            raise UserError(
                f"{where}: trial {frame['trial'].iloc[at]} has two values of "
                f"`{theirs.get(name, name)}`, {lines[0]} and "
                f"{lines[1]}, but one trial has one configuration; if it is no hyperparameter, "
                f"`--map {theirs.get(name, name)}={IGNORE}`; if these are two runs, give each its "
                "own trial"
            )


def _without_copies(
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
        name = next((n for n in metrics if _shown(one[n]) != _shown(other[n])), "score")
        at = f" at step {one['update']:g}" if step else ""
        remedy = (
            "keep one"
            if step
            else "keep one, or name the column that counts steps: `--map COLUMN=step`"
        )
        raise UserError(
            f"{where}: trial {one['trial']} has two different rows{at}: "
            f"`{theirs.get(name, name)}` is {_shown(one[name])} "
            f"in line {one.name} and {_shown(other[name])} in line {other.name}; {remedy}"
        )
    kept[involved[copies]] = False
    return kept


def _shown(value: object) -> str:
    if isinstance(value, float):
        return "empty" if np.isnan(value) else f"{value:.12g}"
    return repr(value) if value else "empty"


def _score_rule(frame: pd.DataFrame, where: str) -> ScoreRuleName:
    if "score_rule" not in frame:
        return "best_row"
    given = sorted(set(frame["score_rule"].astype(str)))
    for rule in get_args(ScoreRuleName):
        if given == [rule]:
            return rule
    raise UserError(
        f"{where}: column `score_rule` is {' and '.join(map(repr, given))}; write one of "
        f"{', '.join(get_args(ScoreRuleName))} in every line, or `--map score_rule={IGNORE}`"
    )


def _trials(
    first: pd.DataFrame, hyperparameters: tuple[str, ...], path: Path, reading: Reading, where: str
) -> pd.DataFrame:
    """One line per trial from its first line."""
    size = len(first)

    def text(name: str, default: str = "") -> NDArray[np.object_]:
        return (
            first[name].astype(object).to_numpy()
            if name in first
            else np.full(size, default, dtype=object)
        )

    trials = pd.DataFrame({"label": text("trial"), **{key: text(key) for key in KEYS}})
    trials["study"] = trials["study"].where(trials["study"] != "", path.stem)
    trials["seed"] = first["seed"].to_numpy() if "seed" in first else np.nan
    given = pd.Series(text("status"), dtype=object).str.strip().str.lower()
    trials["status"] = given.replace(SYNONYMS)
    strange = ~trials["status"].isin(STATUSES)
    if strange.any():
        at = int(np.argmax(strange.to_numpy()))
        raise UserError(
            f"{where}: column `status` is {given[at]!r} in line "
            f"{first.index[at]}{nearest(given[at], STATUSES)}"
        )
    trials["sampler"] = text("sampler", reading.sampler or "")
    for name in hyperparameters:
        column = first[name]
        trials[name] = (
            text(name) if isinstance(column.dtype, pd.CategoricalDtype) else column.to_numpy()
        )
    return trials

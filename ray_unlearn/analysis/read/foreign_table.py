"""Tables of trials of other programs, and of people.

One line per evaluation or per trial: a score, hyperparameters, perhaps the name of the trial.

What a column is, is decided in `foreign_columns`. A trial is one (study, domain, model, method,
trial): number 3 of two domains is two trials. Where no column names trials, every line is one.
Within a trial its hyperparameters, seed, status and sampler are constant.

An empty cell is a missing evaluation, which says nothing; `nan` or `inf` as a score is an
evaluation of a model that has diverged. Parquet knows both (null and NaN), but pandas writes NaN as
null: tables from there need a `status` column.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ray_unlearn.analysis.read.cells import Cells
from ray_unlearn.analysis.read.column_names import higher_is_better
from ray_unlearn.analysis.read.column_roles import IGNORE, KEYS, METRICS, ColumnUse, Reading
from ray_unlearn.analysis.read.column_uses import Columns, read_columns
from ray_unlearn.analysis.read.foreign_columns import ASSUMED, LEFT_OUT
from ray_unlearn.analysis.read.foreign_trials import doing_nothing, numbered_replicates
from ray_unlearn.analysis.read.line_checks import check_constant, without_copies
from ray_unlearn.analysis.read.record_cells import without_records
from ray_unlearn.analysis.read.rescored_rows import rescored_evaluations
from ray_unlearn.analysis.read.table_formats import PLAIN, TableFormat, format_of
from ray_unlearn.analysis.read.text_tables import REPAIRED
from ray_unlearn.analysis.read.trial_states import outcomes_of
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.objective_spec import ScoreRuleName
from ray_unlearn.surfaces.axes import KnownRange

LARGEST_SCORE = 1e304
"""A score beyond it is of a diverged model: sums of such numbers are not finite."""


@dataclass(frozen=True)
class ForeignFile:
    """A table as it was found."""

    table: pa.Table
    """Null is an empty cell."""
    path: Path
    digest: str
    first_line: int
    """Number of the first line in the file, for errors."""
    separator: str = ","
    form: TableFormat | None = None
    """None: to be seen from the columns."""
    ranges: Mapping[str, KnownRange] = field(default_factory=dict)
    """By column, what was searched, where the program says."""

    @property
    def name(self) -> str:
        """Of the file, without a folder."""
        return self.path.name


@dataclass(frozen=True)
class ForeignResults:
    """A foreign table, checked. Scores are turned so that lower is better."""

    name: str
    source: str
    source_digest: str
    score: str
    """Their name of the score; `score` where it is made of its parts with a user's weights."""
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
    untouched: pd.DataFrame
    """Scores of the model that nothing was done to: `study`, `domain`, `model`, `score`."""
    columns: tuple[ColumnUse, ...]
    """What each column was taken for, in the order of the file."""
    notes: tuple[str, ...] = ()
    ranges: Mapping[str, KnownRange] = field(default_factory=dict)
    """By hyperparameter, what was searched, where the program says."""


def read_foreign(file: ForeignFile, reading: Reading) -> ForeignResults:
    """The table's trials and evaluations.

    Args:
        file: what was found.
        reading: what the user says about it.

    Raises:
        UserError: no score column, two columns for one thing, text among numbers, an empty table,
            an unknown status, a trial with two hyperparameter values, or with two scores at one
            step.
    """
    where = str(file.path)
    table = file.table.rename_columns([str(name).strip() for name in file.table.column_names])
    if table.num_rows == 0:
        raise UserError(
            f"{where}: holds no line; a foreign table has one line per evaluation or trial"
        )
    table, form = (table, file.form) if file.form is not None else format_of(without_records(table))
    cells = Cells(table, where, file.first_line, file.separator)
    found = read_columns(table.column_names, cells, reading, form, where)
    frame, codes, duplicates = _lines(found, cells, where)
    first = np.flatnonzero(np.diff(codes, prepend=-1))
    trials, notes = _trials(frame.iloc[first], found, file, reading)
    failing = frame["failing"].to_numpy()
    for code, word in zip(codes[failing != ""], failing[failing != ""], strict=True):
        if trials.at[code, "status"] in ("complete", "pruned"):
            trials.at[code, "status"] = word
    trials["evaluations"] = np.bincount(
        codes, weights=~frame["missing"], minlength=len(first)
    ).astype(int)
    unexplained = frame["missing"].to_numpy() & (trials["status"] == "complete").to_numpy()[codes]
    maximise, direction = _direction(found, reading, form)
    rows, score = _rows(frame, codes, -1.0 if maximise else 1.0), found.score_name
    if reading.weights is not None:
        rows = rescored_evaluations(rows, reading.weights, where)
        score, maximise, direction = "score", False, ""
        parts = f"{file.name} is scored by its parts, with {reading.weights.in_words()}"
        notes.append(f"{parts}, instead of by `{found.score_name}`")
    if repaired := (file.table.schema.metadata or {}).get(REPAIRED):
        notes.append(f"{file.name}: {repaired.decode()}")
    trials, rows, untouched, compared = _without_baselines(trials, rows, found.hyperparameters)
    return ForeignResults(
        file.path.stem,
        file.name,
        file.digest,
        score,
        maximise,
        trials,
        rows,
        found.hyperparameters,
        duplicates,
        _score_rule(frame, where),
        int(unexplained.sum()),
        untouched,
        found.uses,
        tuple([*_reading_notes(file, form, found, maximise, direction), *notes, *compared]),
        {use.name: file.ranges[use.column] for use in found.uses if use.column in file.ranges},
    )


def _lines(found: Columns, cells: Cells, where: str) -> tuple[pd.DataFrame, NDArray[np.int64], int]:
    """Lines in the order of their trials, the trial of each [n], and copies left out."""
    codes, theirs = found.codes, found.theirs
    order = np.lexsort((np.nan_to_num(found.update, nan=-np.inf), codes))
    # Null or not is known to the file only; a frame of floats cannot tell a missing score from a
    # diverged one.
    frame = pd.DataFrame(found.lines, copy=False).assign(
        missing=found.missing, failing=found.failing, update=found.update
    )
    frame = frame.iloc[order]
    frame.index = pd.Index(order + cells.first_line, name="line")
    codes = codes[order]
    check_constant(frame, codes, list(found.constant), theirs, where)
    step = found.roles["step"].column if "step" in found.roles else None
    kept = without_copies(frame, codes, step, theirs, where)
    if not found.named:
        prints = pd.Series(cells.line_prints()[order])
        kept &= ~prints.duplicated().to_numpy()
    duplicates = len(frame) - int(kept.sum())
    codes = np.unique(codes[kept], return_inverse=True)[1].astype(np.int64)
    return frame[kept], codes, duplicates


def _rows(frame: pd.DataFrame, codes: NDArray[np.int64], sign: float) -> pd.DataFrame:
    evaluated = ~frame["missing"].to_numpy()
    rows = pd.DataFrame(
        {"trial": codes[evaluated], "update": frame["update"].to_numpy()[evaluated]}
    )
    for name in (name for name in METRICS if name in frame):
        values = frame[name].to_numpy()[evaluated]
        if name.startswith("score"):
            rows[name] = np.where(np.abs(values) <= LARGEST_SCORE, sign * values, np.nan)
        else:
            rows[name] = values
    return rows


def _direction(found: Columns, reading: Reading, form: TableFormat) -> tuple[bool, str]:
    """Whether the score is maximised, and why."""
    if reading.maximise is not None:
        return reading.maximise, "--maximise says so"
    if found.score_name in form.maximise:
        return form.maximise[found.score_name], f"{form.name} says so"
    return higher_is_better(found.score_name)


def _reading_notes(
    file: ForeignFile, form: TableFormat, found: Columns, maximise: bool, why: str
) -> list[str]:
    """What the reader of the report must know about how the file was understood."""
    notes = [] if form.name == PLAIN else [f"{file.name} was read as {form.name}"]
    if why.startswith("assumed"):
        way, other = ("higher", "--minimise") if maximise else ("lower", "--maximise")
        notes.append(f"{way} `{found.score_name}` counts as better ({why}); otherwise say {other}")
    notes += [
        f"column `{use.column}` of {file.name} is left out: {use.why}"
        for use in found.uses
        if use.use == LEFT_OUT and use.why.startswith("text with more")
    ]
    assumed = [f"`{use.column}`" for use in found.uses if use.why.endswith(ASSUMED)]
    if assumed:
        notes.append(
            f"{', '.join(assumed)} of {file.name}: taken for hyperparameters because constant "
            "within each trial; if one is a result, say --outcomes COLUMN"
        )
    return notes


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
    first: pd.DataFrame, found: Columns, file: ForeignFile, reading: Reading
) -> tuple[pd.DataFrame, list[str]]:
    """One line per trial from its first line, and notes."""
    size = len(first)

    def text(name: str, default: str = "") -> NDArray[np.object_]:
        return (
            first[name].astype(object).to_numpy()
            if name in first
            else np.full(size, default, dtype=object)
        )

    trials = pd.DataFrame({"label": text("trial"), **{key: text(key) for key in KEYS}})
    trials["study"] = trials["study"].where(trials["study"] != "", file.path.stem)
    trials["seed"] = first["seed"].to_numpy() if "seed" in first else np.nan
    status = found.roles["status"].column if "status" in found.roles else "status"
    trials["status"], notes = outcomes_of(
        pd.Series(text("status"), dtype=object), first.index, status, str(file.path)
    )
    trials["sampler"] = text("sampler", reading.sampler or "")
    for name in found.hyperparameters:
        column = first[name]
        trials[name] = (
            text(name) if isinstance(column.dtype, pd.CategoricalDtype) else column.to_numpy()
        )
    if trials["seed"].isna().all():
        same = [*KEYS, *found.hyperparameters] if found.hyperparameters else []
        trials["seed"], note = numbered_replicates(trials, same)
        notes += [note] if note else []
    return trials, notes


def _without_baselines(
    trials: pd.DataFrame, rows: pd.DataFrame, hyperparameters: tuple[str, ...]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[str]]:
    """Trials and rows without models to compare with, scores of the untouched one, notes."""
    kinds = doing_nothing(trials, hyperparameters)
    best = rows.groupby("trial")["score"].min().reindex(trials.index)
    places = ["study", "domain", "model"]
    untouched = trials[places].assign(score=best)[kinds == "untouched"].dropna(subset=["score"])
    if not (kinds != "").any():
        return trials, rows, untouched, []
    words = {
        "untouched": "the model that nothing was done to",
        "retrained": "a model trained without the forget set",
    }
    notes = [
        f"{', '.join(dict.fromkeys(_called(trials[kinds == kind])))}: {what}, not a trial"
        for kind, what in words.items()
        if (kinds == kind).any()
    ]
    kept = np.flatnonzero(kinds == "")
    number = pd.Series(np.arange(len(kept)), index=kept)
    rows = rows[rows["trial"].isin(kept)]
    rows = rows.assign(trial=rows["trial"].map(number).to_numpy())
    return trials.iloc[kept].reset_index(drop=True), rows.reset_index(drop=True), untouched, notes


def _called(trials: pd.DataFrame) -> list[str]:
    return [f"`{method or label}`" for method, label in zip(trials["method"], trials["label"],
                                                            strict=True)]  # fmt: skip

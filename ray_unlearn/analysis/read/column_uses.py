"""The columns of a foreign table with their values: roles, trials, hyperparameters."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ray_unlearn.analysis.read.cells import Cells
from ray_unlearn.analysis.read.column_names import is_hyperparameter
from ray_unlearn.analysis.read.column_roles import (
    KEYS,
    METRICS,
    OF_RUNS,
    ColumnUse,
    Reading,
    full_mapping,
    roles_of,
    score_candidates,
    usual_columns,
)
from ray_unlearn.analysis.read.evaluation_rows import REQUIRED, lacks
from ray_unlearn.analysis.read.foreign_columns import (
    HYPERPARAMETER,
    LEFT_OUT,
    by_name,
    by_values,
)
from ray_unlearn.analysis.read.foreign_trials import Lines, codes_without_names, trial_codes
from ray_unlearn.analysis.read.table_formats import TableFormat
from ray_unlearn.spec.errors import UserError

LEAST_CONFIGURATIONS = 3
LEAST_VARYING = 0.9
"""Share of configurations whose seeds differ in a column that is a result."""
PER_TRIAL = ("seed", "status", "sampler", "score_rule")
TEXTS = ("status", "sampler", "score_rule")


@dataclass(frozen=True)
class Columns:
    """The columns of a table, read."""

    uses: tuple[ColumnUse, ...]
    """In the order of the file."""
    roles: Mapping[str, ColumnUse]
    lines: Mapping[str, Lines]
    """By our name: keys, seed, metrics, hyperparameters, each [n]."""
    codes: NDArray[np.int64]
    """Number [n] of each line's trial."""
    named: bool
    """Whether a column names trials."""
    update: NDArray[np.float64]
    missing: NDArray[np.bool_]
    """Whether a line has no evaluation [n]."""
    failing: NDArray[np.object_]
    """Outcome that a word in the score column stands for [n]; "" for none."""
    hyperparameters: tuple[str, ...]
    constant: tuple[str, ...]
    """Columns with one value in each trial."""
    score_name: str

    @property
    def theirs(self) -> dict[str, str]:
        """Our name to theirs."""
        return {use.name: use.column for use in self.uses if use.name}


def read_columns(
    columns: list[str], cells: Cells, reading: Reading, form: TableFormat, where: str
) -> Columns:
    """What each column is, with its values.

    Raises:
        UserError: as `foreign_table.read_foreign`.
    """
    mapping = full_mapping(columns, reading, where)
    roles = roles_of(columns, mapping, form, where)
    roles = _with_score(columns, roles, cells, reading, form, where)
    free = [name for name in columns if name not in {use.column for use in roles.values()}]
    roles |= _trial_and_step(roles, [n for n in free if n not in mapping], cells)
    uses = by_name(columns, roles, mapping, reading, form, where)
    score, missing, failing = cells.score(roles["score"].column, _lower(reading.failed))
    lines: dict[str, Lines] = {key: cells.text(roles[key].column) for key in KEYS if key in roles}
    lines |= {name: cells.text(roles[name].column) for name in TEXTS if name in roles}
    lines |= {"score": score}
    lines |= {
        name: cells.number(roles[name].column)
        for name in ("seed", *METRICS)
        if name in roles and name != "score"
    }
    known = {theirs: use for theirs, use in uses.items() if use and use.use == HYPERPARAMETER}
    searched: dict[str, Lines] = {}
    for theirs, use in known.items():
        values = cells.hyperparameter(theirs, known=True)
        if isinstance(values, str):
            uses[theirs] = ColumnUse(theirs, LEFT_OUT, "", values)
        else:
            searched[use.name] = values
    roles |= _step_of_curves(roles, lines, searched, uses, cells)
    step = roles.get("step")
    uses = {name: use for name, use in uses.items() if step is None or name != step.column}
    update = cells.number(step.column) if step else None
    codes = _codes(roles, lines, searched, update, cells)
    named = "trial" in roles
    lines["trial"] = (
        cells.text(roles["trial"].column, needed=True) if named else _line_names(codes, cells)
    )
    repeats = _repeats(lines, searched)
    for theirs in [name for name, use in uses.items() if use is None]:
        found = cells.hyperparameter(theirs, known=False)
        why_not = found if isinstance(found, str) else None

        def varies(found: Lines | str = found) -> str:
            if isinstance(found, str):
                return ""
            if _varies(found, codes):
                return "within a trial"
            seeds = repeats is not None and _varies(found, repeats, LEAST_VARYING)
            return "from seed to seed of a configuration" if seeds else ""

        uses[theirs] = use = by_values(theirs, why_not, varies, form)
        if use.use == HYPERPARAMETER and not isinstance(found, str):
            if use.name in searched:
                uses[theirs] = use = replace(use, name=f"{use.name}_")
            searched[use.name] = found
    if step and step.column == "steps" and len(np.unique(codes)) == len(codes):
        searched["steps"] = update if update is not None else score
    lines |= dict(sorted(searched.items()))
    by_column = {use.column: use for use in roles.values()}
    by_column |= {theirs: use for theirs, use in uses.items() if use is not None}
    return Columns(
        uses=tuple(by_column[name] for name in columns),
        roles=roles,
        lines=lines,
        codes=codes,
        named=named,
        update=update if update is not None else np.full(len(codes), np.nan),
        missing=missing,
        failing=failing,
        hyperparameters=tuple(sorted(searched)),
        constant=tuple([*(name for name in PER_TRIAL if name in lines), *sorted(searched)]),
        score_name=roles["score"].column.removeprefix("metrics."),
    )


def _lower(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word.strip().lower() for word in words)


def _with_score(
    columns: list[str],
    roles: dict[str, ColumnUse],
    cells: Cells,
    reading: Reading,
    form: TableFormat,
    where: str,
) -> dict[str, ColumnUse]:
    """The roles with the score: the only metric of the table, where nothing says which it is.

    Raises:
        UserError: none, or several.
    """
    if "score" in roles:
        return roles
    taken = {use.column for use in roles.values()} | set(reading.outcomes) | set(reading.params)
    free = [name for name in columns if name not in taken and reading.mapping.get(name) is None]
    named = score_candidates(free, form)
    candidates = [name for name in named if cells.holds_numbers(name)] or named
    if len(candidates) == 1:
        why = "the only metric of the table"
        return roles | {"score": ColumnUse(candidates[0], "score", "score", why)}
    raise UserError(_which_score(columns, free, candidates, cells, reading, where))


def _which_score(
    columns: list[str],
    free: list[str],
    candidates: list[str],
    cells: Cells,
    reading: Reading,
    where: str,
) -> str:
    """The question which column is the score, with the command that answers it."""
    absent = [name for name in REQUIRED if name not in columns]
    ours = len(absent) < len(REQUIRED) - 1 and not reading.given
    own = f"{lacks(absent)} of our own tables, and as a foreign one it " if ours else ""
    numeric = [name for name in free if name and cells.holds_numbers(name)]
    others = [name for name in numeric if not is_hyperparameter(name)]
    guess = candidates or [name for name in free if name.startswith("sc")] or others
    given = "".join(f" {shlex.quote(part)}" for part in reading.given)
    name = shlex.quote(guess[0]) if guess else "COLUMN"
    may = f"; it may be {', '.join(f'`{one}`' for one in guess)}" if guess else ""
    return (
        f"{where}: {own}{lacks(['score'])}{may}; say which it is: `ray-unlearn report "
        f"{shlex.quote(where)}{given} --score {name}`"
    )


def _trial_and_step(
    roles: Mapping[str, ColumnUse], free: list[str], cells: Cells
) -> dict[str, ColumnUse]:
    """Trial and step by usual names, as far as the lines fit them."""
    found: dict[str, ColumnUse] = {}
    trial = roles["trial"].column if "trial" in roles else None
    if trial is None:
        steps = "step" in roles
        for name in usual_columns("trial", free):
            once = cells.differs_in_every_line(name)
            if once or ((steps or name.lower() in OF_RUNS) and cells.is_full(name)):
                why = "a usual name of it" + (", different in every line" if once else "")
                found["trial"] = ColumnUse(trial := name, "trial", "trial", why)
                break
    if trial is not None and "step" not in roles and not cells.differs_in_every_line(trial):
        for name in usual_columns("step", [name for name in free if name != trial]):
            if cells.holds_numbers(name):
                found["step"] = ColumnUse(name, "step", "step", "a usual name of it")
                break
    return found


def _step_of_curves(
    roles: Mapping[str, ColumnUse],
    lines: Mapping[str, Lines],
    searched: Mapping[str, Lines],
    uses: Mapping[str, ColumnUse | None],
    cells: Cells,
) -> dict[str, ColumnUse]:
    """The step by a usual name, where no column names trials and each configuration has a curve."""
    if "trial" in roles or "step" in roles:
        return {}
    unused = [name for name, use in uses.items() if use is None or use.use == LEFT_OUT]
    for name in usual_columns("step", unused):
        if cells.holds_numbers(name) and cells.is_full(name):
            codes = _codes(roles, lines, searched, cells.number(name), cells)
            if len(np.unique(codes)) <= len(codes) / 2:
                why = "a usual name of it; it rises in lines of equal hyperparameters"
                return {"step": ColumnUse(name, "step", "step", why)}
    return {}


def _codes(
    roles: Mapping[str, ColumnUse],
    lines: Mapping[str, Lines],
    searched: Mapping[str, Lines],
    update: NDArray[np.float64] | None,
    cells: Cells,
) -> NDArray[np.int64]:
    keys = [column for key in KEYS if isinstance(column := lines.get(key), pd.Categorical)]
    if "trial" in roles:
        return trial_codes([*keys, cells.text(roles["trial"].column, needed=True)])
    seeds = [lines["seed"]] if "seed" in lines else []
    same = [*keys, *seeds, *searched.values()]
    return codes_without_names(len(lines["score"]), same if searched else [], update)


def _line_names(codes: NDArray[np.int64], cells: Cells) -> pd.Categorical:
    """Names of trials that have none: the first line of each."""
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    labels = pd.Index([f"line {at + cells.first_line}" for at in first], dtype=object)
    return pd.Categorical.from_codes(inverse, labels, validate=False)


def _repeats(lines: Mapping[str, Lines], searched: Mapping[str, Lines]) -> NDArray[np.int64] | None:
    """Number [n] of each line's configuration where every one has the same seeds, once each.

    None where the design is another one: then a column may have been searched beside these.
    """
    if "seed" not in lines or not searched:
        return None
    keys = [lines[key] for key in KEYS if key in lines]
    codes = trial_codes([pd.Categorical(column) for column in (*keys, *searched.values())])
    seeds = pd.Series(np.asarray(lines["seed"], dtype=float)).groupby(codes)
    alike = seeds.nunique().nunique() == 1 and (seeds.nunique() == seeds.size()).all()
    several = len(seeds) >= LEAST_CONFIGURATIONS and seeds.size().min() > 1
    return codes if alike and several else None


def _varies(values: Lines, codes: NDArray[np.int64], share: float = 0.0) -> bool:
    """Whether a column has two values in more than this share of the trials with several lines."""
    numbers = (
        values.codes.astype(float) if isinstance(values, pd.Categorical) else np.asarray(values)
    )
    grouped = pd.Series(numbers).groupby(codes)
    differs = (grouped.max() != grouped.min())[grouped.count() > 1]
    return bool(len(differs)) and bool(differs.mean() > share)

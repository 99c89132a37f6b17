"""What each column of a foreign table is taken for, and why: decided here and nowhere else.

A column is a hyperparameter because somebody says so (`--map`, `--params`), because the program
that wrote the table marks it (`config/lr`), or because of its name. Names of metrics, times,
machines, counters and files never are. What is left in a plain table is assumed to be one where it
is constant within each trial, and the report says so.
"""

from collections.abc import Callable, Mapping

from ray_unlearn.analysis.read.column_names import (
    is_hyperparameter,
    our_name,
    why_bookkeeping,
    why_outcome,
    without_prefix,
)
from ray_unlearn.analysis.read.column_roles import IGNORE, TAKEN, ColumnUse, Reading, meant_column
from ray_unlearn.analysis.read.table_formats import MLFLOW, OPTUNA, PLAIN, RAY_TUNE, TableFormat
from ray_unlearn.spec.errors import UserError

MOST_CATEGORIES = 12
"""A text column with more values is a remark, not a hyperparameter."""
MARKING = (OPTUNA, RAY_TUNE, MLFLOW)
"""Programs that mark every hyperparameter."""
ASSUMED = "constant within each trial; assumed, since its name is not known"
OUTCOME, LEFT_OUT, HYPERPARAMETER = "outcome", "left out", "hyperparameter"


def by_name(
    columns: list[str],
    roles: Mapping[str, ColumnUse],
    mapping: Mapping[str, str],
    reading: Reading,
    form: TableFormat,
    where: str,
) -> dict[str, ColumnUse | None]:
    """What each column without a role is, as far as its name tells; None where it does not.

    Raises:
        UserError: two columns for one hyperparameter, or an option that names no column.
    """
    meant = {
        option: [
            meant_column(name, columns, f"--{option} {name}", where)
            for name in getattr(reading, option)
        ]
        for option in ("params", "outcomes")
    }
    taken = {use.column for use in roles.values()}
    prefixed = next((name for name in columns if without_prefix(name) is not None), None)
    uses: dict[str, ColumnUse | None] = {}
    for theirs in (name for name in columns if name not in taken):
        if theirs in mapping:
            uses[theirs] = _mapped(theirs, mapping[theirs])
        elif theirs in meant["params"]:
            uses[theirs] = ColumnUse(theirs, HYPERPARAMETER, _named(theirs), "--params names it")
        elif theirs in meant["outcomes"]:
            uses[theirs] = ColumnUse(theirs, OUTCOME, "", "--outcomes names it")
        elif meant["params"]:
            uses[theirs] = _unused(theirs, "not among --params")
        elif theirs in form.own:
            uses[theirs] = ColumnUse(
                theirs, LEFT_OUT, "", f"it is in every table like this: {form.name}"
            )
        elif prefixed is not None or form.name in MARKING:
            uses[theirs] = _marked(theirs, prefixed, form)
        else:
            uses[theirs] = _told_by_name(theirs)
    return _distinct(uses, mapping, where)


def by_values(
    theirs: str, why_not: str | None, varies: Callable[[], str], form: TableFormat
) -> ColumnUse:
    """What a column is whose name does not tell.

    Args:
        theirs: its name.
        why_not: why its values are none of a hyperparameter; None where they may be.
        varies: where it changes although a hyperparameter would not; empty: nowhere.
        form: of the table.
    """
    if why_not is not None:
        return ColumnUse(theirs, LEFT_OUT, "", why_not)
    if where := varies():
        return ColumnUse(theirs, OUTCOME, "", f"it changes {where}")
    name = _free(theirs)
    source = "" if form.name == PLAIN else f"{form.name} marks none: "
    return ColumnUse(theirs, HYPERPARAMETER, name, f"{source}{ASSUMED}")


def _mapped(theirs: str, ours: str) -> ColumnUse:
    if ours == IGNORE:
        return ColumnUse(theirs, LEFT_OUT, "", "--map says so")
    return ColumnUse(theirs, HYPERPARAMETER, ours, "--map says so")


def _unused(theirs: str, otherwise: str) -> ColumnUse:
    why = why_outcome(theirs) or ("another objective" if theirs.startswith("values_") else None)
    if why is not None:
        return ColumnUse(theirs, OUTCOME, "", why)
    return ColumnUse(theirs, LEFT_OUT, "", why_bookkeeping(theirs) or otherwise)


def _marked(theirs: str, prefixed: str | None, form: TableFormat) -> ColumnUse:
    bare = without_prefix(theirs)
    if bare is not None:
        prefix = theirs.removesuffix(bare)
        why = f"`{prefix}` marks hyperparameters"
        return ColumnUse(theirs, HYPERPARAMETER, _named(theirs), why)
    known = without_prefix(prefixed or "")
    mark = f" with `{(prefixed or '').removesuffix(known)}`" if known else ""
    return _unused(theirs, f"{form.name} marks its hyperparameters{mark}, and this is none")


def _told_by_name(theirs: str) -> ColumnUse | None:
    if is_hyperparameter(theirs):
        why = "its name is that of a hyperparameter"
        return ColumnUse(theirs, HYPERPARAMETER, our_name(theirs), why)
    if (why_not := why_outcome(theirs)) is not None:
        return ColumnUse(theirs, OUTCOME, "", why_not)
    if (why_not := why_bookkeeping(theirs)) is not None:
        return ColumnUse(theirs, LEFT_OUT, "", why_not)
    return None


def _named(theirs: str) -> str:
    """Our name of a column that is a hyperparameter, without the program's prefix."""
    return _free(our_name(without_prefix(theirs) or theirs))


def _free(name: str) -> str:
    """The name, or one like it where it has another meaning in a trial table."""
    return f"{name}_" if name in TAKEN else name


def _distinct(
    uses: dict[str, ColumnUse | None], mapping: Mapping[str, str], where: str
) -> dict[str, ColumnUse | None]:
    """Hyperparameters with names of their own: `lr` stays `lr` beside a `learning_rate`."""
    searched: dict[str, str] = {}
    ordered = sorted(uses, key=lambda theirs: (theirs not in mapping, our_name(theirs) != theirs))
    for theirs in ordered:
        use = uses[theirs]
        if use is None or use.use != HYPERPARAMETER:
            continue
        if use.name in searched:
            own = without_prefix(theirs) or theirs
            if own in searched or own == use.name:
                raise UserError(
                    f"{where}: columns `{searched[use.name]}` and `{theirs}` are both "
                    f"{use.name!r}; say `--map {theirs}={IGNORE}`"
                )
            uses[theirs] = use = ColumnUse(theirs, use.use, own, use.why)
        searched[use.name] = theirs
    return uses

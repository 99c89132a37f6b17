"""The trials that a claim rests on, the most telling first."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ray_unlearn.analysis.numerals import plain
from ray_unlearn.analysis.why.named_records import NamedRecord
from ray_unlearn.spec.guideline_file import Guidelines
from ray_unlearn.spec.narrowed_range import RATE_BY_STEPS

MOST_LISTED = 20
COLUMNS_SHOWN = ("trial", "study", "method", "setting", "update", "score")


@dataclass(frozen=True)
class RelevantTrials:
    """The trials behind a sentence.

    Attributes:
        shown: at most `MOST_LISTED` lines with `COLUMNS_SHOWN`.
        count: of all.
        inside: of those with a value that the sentence names (in the range, or where to avoid);
            None where it names no values.
    """

    shown: pd.DataFrame
    count: int
    inside: int | None = None


def relevant_trials(record: NamedRecord, found: Guidelines, trials: pd.DataFrame) -> RelevantTrials:
    """The trials behind a record.

    First those with a value that the sentence names, then the others; the best score first.

    Args:
        record: what is asked about.
        found: the file, for the score's direction and the hyperparameters.
        trials: as in `data/trials.csv`.
    """
    own = _own(record, trials)
    better_first = found.score.direction == "minimize"
    inside = _inside(record, own)
    order = own.assign(_there=False if inside is None else inside).sort_values(
        ["_there", "score", "trial"], ascending=[False, better_first, True], kind="stable"
    )
    shown = order.head(MOST_LISTED)
    names = _hyperparameters(record, found)
    lines = [
        (
            _number(line),
            line["study"],
            line["method"] or "",
            ", ".join(f"{name} {plain(line[name])}" for name in names if _known(line, name)),
            line["update"],
            line["score"],
        )
        for line in shown.to_dict("records")
    ]
    table = pd.DataFrame(lines, columns=list(COLUMNS_SHOWN))
    return RelevantTrials(table, len(own), None if inside is None else int(inside.sum()))


def _own(record: NamedRecord, trials: pd.DataFrame) -> pd.DataFrame:
    """Trials of the record's methods: all, or those that its evidence counts."""
    if record.methods:
        trials = trials[trials["method"].isin(record.methods)]
    evidence = record.content.get("evidence", record.content)
    if evidence["n_trials"] == len(trials) or evidence.get("left_out") is not None:
        return trials
    if "evidence" not in record.content:  # a recommendation rests on all that have a score
        return trials[~trials["without_score"].astype(bool)]
    return trials[trials["drawn"] == "space"]


def _inside(record: NamedRecord, own: pd.DataFrame) -> pd.Series | None:
    """Whether each trial's value [n] is one that the sentence names; None where it names none."""
    values = _values(own, record.content.get("param"))
    space: dict[str, Any] = record.content.get("search_space") or {}
    if values is None:
        return None
    if space.get("choices") is not None:
        return values.isin(space["choices"])
    if record.kind == "avoid":
        space = record.content["estimates"]
    low, high = space.get("low"), space.get("high")
    if low is None and high is None:
        return None
    return values.ge(-math.inf if low is None else low) & values.le(
        math.inf if high is None else high
    )


def _values(own: pd.DataFrame, param: str | None) -> pd.Series | None:
    if param == RATE_BY_STEPS and {"learning_rate", "steps"} <= set(own):
        return own["learning_rate"] * own["steps"]
    return own.get(param)


def _hyperparameters(record: NamedRecord, found: Guidelines) -> list[str]:
    """What was searched by the record's methods."""
    settings: list[Mapping[str, Any]] = [
        *(one.setting for one in found.recommendations if _of(record, one.method)),
        *(one.hyperparameters for one in found.best_trials if _of(record, one.method)),
    ]
    return list(dict.fromkeys(name for setting in settings for name in setting))


def _of(record: NamedRecord, method: str | None) -> bool:
    return not record.methods or method in record.methods


def _known(line: dict[Any, Any], name: str) -> bool:
    return name in line and not pd.isna(line[name]) and line[name] != ""


def _number(line: dict[Any, Any]) -> str:
    """The trial's name in its own table or ledger, else its line in `data/trials.csv`."""
    for name in ("number", "label"):
        if _known(line, name):
            value = line[name]
            return str(value) if isinstance(value, str) else f"{value:.0f}"
    return str(line["trial"])

"""Data health: what a reader must know about a study before believing its numbers."""

import math

import pandas as pd

from ray_unlearn.analysis.table import StudyResults
from ray_unlearn.analysis.verdict import candidates, chosen_rows
from ray_unlearn.spec.search_space import FloatRange, IntRange

NEAR = 0.05
"""A value within this share of the search range (in log units on a log scale) from a bound lies at the bound."""


def boundary_hits(study: StudyResults) -> pd.DataFrame:
    """Chosen configurations at the edge of what was searched: the optimum may lie outside.

    Columns: method, parameter, value, side (`low` or `high`), bound. With free steps the number of updates counts as a
    parameter whose bounds are the first and the last evaluated candidate update. Without a spec (a table) the bounds of
    the space are unknown and only the updates are checked.
    """
    hits = []
    best = {str(row["method"]): row for row in chosen_rows(study.rows).to_dict("records")}
    for method in (name for name in study.methods if name in best):
        row = best[method]
        for name, (low, high, log) in _ranges(study, method).items():
            value = float(row[name])
            side = _side(value, low, high, log)
            if side:
                bound = low if side == "low" else high
                hits.append({"method": method, "parameter": name, "value": value, "side": side, "bound": bound})
    return pd.DataFrame(hits, columns=["method", "parameter", "value", "side", "bound"])


def unscored(study: StudyResults) -> int:
    """Evaluation rows whose score is not finite: a diverged model or a missing metric."""
    rows = study.rows[study.rows["update"].notna()]
    return int((~rows["score_selection"].abs().lt(math.inf)).sum())


def _ranges(study: StudyResults, method: str) -> dict[str, tuple[float, float, bool]]:
    ranges: dict[str, tuple[float, float, bool]] = {}
    free = True
    if study.spec is not None:
        space = study.spec.spaces[method]
        free = space.free_steps
        for name, parameter in space.sampled().items():
            if isinstance(parameter, (FloatRange, IntRange)) and name in study.rows:
                ranges[name] = (parameter.low, parameter.high, parameter.scale == "log")
    updates = candidates(study.rows[study.rows["method"] == method])["update"]
    if free and updates.nunique() > 1:
        ranges["update"] = (float(updates.min()), float(updates.max()), True)
    return ranges


def _side(value: float, low: float, high: float, log: bool) -> str:
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    share = (value - low) / (high - low)
    return "low" if share <= NEAR else "high" if share >= 1 - NEAR else ""

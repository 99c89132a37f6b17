"""Data health: what a reader must know about a study, or about all trials of a report, before
believing its numbers."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ray_unlearn.analysis.axes import Axis
from ray_unlearn.analysis.best_trials import best_rows, offered_rows
from ray_unlearn.analysis.read.study_results import Results, StudyResults
from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.spec.search_space import FloatRange, IntRange
from ray_unlearn.store.schema import STATUSES

NEAR = 0.05
"""A value within this share of the search range (in log units on a log scale) from a bound lies at
the bound."""
BEST_SHARE = 0.1
"""The best trials of a method, whose place says where the search space is too narrow."""
THIRDS = ("lowest", "middle", "highest")
SAMPLERS = ("space", "adaptive", "unknown")


@dataclass(frozen=True)
class Health:
    """All trials of a report, those left out of the analysis among them."""

    trials: int
    """Asked for."""
    analysed: int
    outcomes: pd.DataFrame
    """By method: `trials`, one column per status, `without_score` (of these: ended well without an
    evaluation that could be deployed). A trial with a score that is not finite counts as
    infeasible."""
    groups: pd.DataFrame
    """By method and group: `trials` analysed, `infeasible`, `seeds`, `from_space` (drawn from the
    space)."""
    infeasible: pd.DataFrame
    """By method, parameter and third of its axis: `low`, `high` (of the third), `trials`,
    `infeasible`, `share`."""
    at_bounds: pd.DataFrame
    """By method, parameter and side (`low`, `high`): `bound`, `bounds_known`, `best` (trials among
    the best tenth of their group), `hits` (of these, within 5 % of the range from the bound),
    `share`."""
    samplers: pd.DataFrame
    """By method: trials by how they were drawn, `space`, `adaptive`, `unknown`, and
    `space_share`."""
    seeds: tuple[float, ...]
    unseeded: int
    """Trials analysed whose seed is not known."""
    duplicates: int
    """Exact copies of a line that were left out."""
    missing_evaluations: int
    """Evaluations without a score that no status explains."""
    pruned_share: float
    """Trials that early stopping ended by comparison with others, of all with an outcome: what is
    left is a selection."""
    notes: tuple[str, ...]


def health(table: TrialTable, results: Results) -> Health:
    """What `table` holds, what was left out of it, and why."""
    trials, left_out = table.trials, table.left_out
    everyone = pd.concat(
        [trials[["method", "status"]], left_out[["method", "status"]]], ignore_index=True
    )
    outcomes = pd.crosstab(everyone["method"], everyone["status"]).reindex(
        columns=list(STATUSES), fill_value=0
    )
    outcomes.insert(0, "trials", outcomes.sum(axis=1))
    silent = left_out[~left_out["status"].isin(["failed", "running"])]
    outcomes["without_score"] = (
        silent["method"].value_counts().reindex(outcomes.index, fill_value=0).astype(int)
    )
    order = [*table.methods, *sorted(set(outcomes.index) - set(table.methods))]
    decided = int((~everyone["status"].isin(["failed", "running"])).sum())
    samplers = pd.crosstab(trials["method"], trials["drawn"]).reindex(
        index=table.methods, columns=list(SAMPLERS)
    )
    samplers = samplers.fillna(0).astype(int)
    samplers["space_share"] = samplers["space"] / samplers[list(SAMPLERS)].sum(axis=1)
    return Health(
        trials=len(everyone),
        analysed=len(trials),
        outcomes=_plain(outcomes.reindex(order)),
        groups=_by_group(table),
        infeasible=_infeasible_by_third(table),
        at_bounds=_best_at_bounds(table),
        samplers=_plain(samplers),
        seeds=tuple(sorted(float(seed) for seed in trials["seed"].dropna().unique())),
        unseeded=int(trials["seed"].isna().sum()),
        duplicates=sum(study.duplicates for study in results.studies)
        + sum(one.duplicates for one in results.foreign),
        missing_evaluations=sum(map(_missing, results.studies))
        + sum(one.missing for one in results.foreign),
        pruned_share=int((everyone["status"] == "pruned").sum()) / decided if decided else 0.0,
        notes=table.notes,
    )


def _plain(counts: pd.DataFrame) -> pd.DataFrame:
    """A table by method with `method` as its first column."""
    counts = counts.rename_axis(columns=None)
    return counts.rename_axis("method").reset_index()


def _missing(study: StudyResults) -> int:
    """Evaluations of trials that ended well that have no score at all; infinite ones have one."""
    rows = study.rows[
        study.rows["update"].notna() & study.rows["status"].isin(["complete", "pruned"])
    ]
    return int(rows["score_reporting"].isna().sum())


def _by_group(table: TrialTable) -> pd.DataFrame:
    frame = table.trials.assign(from_space=table.trials["drawn"] == "space")
    parts = frame.groupby(["method", "group"], sort=False)
    counts = parts.agg(
        trials=("trial", "size"), infeasible=("infeasible", "sum"), seeds=("seed", "nunique"),
        from_space=("from_space", "sum"),
    ).reset_index()  # fmt: skip
    place = {method: i for i, method in enumerate(table.methods)}
    return counts.sort_values(
        "method", key=lambda names: names.map(place), kind="stable"
    ).reset_index(drop=True)


def _numeric_axes(table: TrialTable) -> list[tuple[str, pd.DataFrame, Axis, NDArray[np.float64]]]:
    """Method, its trials, axis, and the trials' coordinates [n] on it."""
    found = []
    for method, axes in table.axes.items():
        own = table.of(method)
        for axis in (axis for axis in axes if axis.scale != "categorical"):
            found.append((method, own, axis, axis.to_unit(own[axis.name].to_numpy(dtype=float))))
    return found


def _infeasible_by_third(table: TrialTable) -> pd.DataFrame:
    """A cliff shows as a third with many; trials outside the common range of several studies count
    to the outer thirds."""
    lines = []
    for method, own, axis, unit in _numeric_axes(table):
        third = np.digitize(unit, [1 / 3, 2 / 3])
        bad = own["infeasible"].to_numpy(dtype=bool)
        for i, name in enumerate(THIRDS):
            here = third == i
            low, high = axis.from_unit([i / 3, (i + 1) / 3])
            count, infeasible = int(here.sum()), int((here & bad).sum())
            share = infeasible / count if count else math.nan
            lines.append(
                (method, axis.name, name, float(low), float(high), count, infeasible, share)
            )
    return pd.DataFrame(
        lines,
        columns=["method", "parameter", "third", "low", "high", "trials", "infeasible", "share"],
    )


def _best_at_bounds(table: TrialTable) -> pd.DataFrame:
    rank = table.trials.groupby(["method", "group"])["score_selection"].rank(method="first")
    finite = (
        (~table.trials["infeasible"])
        .groupby([table.trials["method"], table.trials["group"]])
        .transform("sum")
    )
    best = rank <= np.ceil(BEST_SHARE * finite)
    lines = []
    for method, own, axis, unit in _numeric_axes(table):
        chosen = unit[best[own.index].to_numpy(dtype=bool)]
        for side, hits, bound in (
            ("low", chosen <= NEAR, axis.low),
            ("high", chosen >= 1 - NEAR, axis.high),
        ):
            share = float(hits.mean()) if len(chosen) else math.nan
            lines.append(
                (
                    method,
                    axis.name,
                    side,
                    bound,
                    axis.bounds_known,
                    len(chosen),
                    int(hits.sum()),
                    share,
                )
            )
    return pd.DataFrame(
        lines,
        columns=["method", "parameter", "side", "bound", "bounds_known", "best", "hits", "share"],
    )


def boundary_hits(study: StudyResults) -> pd.DataFrame:
    """Chosen configurations at the edge of what was searched: the optimum may lie outside.

    Columns: method, parameter, value, side (`low` or `high`), bound. With free steps the number of
    updates counts as a parameter whose bounds are the first and the last evaluated candidate
    update. Without a spec (a table) the bounds of the space are unknown and only the updates are
    checked.
    """
    hits = []
    best = {str(row["method"]): row for row in best_rows(study.rows).to_dict("records")}
    for method in (name for name in study.methods if name in best):
        row = best[method]
        for name, (low, high, log) in _ranges(study, method).items():
            value = float(row[name])
            side = _side(value, low, high, log)
            if side:
                bound = low if side == "low" else high
                hits.append(
                    {
                        "method": method,
                        "parameter": name,
                        "value": value,
                        "side": side,
                        "bound": bound,
                    }
                )
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
    updates = offered_rows(study.rows[study.rows["method"] == method])["update"]
    if free and updates.nunique() > 1:
        ranges["update"] = (float(updates.min()), float(updates.max()), True)
    return ranges


def _side(value: float, low: float, high: float, log: bool) -> str:
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    share = (value - low) / (high - low)
    return "low" if share <= NEAR else "high" if share >= 1 - NEAR else ""

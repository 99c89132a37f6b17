"""Data health: what a reader must know about the trials before believing their numbers."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ray_unlearn.analysis.best_trials import best_rows, offered_rows
from ray_unlearn.analysis.read.study_results import Results, StudyResults
from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.spec.search_space import FloatRange, IntRange
from ray_unlearn.store.schema import STATUSES
from ray_unlearn.surfaces.axes import Axis

NEAR = 0.05
"""Share of the search range (its logarithm on a log scale) within which a value is at a bound."""
BEST_SHARE = 0.1
"""Share of the trials that counts as the best: their place says where the space is too narrow."""
THIRDS = ("lowest", "middle", "highest")
SAMPLERS = ("space", "adaptive", "unknown")


@dataclass(frozen=True)
class Health:
    """All trials of a report, those left out of the analysis among them.

    Attributes:
        trials: asked for.
        analysed: of these, with an outcome and a row that scores them.
        outcomes: by method: `trials`, one column per status, `without_score` (those of them that
            ended well without an evaluation that could be deployed). A trial whose score is not
            finite counts as diverged.
        infeasible: by method, parameter and third of its axis: `low`, `high` (of the third),
            `trials`, `infeasible`, `share`.
        at_bounds: by method, parameter and side (`low`, `high`): `bound`, `bounds_known`, `best`
            (trials among the best tenth of their group), `hits` (those within 5 % of the range
            from the bound), `share`.
        samplers: by method: trials by how they were drawn, `space`, `adaptive`, `unknown`, and
            `space_share`.
        seeds: of the trials analysed, rising.
        unseeded: trials analysed whose seed is not known.
        duplicates: exact copies of a line that were left out.
        missing_evaluations: evaluations without a score that no status explains.
        pruned_share: trials that early stopping ended by comparison with others, of all with an
            outcome: what is left is a selection.
        notes: how the table was made.
    """

    trials: int
    analysed: int
    outcomes: pd.DataFrame
    infeasible: pd.DataFrame
    at_bounds: pd.DataFrame
    samplers: pd.DataFrame
    seeds: tuple[float, ...]
    unseeded: int
    duplicates: int
    missing_evaluations: int
    pruned_share: float
    notes: tuple[str, ...]


def health(table: TrialTable, results: Results) -> Health:
    """What `table` holds, what was left out of it, and why; results: what it was made from."""
    columns = ["method", "status"]
    everyone = pd.concat([table.trials[columns], table.left_out[columns]], ignore_index=True)
    decided = int((~everyone["status"].isin(["failed", "running"])).sum())
    pruned = int((everyone["status"] == "pruned").sum())
    seeds = table.trials["seed"]
    duplicates = [one.duplicates for one in results.studies]
    duplicates += [one.duplicates for one in results.foreign]
    missing = [_missing(study) for study in results.studies]
    missing += [one.missing for one in results.foreign]
    return Health(
        trials=len(everyone),
        analysed=len(table.trials),
        outcomes=_outcomes(table, everyone),
        infeasible=_infeasible_by_third(table),
        at_bounds=_best_at_bounds(table),
        samplers=_samplers(table),
        seeds=tuple(sorted(float(seed) for seed in seeds.dropna().unique())),
        unseeded=int(seeds.isna().sum()),
        duplicates=sum(duplicates),
        missing_evaluations=sum(missing),
        pruned_share=pruned / decided if decided else 0.0,
        notes=table.notes,
    )


def _outcomes(table: TrialTable, everyone: pd.DataFrame) -> pd.DataFrame:
    counts = pd.crosstab(everyone["method"], everyone["status"])
    counts = counts.reindex(columns=list(STATUSES), fill_value=0)
    counts.insert(0, "trials", counts.sum(axis=1))
    silent = table.left_out[~table.left_out["status"].isin(["failed", "running"])]
    without = silent["method"].value_counts().reindex(counts.index, fill_value=0)
    counts["without_score"] = without.astype(int)
    order = [*table.methods, *sorted(set(counts.index) - set(table.methods))]
    return _flat(counts.reindex(order))


def _samplers(table: TrialTable) -> pd.DataFrame:
    counts = pd.crosstab(table.trials["method"], table.trials["drawn"])
    counts = counts.reindex(index=table.methods, columns=list(SAMPLERS)).fillna(0).astype(int)
    counts["space_share"] = counts["space"] / counts[list(SAMPLERS)].sum(axis=1)
    return _flat(counts)


def _flat(counts: pd.DataFrame) -> pd.DataFrame:
    """A table by method with `method` as its first column."""
    return counts.rename_axis(columns=None).rename_axis("method").reset_index()


def _missing(study: StudyResults) -> int:
    """Evaluations of trials that ended well that have no score at all; infinite ones have one."""
    ended_well = study.rows["status"].isin(["complete", "pruned"])
    rows = study.rows[study.rows["update"].notna() & ended_well]
    return int(rows["score_reporting"].isna().sum())


def _numeric_axes(table: TrialTable) -> list[tuple[str, pd.DataFrame, Axis, NDArray[np.float64]]]:
    """Method, its trials, axis, and the trials' coordinates [n] on it."""
    found = []
    for method, axes in table.axes.items():
        own = table.of(method)
        for axis in (axis for axis in axes if axis.scale != "categorical"):
            found.append((method, own, axis, axis.to_unit(own[axis.name].to_numpy(dtype=float))))
    return found


def _infeasible_by_third(table: TrialTable) -> pd.DataFrame:
    """A cliff shows as a third with many trials without a score.

    Trials outside the common range of several studies count towards the outer thirds.
    """
    lines = []
    for method, own, axis, unit in _numeric_axes(table):
        third = np.digitize(unit, [1 / 3, 2 / 3])
        bad = own["infeasible"].to_numpy(dtype=bool)
        for i, name in enumerate(THIRDS):
            here = third == i
            low, high = axis.from_unit([i / 3, (i + 1) / 3])
            count, infeasible = int(here.sum()), int((here & bad).sum())
            share = infeasible / count if count else math.nan
            ends = float(low), float(high)
            lines.append((method, axis.name, name, *ends, count, infeasible, share))
    columns = ["method", "parameter", "third", "low", "high", "trials", "infeasible", "share"]
    return pd.DataFrame(lines, columns=columns)


def _best_at_bounds(table: TrialTable) -> pd.DataFrame:
    trials = table.trials
    rank = trials.groupby(["method", "group"])["score_selection"].rank(method="first")
    groups = [trials["method"], trials["group"]]
    finite = (~trials["infeasible"]).groupby(groups).transform("sum")
    best = rank <= np.ceil(BEST_SHARE * finite)
    lines = []
    for method, own, axis, unit in _numeric_axes(table):
        chosen = unit[best[own.index].to_numpy(dtype=bool) & _searched(unit)]
        at_ends = ("low", chosen <= NEAR, axis.low), ("high", chosen >= 1 - NEAR, axis.high)
        for side, hits, bound in at_ends:
            share = float(hits.mean()) if len(chosen) else math.nan
            known = axis.bounds_known
            count = int(hits.sum())
            lines.append((method, axis.name, side, bound, known, len(chosen), count, share))
    columns = ["method", "parameter", "side", "bound", "bounds_known", "best", "hits", "share"]
    return pd.DataFrame(lines, columns=columns)


def _searched(unit: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which trials [n] had this hyperparameter searched: not those at the value that most share.

    A value that more than half of the trials have is a default that was left alone; that the best
    trials have it too says nothing of what lies beyond it.
    """
    values, counts = np.unique(unit, return_counts=True)
    common = values[2 * counts > len(unit)]
    return ~np.isin(unit, common)


def boundary_hits(study: StudyResults) -> pd.DataFrame:
    """Chosen configurations at the edge of what was searched: the optimum may be outside.

    With free steps the number of updates counts as a parameter whose bounds are the first and the
    last evaluated candidate update. Without a spec (a table) the bounds of the space are unknown
    and only the updates are checked. A hyperparameter that the chosen trial did not search says
    nothing: its condition does not hold and it has its default, or all points were listed.

    Returns:
        Columns method, parameter, value, side (`low` or `high`), bound.
    """
    best = {str(row["method"]): row for row in best_rows(study.rows).to_dict("records")}
    hits = []
    for method in (name for name in study.methods if name in best):
        for name, (low, high, log) in _ranges(study, method, best[method]).items():
            value = float(best[method][name])
            if side := _side(value, low, high, log):
                hits.append((method, name, value, side, low if side == "low" else high))
    return pd.DataFrame(hits, columns=["method", "parameter", "value", "side", "bound"])


def unscored(study: StudyResults) -> int:
    """Evaluation rows whose score is not finite: a diverged model or a missing metric."""
    rows = study.rows[study.rows["update"].notna()]
    return int((~rows["score_selection"].abs().lt(math.inf)).sum())


def _ranges(
    study: StudyResults, method: str, chosen: Mapping[Hashable, Any]
) -> dict[str, tuple[float, float, bool]]:
    """Bounds of what was searched in the chosen trial: low, high, whether on a log scale."""
    ranges: dict[str, tuple[float, float, bool]] = {}
    free = True
    if study.spec is not None:
        space = study.spec.spaces[method]
        free = space.free_steps
        for name, parameter in space.sampled().items():
            if study.spec.search.sampler == "listed" or not isinstance(
                parameter, (FloatRange, IntRange)
            ):
                continue
            if name in study.rows and all(chosen[k] == v for k, v in parameter.when.items()):
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

"""From a trial table to what the surfaces of one method are fitted to, group by group."""

import numpy as np
import pandas as pd

from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.surfaces.axes import Axis
from ray_unlearn.surfaces.group_points import GroupPoints
from ray_unlearn.surfaces.trajectories import (
    COMPONENTS,
    ScoreOfChanges,
    Trajectories,
)

NEEDED = (*COMPONENTS, "chosen_by", "valued_by", "learning_rate_sum", "update")
MOST_UPDATES = 12
LEAST_UPDATES = 2
"""Evaluations per trial, in the mean, below which the trials' scores say as much."""


def group_parts(
    table: TrialTable, trials: pd.DataFrame, axes: tuple[Axis, ...]
) -> tuple[GroupPoints, ...]:
    """The trials of one method, one part per group, by name.

    Args:
        table: that the trials are from.
        trials: some of one method, with a column per axis.
        axes: in the order of the coordinates.
    """
    return tuple(
        GroupPoints(
            str(group),
            unit_points(own, axes),
            own["score"].to_numpy(dtype=float),
            own["infeasible"].to_numpy(dtype=bool),
            _trajectories(table, own, axes),
        )
        for group, own in trials.groupby("group", sort=True)
    )


def unit_points(trials: pd.DataFrame, axes: tuple[Axis, ...]) -> np.ndarray:
    """Unit coordinates [n, d] of trials."""
    if not axes:
        return np.empty((len(trials), 0))
    return np.column_stack([axis.to_unit(trials[axis.name]) for axis in axes])


def _trajectories(
    table: TrialTable, trials: pd.DataFrame, axes: tuple[Axis, ...]
) -> Trajectories | None:
    """The evaluations of one group's trials; None where they do not say what scores are made of.

    Also None where the studies of a group have different targets, and where trials are scored at
    other strengths: a trajectory as trained does not say what its trial scores at the target. And
    where a score is one metric, or constraints rule rows out: the components say nothing of those.
    """
    weights = table.score.weights
    curves = table.score.strength == "trained" and table.score.objective is None
    if not curves or weights is None or not set(NEEDED) <= set(table.rows):
        return None
    rows = table.rows[table.rows["trial"].isin(trials["trial"])]
    rows = rows[rows["learning_rate_sum"] > 0]
    targets = rows[["chosen_by", "valued_by"]].drop_duplicates()
    if len(targets) != 1 or targets.isna().any(axis=None):
        return None
    if len(rows) < LEAST_UPDATES * rows["trial"].nunique():
        return None
    place = pd.Series(np.arange(len(trials)), index=trials["trial"])
    searched = {axis.name for axis in axes}
    rates = rows["trial"].map(trials.set_index("trial")["learning_rate"].astype(float))
    chosen_by, valued_by = (float(value) for value in targets.iloc[0])
    return Trajectories(
        trial=rows["trial"].map(place).to_numpy(dtype=int),
        effort=np.log10(rows["learning_rate_sum"].to_numpy(dtype=float)),
        changes=rows[list(COMPONENTS)].to_numpy(dtype=float),
        updates=np.empty(0) if "steps" in searched else _deployable(rows),
        rate=float(np.exp(np.log(rates).mean())),
        per_step=float((rows["learning_rate_sum"] / (rates * rows["update"])).median()),
        score=ScoreOfChanges(
            (weights.forget_gap, weights.retain, weights.general), chosen_by, valued_by
        ),
    )


def _deployable(rows: pd.DataFrame) -> np.ndarray:
    """At most `MOST_UPDATES` of the updates [t] that could be deployed, even on a log scale."""
    found = np.sort(rows.loc[rows["candidate"], "update"].unique()).astype(float)
    if len(found) <= MOST_UPDATES:
        return found
    even = np.geomspace(found[0], found[-1], MOST_UPDATES)
    return np.unique(found[np.abs(np.log(found[:, None] / even)).argmin(0)])

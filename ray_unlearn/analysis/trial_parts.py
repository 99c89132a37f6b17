"""One study, or one foreign table, as trials with a score each: the pieces a trial table is put
together from.

The score of a trial is that of its deployable checkpoint. Candidates for it are the evaluations
that could be deployed: with free steps those from the fewest steps on, otherwise the one after the
last step. Among them the stopping rule chooses (`effects.stopping`), or the last one counts where
no target is known.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ray_unlearn.analysis.axes import Axis
from ray_unlearn.analysis.read.cells import category_name
from ray_unlearn.analysis.read.foreign_table import ForeignResults
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.searched import (
    categorical,
    conditions,
    how_drawn,
    planned_samplers,
    space_axes,
)
from ray_unlearn.analysis.statistics.stopping import checkpoints
from ray_unlearn.spec.hyperparameters import HYPERPARAMETERS

IDENTITY = ("study", "domain", "model", "method", "status")
DIVERGED = ("infeasible", "out_of_memory")
PAST_BEST = "past its best"
"""Reason of a pruned trial whose remaining rows could not have been its best: nothing is lost with
them."""
RULE = (
    "the first evaluation at which the forget NLL reaches that of the vanilla model on the approximate set "
    "(selection half), else the last one"
)
LAST = "the last evaluation (no target for the forget NLL is known)"


@dataclass(frozen=True)
class SourceTrials:
    """Trials of one source, numbered from 0 in `trials`; columns as in `trials.TrialTable`, `group`
    apart."""

    trials: pd.DataFrame
    rows: pd.DataFrame
    left_out: pd.DataFrame
    """Trials without a place in the analysis: `IDENTITY` and `why`."""
    hyperparameters: tuple[str, ...]
    axes: dict[str, dict[str, Axis]] | None
    """By method, as far as a search space tells; None: without one."""
    free_steps: frozenset[str]
    """Methods whose every evaluation stands for a configuration: `steps` is no axis of theirs."""
    rules: tuple[str, ...]
    """How checkpoints were chosen."""


def study_part(study: StudyResults) -> SourceTrials:
    """Trials of one of our own studies."""
    rows = study.rows
    lines = rows.drop_duplicates("number").set_index("number")
    trials = lines[["method", "seed", "status", *HYPERPARAMETERS]].copy()
    trials = trials.assign(
        study=study.key, domain=study.domain, model=study.model, seed=trials["seed"].astype(float)
    )
    sampled_by = lines["sampled_by"]
    if study.spec is not None:
        sampled_by = planned_samplers(study.spec, lines.reset_index()).set_axis(lines.index)
        for method in study.spec.methods:
            _as_in_the_space(trials, method, study)
    trials["drawn"] = sampled_by.map(how_drawn(sampled_by.unique()))
    past_best = (trials["status"] == "pruned") & lines["reason"].str.startswith(PAST_BEST)
    trials["status"] = trials["status"].where(~past_best, "complete")

    free, fewest = _steps(study)
    evaluated = rows["update"].notna()
    is_free = rows["method"].isin(free)
    candidate = np.where(
        is_free, rows["update"] >= rows["method"].map(fewest), rows["update"] == rows["steps"]
    )
    vanilla = study.baseline("vanilla")
    target = math.nan if vanilla is None else float(vanilla["approximate_nll_selection"])
    evaluations = pd.DataFrame(
        {
            "trial": rows["number"],
            "update": rows["update"],
            "score": rows["score_reporting"],
            "score_selection": rows["score_selection"],
            "forget_nll": rows["forget_nll"],
            "forget_gap": rows["forget_gap_reporting"],
            "utility_loss": rows["utility_loss_reporting"],
            "learning_rate_sum": rows["learning_rate_sum"],
            "target_nll": target,
            "candidate": candidate.astype(bool),
        }
    )[evaluated & (candidate | ~is_free)]
    sampled_steps = set(trials["method"]) - free
    rules: tuple[str, ...] = (
        (LAST if math.isnan(target) else RULE,) if free & set(trials["method"]) else ()
    )
    rules += ("the last step, where the number of steps was searched",) if sampled_steps else ()
    axes = (
        None
        if study.spec is None
        else {method: space_axes(study.spec, method) for method in study.spec.methods}
    )
    return _scored(trials, evaluations, HYPERPARAMETERS, axes, free, rules)


def foreign_part(foreign: ForeignResults) -> SourceTrials:
    """Trials of a foreign table; every evaluation with a score is a candidate."""
    drawn = foreign.trials["sampler"].map(how_drawn(foreign.trials["sampler"].unique()))
    trials = foreign.trials.drop(columns=["label", "sampler", "evaluations"]).assign(drawn=drawn)
    rows = foreign.rows.assign(candidate=True)
    if "score_selection" not in rows:
        rows["score_selection"] = rows["score"]
    told = {"forget_nll", "target_nll"} <= set(rows) and bool(rows["target_nll"].notna().any())
    rule = (
        "the first evaluation at which `forget_nll` reaches `target_nll`, else the last one"
        if told
        else LAST
    )
    free = frozenset(trials["method"]) if "steps" not in foreign.hyperparameters else frozenset()
    return _scored(trials, rows, foreign.hyperparameters, None, free, (rule,))


def _scored(
    trials: pd.DataFrame,
    rows: pd.DataFrame,
    hyperparameters: tuple[str, ...],
    axes: dict[str, dict[str, Axis]] | None,
    free: frozenset[str],
    rules: tuple[str, ...],
) -> SourceTrials:
    """Checkpoint and score for trials [index: as `trial` in `rows`]; those without any are left
    out, with the reason."""
    diverged = trials["status"].isin(DIVERGED)
    chosen = checkpoints(rows[rows["candidate"]]).set_index("trial")
    scores = rows.loc[chosen["row"].to_numpy(), ["score", "score_selection"]].set_axis(chosen.index)
    finite = np.isfinite(scores.to_numpy(dtype=float)).all(axis=1)
    bad = chosen.index[chosen["infeasible"].to_numpy(dtype=bool) | ~finite]
    # An object column from the start: reindexing would make NaN of None.
    trials = trials.assign(
        infeasible=diverged | trials.index.isin(bad),
        update=chosen["update"].reindex(trials.index).where(~diverged),
        score=scores["score"].reindex(trials.index),
        score_selection=scores["score_selection"].reindex(trials.index),
    )
    crossed = chosen["crossed"].reindex(trials.index).astype(object)
    trials["crossed"] = crossed.where(crossed.notna() & ~diverged, None)
    trials.loc[trials["infeasible"], ["score", "score_selection"]] = math.nan
    # A trial that ended well by its program, but whose checkpoint is not finite, has diverged.
    trials.loc[trials["infeasible"] & ~diverged, "status"] = "infeasible"

    why = pd.Series("", index=trials.index, dtype=object)
    why[~trials.index.isin(chosen.index) & ~diverged] = "no evaluation that could be deployed"
    why[trials["status"] == "failed"] = "failed"
    why[trials["status"] == "running"] = "no outcome yet"
    left_out = (
        trials.loc[why != "", list(IDENTITY)].assign(why=why[why != ""]).reset_index(drop=True)
    )
    trials = trials[why == ""]
    numbers = pd.Series(np.arange(len(trials)), index=trials.index)
    rows = rows[rows["trial"].isin(trials.index)]
    rows = rows.assign(trial=rows["trial"].map(numbers).to_numpy())
    for name in ("score", "score_selection"):
        rows[name] = rows[name].where(np.isfinite(rows[name]))
    present = tuple(name for name in hyperparameters if name in trials)
    return SourceTrials(
        trials.reset_index(drop=True),
        rows.reset_index(drop=True),
        left_out,
        present,
        axes,
        free,
        tuple(rules),
    )


def _steps(study: StudyResults) -> tuple[frozenset[str], dict[str, float]]:
    """Methods with free steps, and the fewest steps of each. A table tells by its candidate
    rows."""
    if study.spec is not None:
        spaces = {method: study.spec.spaces[method] for method in study.spec.methods}
        free = frozenset(method for method, space in spaces.items() if space.free_steps)
        return free, {method: float(spaces[method].fewest_steps) for method in free}
    offered = study.rows[study.rows["candidate"]]
    early = offered["update"] < offered["steps"]
    varied = study.rows.groupby("method")["steps"].nunique() > 1
    found = set(offered.loc[early, "method"]) | (set(study.rows["method"]) - set(offered["method"]))
    free = frozenset(method for method in found if not varied[method])
    fewest = offered.groupby("method")["update"].min()
    return free, {method: float(fewest.get(method, 0.0)) for method in free}


def _as_in_the_space(trials: pd.DataFrame, method: str, study: StudyResults) -> None:
    """Values of listed hyperparameters as the labels of their axis; none where a condition rules
    the hyperparameter out."""
    assert study.spec is not None
    own = trials["method"] == method
    for name in (name for name in categorical(study.spec, method) if name in trials):
        labels = trials.loc[own, name].map(
            {value: category_name(value) for value in trials.loc[own, name].unique()}
        )
        trials[name] = trials[name].astype(object)
        trials.loc[own, name] = labels.astype(object)
    for name, needed in conditions(study.spec, method).items():
        if name in trials:
            for other, value in needed.items():
                trials.loc[own & (trials[other].map(category_name) != value), name] = None

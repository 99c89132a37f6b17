"""One study, or one foreign table, as trials with a score each: what a trial table is made of.

Candidates for the row that scores a trial are the evaluations that could be deployed: with free
steps those from the fewest steps on, otherwise the one after the last step. Among them the score
rule of the source chooses (`store.score`). Our own studies and tables say which row it chose
(`scored`); for foreign tables the same rule is applied here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from ray_unlearn.analysis.one_score import strength_mode
from ray_unlearn.analysis.read.cells import category_name
from ray_unlearn.analysis.read.evaluation_rows import best_candidates
from ray_unlearn.analysis.read.foreign_table import ForeignResults
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.searched import (
    categorical,
    conditions,
    how_drawn,
    planned_samplers,
    space_axes,
)
from ray_unlearn.analysis.statistics.stopping_regret import checkpoints
from ray_unlearn.spec.evaluation_spec import StrengthMode
from ray_unlearn.store.schema import AS_TRAINED, HALVES
from ray_unlearn.surfaces.axes import Axis, KnownRange
from ray_unlearn.surfaces.trajectories import COMPONENTS

IDENTITY = ("study", "domain", "model", "method", "status")
DIVERGED = ("diverged", "out_of_memory")
ENDED = ("complete", "pruned")
PAST_BEST = "past its best"
"""Reason of a pruned trial whose remaining rows could not have been its best: nothing is lost with
them."""
BEST = "the evaluation with the lowest score on the selection half (ties: fewest updates)"
STOP = (
    "the first evaluation at which the forget NLL reaches that of the vanilla model on the "
    "approximate set (selection half), else the last one"
)
CHANGED = ("forget_nll", f"retain_nll_{HALVES[1]}", f"general_nll_{HALVES[1]}")
"""Columns whose changes are the score's components."""
HINDSIGHT = (
    "the best evaluation of each trial is chosen and scored by the same number, so scores are "
    "optimistic; a column `score_selection` would choose without scoring"
)
PRUNED = (
    "pruned trials are not scored: the last value of each is not that of a whole trial, and no "
    "column tells its step"
)
SEARCHED_STEPS = "the last step, where the number of steps was searched"
STRENGTHS: dict[StrengthMode, tuple[str, ...]] = {
    "trained": (),
    "both": ("as trained or at the strength that meets the forget target, whichever is lower",),
    "target": ("at the strength that meets the forget target",),
}


@dataclass(frozen=True)
class SourceTrials:
    """Trials of one source, numbered from 0 in `trials`.

    Columns as in `trials.TrialTable`, without `group`.
    """

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
    """Which row scores a trial, in words."""
    notes: tuple[str, ...] = ()
    ranges: Mapping[str, KnownRange] = field(default_factory=dict)
    """By hyperparameter of a foreign table, what was searched, where its program says."""


def study_part(study: StudyResults) -> SourceTrials:
    """Trials of one of our own studies."""
    rows = study.rows
    lines = rows.drop_duplicates("number").set_index("number")
    trials = lines[["method", "seed", "status", *study.hyperparameters]].copy()
    trials = trials.assign(
        study=study.key,
        domain=study.domain,
        model=study.model,
        seed=trials["seed"].astype(float),
        number=lines.index,
    )
    sampled_by = lines["sampled_by"]
    if study.spec is not None:
        sampled_by = planned_samplers(study.spec, lines.reset_index()).set_axis(lines.index)
        for method in study.spec.methods:
            _as_in_the_space(trials, method, study)
    trials["drawn"] = sampled_by.map(how_drawn(sampled_by.unique()))
    past_best = (trials["status"] == "pruned") & lines["reason"].str.startswith(PAST_BEST)
    past_best &= study.rescored is None  # rising by other weights is not rising by these
    trials["status"] = trials["status"].where(~past_best, "complete")

    free, fewest = _steps(study)
    evaluated = rows["update"].notna()
    is_free = rows["method"].isin(free)
    candidate = np.where(
        is_free,
        rows["update"] >= rows["method"].map(fewest),
        (rows["update"] == rows["steps"]) & (rows["status"] != "pruned"),
    )
    # Where only models on the target count, a trial without one has not diverged.
    feasible = rows["feasible"] if "feasible" in rows else pd.Series(True, index=rows.index)
    only_target = study.spec is not None and study.spec.evaluation.strength == "target"
    counts = rows["candidate"] | ~feasible | (not only_target)
    vanilla = study.baseline("vanilla")
    target = math.nan if vanilla is None else float(vanilla["approximate_nll_selection"])
    evaluations = pd.DataFrame(
        {
            "trial": rows["number"],
            "update": rows["update"],
            # A row outside the constraints has a score, but scores no trial.
            "score": rows["score_reporting"].where(feasible),
            "score_selection": rows["score_selection"].where(feasible),
            "forget_nll": rows["forget_nll"],
            "forget_gap": rows["forget_gap_reporting"],
            "utility_loss": rows["utility_loss_reporting"],
            "learning_rate_sum": rows["learning_rate_sum"],
            "target_nll": target,
            "candidate": candidate.astype(bool) & counts,
            "strength": rows["strength"],
        }
        | _changes(study)
    )[evaluated & (candidate | ~is_free)]
    chosen = rows.index[rows["scored"] & evaluated]
    sampled_steps = set(trials["method"]) - free
    rules: tuple[str, ...] = ()
    if free & set(trials["method"]):
        rules += (BEST if study.score_rule == "best_row" else STOP,)
    if sampled_steps:
        rules += (SEARCHED_STEPS,)
    rules += STRENGTHS[strength_mode(study)]
    axes = (
        None
        if study.spec is None
        else {method: space_axes(study.spec, method) for method in study.spec.methods}
    )
    trials["outside"] = _outside(study, trials.index)
    return _scored(trials, evaluations, chosen, study.hyperparameters, axes, free, rules)


def _outside(study: StudyResults, numbers: pd.Index) -> pd.Series:
    """Whether a trial has rows with a score, none of them within the study's constraints."""
    if "feasible" not in study.rows:
        return pd.Series(False, index=numbers)
    rows = study.rows[np.isfinite(study.rows["score_selection"])]
    found: pd.Series = ~rows.groupby("number")["feasible"].any()
    return found.reindex(numbers, fill_value=False)


def _changes(study: StudyResults) -> dict[str, pd.Series | float]:
    """What the score of each row is made of, and what would meet the targets, nats/token.

    Columns `COMPONENTS`, `chosen_by` and `valued_by` (`trajectories`). Nothing where another
    strength than that of the trained states may score a trial: its rows are not on these curves.
    """
    vanilla = study.baseline("vanilla")
    calibrated = (study.rows["strength"].dropna() != AS_TRAINED).any()
    if vanilla is None or calibrated:
        return {}
    start = float(vanilla["forget_nll"])
    chosen_by, valued_by = (float(vanilla[f"approximate_nll_{half}"]) - start for half in HALVES)
    changes: dict[str, pd.Series | float] = {"chosen_by": chosen_by, "valued_by": valued_by}
    for component, name in zip(COMPONENTS, CHANGED, strict=True):
        changes[component] = study.rows[name] - float(vanilla[name])
    return changes


def foreign_part(foreign: ForeignResults) -> SourceTrials:
    """Trials of a foreign table; every evaluation with a score is a candidate.

    But not the last value of a pruned trial whose steps are not known: others ran longer.
    """
    drawn = foreign.trials["sampler"].map(how_drawn(foreign.trials["sampler"].unique()))
    trials = foreign.trials.drop(columns=["sampler", "evaluations"]).assign(drawn=drawn)
    pruned = (trials["status"] == "pruned").to_numpy()[foreign.rows["trial"]]
    unscored = pruned & foreign.rows["update"].isna()
    rows = foreign.rows.assign(candidate=~unscored)
    searched_steps = "steps" in foreign.hyperparameters
    if searched_steps:
        last = rows.groupby("trial")["update"].transform("max")
        rows["candidate"] &= (rows["update"] == last) | rows["update"].isna()
    halves = "score_selection" in rows
    if not halves:
        rows["score_selection"] = rows["score"]
    if foreign.score_rule == "best_row":
        chosen = best_candidates(rows, "trial")
        rule = f"the evaluation with the lowest `{'score_selection' if halves else foreign.score}`"
    else:
        chosen = pd.Index(checkpoints(rows[rows["candidate"]])["row"])
        rule = "the first evaluation at which `forget_nll` reaches `target_nll`, else the last one"
    several = bool((foreign.trials["evaluations"] > 1).any())
    if searched_steps or not several:
        rule = SEARCHED_STEPS if several else "the only evaluation of each trial"
    free = frozenset() if searched_steps else frozenset(trials["method"])
    hindsight = several and not searched_steps and not halves and foreign.score_rule == "best_row"
    notes: tuple[str, ...] = (f"{foreign.name}: {HINDSIGHT}",) if hindsight else ()
    if unscored.any():
        notes += (f"{foreign.name}: {rows.loc[unscored, 'trial'].nunique()} {PRUNED}",)
    part = _scored(trials, rows, chosen, foreign.hyperparameters, None, free, (rule,), notes)
    return replace(part, ranges=foreign.ranges)


def _scored(
    trials: pd.DataFrame,
    rows: pd.DataFrame,
    chosen: pd.Index,
    hyperparameters: tuple[str, ...],
    axes: dict[str, dict[str, Axis]] | None,
    free: frozenset[str],
    rules: tuple[str, ...],
    notes: tuple[str, ...] = (),
) -> SourceTrials:
    """Trials with the score of their chosen row; those without an outcome are left out.

    Args:
        trials: index as `trial` in `rows`.
        rows: evaluations; `candidate` where one could be deployed.
        chosen: index labels in `rows` of the row that scores each trial; none for a trial of which
            no candidate is finite.
        hyperparameters, axes, free, rules, notes: as in `SourceTrials`.
    """
    diverged = trials["status"].isin(DIVERGED)
    ended = trials["status"].isin(ENDED)
    offered = trials.index.isin(rows.loc[rows["candidate"], "trial"])
    at = rows.loc[chosen].set_index("trial")
    scores = at[["score", "score_selection"]].reindex(trials.index).astype(float)
    finite = np.isfinite(scores.to_numpy()).all(axis=1)
    trials = trials.assign(
        infeasible=diverged | (ended & offered & ~finite),
        update=at["update"].reindex(trials.index).where(~diverged),
        score=scores["score"],
        score_selection=scores["score_selection"],
    )
    if "strength" in at:
        trials["strength"] = at["strength"].reindex(trials.index).where(~diverged)
    trials["crossed"] = _crossed(at).reindex(trials.index).where(~diverged, None)
    trials.loc[trials["infeasible"], ["score", "score_selection"]] = math.nan
    # A trial that ended well by its program, but whose checkpoint is not finite, has diverged; one
    # that is known to be outside the constraints has not.
    known = trials.pop("outside") if "outside" in trials else diverged
    trials.loc[trials["infeasible"] & ~diverged & ~known, "status"] = "diverged"

    why = pd.Series("", index=trials.index, dtype=object)
    why[~offered & ~diverged] = "no evaluation that could be deployed"
    why[trials["status"] == "failed"] = "failed"
    why[trials["status"] == "running"] = "no outcome yet"
    left_out = (
        trials.loc[why != "", list(IDENTITY)].assign(why=why[why != ""]).reset_index(drop=True)
    )
    trials = trials[why == ""]
    numbers = pd.Series(np.arange(len(trials)), index=trials.index)
    rows = rows[rows["trial"].isin(trials.index)]
    if "strength" in rows:  # a trajectory is made of what was trained
        rows = rows[rows["strength"] == AS_TRAINED].drop(columns="strength")
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
        rules,
        notes,
    )


def _crossed(at: pd.DataFrame) -> pd.Series:
    """Whether the forget NLL of each row reached the target: True, False, or None if unknown."""
    if not {"forget_nll", "target_nll"} <= set(at):
        return pd.Series(None, index=at.index, dtype=object)
    known = at["forget_nll"].notna() & at["target_nll"].notna()
    # An object column: None in a column of booleans would become NaN.
    return (at["forget_nll"] >= at["target_nll"]).astype(object).where(known, None)


def _steps(study: StudyResults) -> tuple[frozenset[str], dict[str, float]]:
    """Methods with free steps, and the fewest steps of each.

    For a table they follow from its candidate rows.
    """
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
    """Give listed hyperparameters the labels of their axis.

    None where a condition rules the hyperparameter out.
    """
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

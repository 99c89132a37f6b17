"""The trial table: one line per trial, the unit of every claim, from studies and foreign tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ray_unlearn.analysis.one_score import (
    feasible_notes,
    one_objective,
    one_score,
    one_score_rule,
    one_strength,
    rescored_notes,
    score_unit,
    screened_notes,
)
from ray_unlearn.analysis.read.foreign_table import ForeignResults
from ray_unlearn.analysis.read.study_results import Results
from ray_unlearn.analysis.searched import combined, seen_axis
from ray_unlearn.analysis.tolerance import tolerance_of, vanilla_gap, vanilla_score
from ray_unlearn.analysis.trained_models import trained_models
from ray_unlearn.analysis.trial_parts import SourceTrials, foreign_part, study_part
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.guideline_file import ScoreInfo
from ray_unlearn.spec.method_registry import METHODS
from ray_unlearn.store.schema import AS_TRAINED
from ray_unlearn.store.table import CONFIG_COLUMNS
from ray_unlearn.surfaces.axes import Axis, KnownRange

LEFT_OUT = ("study", "domain", "model", "method", "status", "why", "group")


@dataclass(frozen=True)
class TrialTable:
    """All trials of a report.

    trials: one line per trial, columns
        trial            unique number over all studies (0, 1, ...)
        number           in its study's ledger (NaN for a foreign table); absent without studies
        label            its name in a foreign table; absent without such tables
        study, domain, model
        group            domain x trained model: the domain's name, with the model's where some
                         domain has several
        method           "" where the table has none
        seed             float, NaN where unknown
        status           outcome (`store.schema.OUTCOMES`; "complete" where a table does not say)
        infeasible       bool: diverged, out of memory, no finite score at its scoring row, or no
                         row within the study's constraints
        drawn            "space" (quasi-random, random, grid), "adaptive" or "unknown"
        update           of the row that scores the trial (NaN where steps are unknown)
        strength         of that row; absent where all are as trained
        crossed          whether the forget ppl reached the target there; None: not known
        score            of that row, on the reporting half; lower is better; NaN if infeasible
        score_selection  of that row, on the selection half (`score` in a table without halves)
        and one column per hyperparameter.
    rows: the evaluation rows with `trial`, `update`, `score`, `score_selection`, `forget_nll` and,
        where known, `forget_gap`, `utility_loss`, `learning_rate_sum`, `target_nll`, the changes
        that the score is made of and its targets (`trial_parts`); by trial and update.
    axes: by method, the hyperparameters that vary, in a fixed order.
    score: name, direction (scores here are turned so that lower is better), tolerance, score rule.
    left_out: trials that say nothing about their configuration: failed, still running, or without
        an evaluation that could be deployed; one line each with study, domain, model, group,
        method, status, `why`.
    notes: what a reader must know about how the table was made.

    `score` is finite exactly where a trial is not infeasible. A pruned trial that had passed its
    best row counts as complete. Rows before the fewest free steps are not in `rows`; `candidate` is
    False for rows of a searched number of steps before the last one, which could not be deployed.
    A row's score is NaN where it was not finite. The order and the numbers of trials do not depend
    on the order of lines in a file.
    """

    trials: pd.DataFrame
    rows: pd.DataFrame
    axes: dict[str, tuple[Axis, ...]]
    score: ScoreInfo
    left_out: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(LEFT_OUT)))
    notes: tuple[str, ...] = ()
    nothing: Mapping[str, float] = field(default_factory=dict)
    """By group, the score of doing nothing (the vanilla model's), where it is known: nobody deploys
    a worse trial."""
    vanilla_gap: Mapping[str, float] = field(default_factory=dict)
    """By group, the vanilla model's forget gap (reporting half), where it is known and above 0."""
    foreign_hyperparameters: tuple[str, ...] = ()
    """Those of foreign tables, varied or not."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods with trials, in the order of `axes`."""
        return tuple(self.axes)

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups in the order of their first trial."""
        return tuple(dict.fromkeys(self.trials["group"]))

    def of(self, method: str, group: str | None = None) -> pd.DataFrame:
        """Trials of a method, in one group or in all."""
        chosen = self.trials["method"] == method
        if group is not None:
            chosen &= self.trials["group"] == group
        return self.trials[chosen]

    def as_given(self, score: Any) -> Any:
        """A score, or a difference of scores, in the direction it was given in.

        Numbers, arrays and columns. Accuracies stay positive for people. A regret is positive in
        either direction, and is not turned.
        """
        return score if self.score.direction == "minimize" else -score


def trial_table(results: Results, *, tolerance: float | None = None) -> TrialTable:
    """The trials of all studies and foreign tables.

    Args:
        results: what `table.load` read.
        tolerance: tau, in units of the score; None: see `tolerance`.

    Raises:
        UserError: scores that cannot be compared, a hyperparameter that is a range here and a list
            there, a tolerance that is not above 0, or no trial with an outcome.
    """
    studies = sorted(
        results.studies,
        key=lambda study: (study.name, study.domain, study.model, study.source_digest),
    )
    foreign = sorted(results.foreign, key=lambda table: (table.name, table.source_digest))
    name, direction = one_score(results)
    parts = [*map(study_part, studies), *map(foreign_part, foreign)]
    trials, rows = _stacked(parts)
    left_out = pd.concat([part.left_out for part in parts], ignore_index=True)
    if trials.empty:
        raise UserError(
            f"none of the {len(left_out)} trials has an outcome and an evaluation; report on them "
            "later"
        )
    everyone = pd.concat([trials[["domain", "model"]], left_out[["domain", "model"]]])
    several = {
        "domain": everyone["domain"].nunique() > 1,
        "model": trained_models(everyone) > 1,
    }
    for frame in (trials, left_out):
        frame["group"] = _groups(frame, several)
    axes, notes = _axes(trials, parts)
    hyperparameters = tuple(dict.fromkeys(name for part in parts for name in part.hyperparameters))
    tau, source = tolerance_of(studies, trials, hyperparameters, tolerance)
    score = ScoreInfo(
        name=name,
        direction=direction,
        weights=results.weights,
        score_rule=one_score_rule(results),
        strength=one_strength(results),
        objective=one_objective(results) or None,
        unit=score_unit(studies[0]) if studies else "",
        tolerance=tau,
        tolerance_source=source,
        checkpoint_rule="; ".join(dict.fromkeys(rule for part in parts for rule in part.rules)),
    )
    notes += [note for study in studies for note in rescored_notes(study, trials)]
    notes += [note for study in studies for note in feasible_notes(study)]
    notes += [note for study in studies for note in screened_notes(study)]
    notes += [note for table in foreign for note in table.notes]
    notes += [note for part in parts for note in part.notes]
    nothing = _by_group(trials, {study.key: vanilla_score(study) for study in studies})
    nothing |= _untouched(foreign, several, set(trials["group"]))
    gaps = _by_group(trials, {study.key: vanilla_gap(study) for study in studies})
    gaps = {group: gap for group, gap in gaps.items() if gap > 0}
    theirs = tuple(dict.fromkeys(name for table in foreign for name in table.hyperparameters))
    return TrialTable(trials, rows, axes, score, left_out, tuple(notes), nothing, gaps, theirs)


def _by_group(trials: pd.DataFrame, of: dict[str, float]) -> dict[str, float]:
    """A number of each study as one of each group: the mean over its trials.

    Groups in which no study has it are left out.
    """
    known = trials["study"].map(of).groupby(trials["group"]).mean().dropna()
    return {str(group): float(value) for group, value in known.items()}


def _untouched(
    foreign: Sequence[ForeignResults], several: dict[str, bool], groups: set[str]
) -> dict[str, float]:
    """By group, the mean score of the model that nothing was done to, in foreign tables.

    A line that names neither domain nor model counts for all.
    """
    found = pd.concat([table.untouched for table in foreign]) if foreign else pd.DataFrame()
    if found.empty:
        return {}
    everywhere = (found["domain"] == "") & (found["model"] == "")
    scores = found["score"].groupby(_groups(found, several)).mean()
    known = {str(group): float(score) for group, score in scores.items() if group in groups}
    if everywhere.any():
        mean = float(found.loc[everywhere, "score"].mean())
        known = dict.fromkeys(groups, mean) | known
    return known


def _range_of(name: str, parts: list[SourceTrials]) -> KnownRange | None:
    """What sources without a search space say of a hyperparameter; None unless all do alike."""
    known = {part.ranges.get(name) for part in parts if name in part.hyperparameters}
    return known.pop() if len(known) == 1 else None


def _stacked(parts: list[SourceTrials]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All trials, numbered through in `trial`, and their rows."""
    starts = np.cumsum([0, *(len(part.trials) for part in parts)])
    filled = [part for part in parts if len(part.trials)]
    if not filled:
        return pd.DataFrame(), pd.DataFrame()
    trials = pd.concat([part.trials for part in filled], ignore_index=True)
    rows = [
        part.rows.assign(trial=part.rows["trial"] + start)
        for part, start in zip(parts, starts, strict=False)
    ]
    known = [
        "study",
        "domain",
        "model",
        "method",
        "seed",
        "status",
        "infeasible",
        "drawn",
        "update",
        "crossed",
        "score",
        "score_selection",
    ]
    trials = trials[known + [name for name in trials if name not in known]]
    trials.insert(0, "trial", np.arange(len(trials)))
    if "label" in trials:
        trials.insert(1, "label", trials.pop("label").fillna(""))
    if "strength" in trials:
        strengths = trials.pop("strength").astype(float)
        if (strengths.dropna() != AS_TRAINED).any():
            trials.insert(list(trials).index("update") + 1, "strength", strengths)
    if "number" in trials:
        trials.insert(1, "number", trials.pop("number").astype(float))
    trials["crossed"] = trials["crossed"].astype(object).where(trials["crossed"].notna(), None)
    return trials, pd.concat([part for part in rows if len(part)] or rows[:1], ignore_index=True)


def _groups(frame: pd.DataFrame, several: dict[str, bool]) -> pd.Series:
    """The domain, and the model where some domain has several."""
    if several["model"] and several["domain"]:
        return frame["domain"] + " (" + frame["model"] + ")"
    return frame["model"] if several["model"] else frame["domain"]


def _axes(
    trials: pd.DataFrame, parts: list[SourceTrials]
) -> tuple[dict[str, tuple[Axis, ...]], list[str]]:
    """Axes by method, and what was not made one.

    Bounds of search spaces, where there are any, are taken to hold for all; what is left is seen in
    the trials.
    """
    found = set(trials["method"])
    methods = [*(name for name in METHODS if name in found), *sorted(found - set(METHODS))]
    axes: dict[str, tuple[Axis, ...]] = {}
    notes: list[str] = []
    blind = [part for part in parts if part.axes is None]
    names = {name for part in blind for name in part.hyperparameters}
    order = [
        *(name for name in CONFIG_COLUMNS if name in names),
        *sorted(names - set(CONFIG_COLUMNS)),
    ]
    for method in methods:
        own = trials[trials["method"] == method]
        known = [
            part.axes[method] for part in parts if part.axes is not None and method in part.axes
        ]
        candidates = {
            name: [one[name] for one in known if name in one] for one in known for name in one
        }
        free = any(method in part.free_steps for part in parts)
        kept: dict[str, Axis] = {}
        for name in [*candidates, *(name for name in order if name not in candidates)]:
            if name not in own or (name == "steps" and free):
                continue
            axis = (
                combined(candidates[name])
                if name in candidates
                else seen_axis(name, own[name].infer_objects(), _range_of(name, blind))
            )
            if axis is not None:
                absent = own[name].isna() | (own[name].astype(object) == "")
                if axis.scale == "log":
                    absent |= own[name].astype(float) <= 0
                if absent.any():
                    notes.append(
                        f"{name} of {method or 'the table'} is not analysed: {int(absent.sum())} "
                        f"of {len(own)} trials have "
                        "no value on its axis (it is conditional, or not recorded)"
                    )
                    continue
                kept[name] = axis
        axes[method] = tuple(kept.values())
    return axes, notes

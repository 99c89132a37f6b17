"""The score of a trial: at which of its rows it is taken, and which trial is therefore the best.

Search, status, tables, verdict, guidelines, export and confirmation all ask `ScoreRule`; nobody
else decides. Only *candidate* rows can score a trial: those that could be deployed without
hindsight. With free steps every row from the fewest steps on *is* a configuration (its own number
of steps); otherwise only the row after the last step is. Among the candidates,

    best_row   takes the one with the lowest score on the selection half (ties: fewest updates),
    stop_rule  takes the first one whose forget NLL reaches that of the vanilla model on the
               approximate set, log ppl_0(A) of the selection half, else the last one
               (Yao et al., arXiv 2402.15159, compare against the same level); rows as trained only.

A row outside the bounds of `objective.subject_to` (`store.objective`) is infeasible: it is no
candidate, whatever its score. A trial without a feasible candidate has no score. It has not
diverged: how far it is outside is known (`nearest_row`), and searchers and early stopping compare
such trials by that.

With `evaluation.strength: both` a calibrated row, at another strength than 1, is a row like any
other; with `target` only rows that meet the target are candidates.

The choice is made on the selection half; reports quote the reporting half of the same row.
A trial that diverged, ran out of memory or failed has no score: it is counted, not ranked.
A trial that early stopping ended has one only with free steps.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_unlearn.spec.objective_spec import ScoreRuleName
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import hyperparameters_in
from ray_unlearn.store.objective import SELECTION, Objective
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.schema import Row, is_as_trained, row_key, whole_row
from ray_unlearn.store.target import TARGET_TOLERANCE

OBJECTIVE = "score_selection"
PARETO_OBJECTIVES = ("forget_gap_selection", "utility_loss_selection")
TARGET = "approximate_nll_selection"
"""Column of the vanilla baseline that the stopping rule compares forget NLLs with."""
NOWHERE = (math.inf, math.inf)
"""Standing of a trial without a finite score: behind all others."""


def scoring_index(
    rule: ScoreRuleName,
    scores: Sequence[float],
    forget_nlls: Sequence[float] = (),
    target_nll: float = math.nan,
) -> int | None:
    """Position of the row that scores a trial among its candidate rows, given in rising update.

    Args:
        rule: `best_row` or `stop_rule`.
        scores: of each candidate row, on the selection half; lower is better.
        forget_nlls: of each candidate row, nats/token; read by `stop_rule` only.
        target_nll: log ppl_0(A) on the selection half, nats/token; NaN when it is unknown.

    Returns:
        None when there is no candidate, or for `best_row` none with a finite score. The row that
        `stop_rule` takes may have a score that is not finite: then the trial has diverged.
    """
    if rule == "stop_rule":
        crossed = (i for i, nll in enumerate(forget_nlls) if nll >= target_nll)
        return next(crossed, len(scores) - 1) if len(scores) else None
    finite = [i for i, score in enumerate(scores) if math.isfinite(score)]
    return min(finite, key=lambda i: (scores[i], i)) if finite else None


@dataclass(frozen=True)
class Configuration:
    """A configuration as the study found it."""

    trial: Trial
    row: Row
    """The row that scores the trial: with free steps its update is the number of steps."""

    @property
    def calibrated(self) -> bool:
        """Whether the row is at the strength that meets the target."""
        return not is_as_trained(self.row)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """All of them; `steps` is the update of the row."""
        return hyperparameters_in(self.trial.config) | {"steps": self.row["update"]}


class ScoreRule:
    """Which row of a trial its score is taken at; see the module.

    Args:
        spec: of the study; `objective.score_rule` names the rule.
        baselines: rows by name, as in `Record.baselines`; may be filled later.
    """

    def __init__(self, spec: StudySpec, baselines: Mapping[str, Row]) -> None:
        self._spec = spec
        self._baselines = baselines
        self.objective = Objective.of(spec)
        """What makes the score of a row, and which rows are feasible."""

    @classmethod
    def of(cls, record: Record, spec: StudySpec) -> "ScoreRule":
        """The rule of a study, by the baselines of its ledger."""
        return cls(spec, record.baselines)

    @property
    def spec(self) -> StudySpec:
        """The study it belongs to."""
        return self._spec

    @property
    def baselines(self) -> Mapping[str, Row]:
        """Rows of the models that no trial changed, by name."""
        return self._baselines

    @property
    def name(self) -> ScoreRuleName:
        """As the study file writes it."""
        return self._spec.objective.score_rule

    @property
    def target_nll(self) -> float:
        """log ppl_0(A) on the selection half, nats/token; NaN before the baselines are known."""
        return float(self._baselines.get("vanilla", {}).get(TARGET, math.nan))

    def violation(self, row: Row, half: str = SELECTION) -> float:
        """How far a row is outside the constraints, as `Objective.violation`; 0: feasible."""
        return self.objective.violation(whole_row(row), half) if self.objective.constraints else 0.0

    def candidates(self, trial: Trial) -> list[Row]:
        """Feasible rows of a finished trial that stand for a configuration, rising in update."""
        return self._feasible(self.configuration_rows(trial))

    def row(self, trial: Trial) -> Row | None:
        """The row that scores a finished trial; None when it has no score."""
        return self._chosen(self.candidates(trial))

    def nearest_row(self, trial: Trial) -> Row | None:
        """The row of a finished trial without a feasible one that is the least outside.

        None where the trial has a feasible row, or no row that stands for a configuration.
        """
        rows = self.configuration_rows(trial)
        return None if self._feasible(rows) else min(rows, key=self._by_violation, default=None)

    def outside(self, trial: Trial) -> str:
        """The constraints that the nearest row of an infeasible trial breaks, and by how much."""
        row = self.nearest_row(trial) if self.objective.constraints else None
        return "" if row is None else "; ".join(self.objective.broken(whole_row(row)))

    def why_none(self, record: Record) -> str:
        """What keeps a study without a best trial from having one."""
        outside = [
            (self.violation(row), trial.number, self.outside(trial))
            for trial in record.finished
            if self.objective.constraints and (row := self.nearest_row(trial)) is not None
        ]
        if not outside:
            return "no finished trial has a score"
        _, number, broken = min(outside)
        return f"no trial is within the constraints; nearest is trial {number}: {broken}"

    def _by_violation(self, row: Row) -> tuple[float, float]:
        return self.violation(row), row[OBJECTIVE]

    def _feasible(self, rows: list[Row]) -> list[Row]:
        return [row for row in rows if self.violation(row) == 0.0]

    def configuration_rows(self, trial: Trial) -> list[Row]:
        """Rows of a finished trial that stand for a configuration, feasible or not."""
        if trial.status not in ("complete", "pruned"):
            return []
        if trial.status == "pruned" and not self._spec.spaces[trial.method].free_steps:
            return []
        rows = (row for row in trial.rows if self._is_configuration(row, trial))
        return sorted(rows, key=row_key)

    def row_so_far(self, rows: Iterable[Row], trial: Trial, update: int) -> Row | None:
        """The row as trained that would score a running trial if it ended well at `update`.

        Early stopping compares these; calibrated rows come after the verdict, and not at every
        update.

        Args:
            rows: the trial's rows, in any order.
            trial: whose.
            update: rows after it are left out; the one at `update` counts in any case.
        """
        return self._chosen(self._feasible(self._so_far(rows, trial, update)))

    def standing(self, rows: Iterable[Row], trial: Trial, update: int) -> tuple[float, float]:
        """What trials are compared by at `update`: how far outside the constraints, then the score.

        Lower is better. Those of the row that would score the trial; without a feasible one those
        of the row that is the least outside. Infinities where no score is finite.

        Args:
            rows, trial, update: as in `row_so_far`.
        """
        known = self._so_far(rows, trial, update)
        chosen = self._chosen(self._feasible(known))
        if chosen is not None:
            score = chosen[OBJECTIVE]
            return (0.0, float(score)) if math.isfinite(score) else NOWHERE
        outside = [row for row in known if math.isfinite(row[OBJECTIVE]) and self.violation(row)]
        return min(map(self._by_violation, outside), default=NOWHERE)

    def _so_far(self, rows: Iterable[Row], trial: Trial, update: int) -> list[Row]:
        space = self._spec.spaces[trial.method]
        first = min(space.fewest_steps, update) if space.free_steps else update
        known = (row for row in rows if first <= row["update"] <= update and is_as_trained(row))
        return sorted(known, key=row_key)

    def meets_target(self, row: Row) -> bool:
        """Whether the row is calibrated, or as good as that as trained."""
        return not is_as_trained(row) or bool(
            abs(row["forget_nll"] - self.target_nll) <= TARGET_TOLERANCE
        )

    def is_settled(self, row: Row, trial: Trial) -> bool:
        """Whether the trial, which may still run, keeps this row as a candidate worth its weights.

        `best_row`: any candidate, if the trial ends well. `stop_rule`: only a row that no later one
        can replace, so the first that reached the target, or the one after the last step.
        """
        if not self._is_deployable(row, trial):
            return False
        if self.name == "best_row" or not self._spec.spaces[trial.method].free_steps:
            return True
        chosen = self.row_so_far((*trial.rows, row), trial, row["update"])
        if chosen is None or row_key(chosen) != row_key(row):
            return False
        crossed = bool(row["forget_nll"] >= self.target_nll)
        return crossed or bool(row["update"] == trial.config["steps"])

    def row_to_keep(self, record: Record, method: str | None = None) -> tuple[Trial, Row] | None:
        """The settled row with the lowest score, of running trials too: its weights are kept.

        Over the study, or of one method.
        """
        rows = (
            (trial, row)
            for trial in record.trials.values()
            if trial.status in (None, "complete", "pruned") and method in (None, trial.method)
            for row in trial.rows
            if self.is_settled(row, trial)
        )
        return min(rows, key=_by_score, default=None)

    def best(self, record: Record, method: str | None = None) -> tuple[Trial, Row] | None:
        """The best trial and its row, over the study or one method; ties: the lowest number."""
        return min(self._scored(record, method), key=_by_score, default=None)

    def top(self, record: Record, count: int, per_method: bool = False) -> list[Configuration]:
        """The configurations with the lowest score, each once.

        Trials that differ in their seed only are one configuration, with the seed that scored best:
        with free steps too, where the rows that score them may differ in update.

        Args:
            record: of the study.
            count: how many, over all methods or of each; there may be fewer.
            per_method: `count` of each method, in the study's order.
        """
        distinct: dict[tuple[Any, ...], Configuration] = {}
        for trial, row in sorted(self._scored(record), key=_by_score):
            key = (trial.method, *sorted(hyperparameters_in(trial.config).items()))
            distinct.setdefault(key, Configuration(trial, row))
        found = list(distinct.values())
        if not per_method:
            return found[:count]
        return [
            configuration
            for method in self._spec.methods
            for configuration in [c for c in found if c.trial.method == method][:count]
        ]

    def _scored(self, record: Record, method: str | None = None) -> list[tuple[Trial, Row]]:
        return [
            (trial, row)
            for trial in record.finished
            if (method is None or trial.method == method) and (row := self.row(trial)) is not None
        ]

    def _is_deployable(self, row: Row, trial: Trial) -> bool:
        return self._is_configuration(row, trial) and self.violation(row) == 0.0

    def _is_configuration(self, row: Row, trial: Trial) -> bool:
        space = self._spec.spaces[trial.method]
        if not self._has_wanted_strength(row):
            return False
        first = space.first_candidate(trial.config["steps"])
        return bool(row["update"] >= first and math.isfinite(row[OBJECTIVE]))

    def _has_wanted_strength(self, row: Row) -> bool:
        if self.name == "stop_rule" or self._spec.evaluation.strength == "trained":
            return is_as_trained(row)
        return self._spec.evaluation.strength == "both" or self.meets_target(row)

    def _chosen(self, rows: list[Row]) -> Row | None:
        nlls = [row["forget_nll"] for row in rows] if self.name == "stop_rule" else ()
        scores = [row[OBJECTIVE] for row in rows]
        index = scoring_index(self.name, scores, nlls, self.target_nll)
        return None if index is None else rows[index]


def _by_score(pair: tuple[Trial, Row]) -> tuple[float, int, int, float]:
    trial, row = pair
    return row[OBJECTIVE], trial.number, *row_key(row)

"""The best score so far against trials and worker time, and the level that it should reach.

Terminal, notebook and live page draw this one record (`score_picture`).
"""

import math
from dataclasses import dataclass, field

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.record import Trial
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import Row
from ray_unlearn.store.score import OBJECTIVE, ScoreRule

RETRAINED = "the exactly retrained model"
NOTHING_LOST = "target met, nothing lost"
GOAL = "the goal"


@dataclass(frozen=True)
class Improvement:
    """A trial whose score was the lowest until then."""

    trials: int
    """Trials with an outcome, this one included."""
    worker_s: float
    """Worker seconds of those trials."""
    score: float
    """On the selection half; lower is better."""
    number: int
    method: str


@dataclass(frozen=True)
class BestSoFar:
    """How far the search has come: the finished trials in the order they were asked for."""

    improvements: list[Improvement] = field(default_factory=list)
    trials: int = 0
    """Trials with an outcome, with or without a score."""
    worker_s: float = 0.0
    vanilla: float | None = None
    """Score of the model that nothing changed; None where it is not known."""
    target: float | None = None
    """The level to reach; None where the objective has none (a metric as low as can be)."""
    target_is: str = ""
    """What has that score, in words."""

    @property
    def score(self) -> float | None:
        """The best so far; None before a trial has a score."""
        return self.improvements[-1].score if self.improvements else None

    def at(self, trials: int) -> float | None:
        """The best score after so many trials, with that of the vanilla model before the first."""
        known = [one.score for one in self.improvements if one.trials <= trials]
        return known[-1] if known else self.vanilla


def best_so_far(ended: dict[int, tuple[Trial, Row | None]], rule: ScoreRule) -> BestSoFar:
    """The record of a study's finished trials.

    Args:
        ended: by number, a trial and the row that scores it; None: it has no score.
        rule: of the study.
    """
    workers, seconds = rule.spec.operations.workers_per_lane, 0.0
    found: list[Improvement] = []
    for count, (number, (trial, row)) in enumerate(sorted(ended.items()), 1):
        seconds += _seconds(trial) * workers
        if row is not None and (not found or row[OBJECTIVE] < found[-1].score):
            found.append(Improvement(count, seconds, row[OBJECTIVE], number, trial.method))
    scores = baseline_scores(rule)
    target, words = _target(rule, scores)
    return BestSoFar(found, len(ended), seconds, scores.get("vanilla"), target, words)


def baseline_scores(rule: ScoreRule) -> dict[str, float]:
    """The scores of the vanilla and the exactly retrained model, as far as they are finite."""
    rows = rule.baselines
    if "vanilla" not in rows:
        return {}
    baselines = Baselines(rows["vanilla"], rows.get("exact_retrain"))
    found = {}
    for name in ("vanilla", "exact_retrain"):
        try:
            score = scored(
                dict(rows[name].items()), baselines, rule.spec.objective.weights, rule.objective
            )[OBJECTIVE]
        except (KeyError, TypeError, StorageError):  # not measured, or not measured yet
            continue
        if math.isfinite(score):
            found[name] = float(score)
    return found


def _target(rule: ScoreRule, scores: dict[str, float]) -> tuple[float | None, str]:
    if "exact_retrain" in scores:
        return scores["exact_retrain"], RETRAINED
    if rule.objective.aim is None:
        return 0.0, NOTHING_LOST
    return (0.0, GOAL) if rule.objective.aim[0] == "approach" else (None, "")


def _seconds(trial: Trial) -> float:
    """Seconds in updates and evaluation, by the trial's last row."""
    last = max(trial.rows, key=lambda row: row["update"], default={})
    seconds = [last.get(name, 0.0) for name in ("wall_s", "evaluation_wall_s")]
    return sum(one for one in seconds if one is not None and math.isfinite(one))

"""Gap, utility loss and score of a row, from its metrics and the study's baselines.

Lower is better everywhere.
"""

import math
from dataclasses import dataclass
from typing import Any

from ray_unlearn.spec.score_weights import ScoreWeights
from ray_unlearn.store.objective import Objective
from ray_unlearn.store.schema import HALVED_SETS, HALVES, Row
from ray_unlearn.store.target import ForgetTarget

EQUAL_WEIGHTS = ScoreWeights()
WEIGHTED_SUM = Objective()


@dataclass(frozen=True)
class Baselines:
    """Metrics of models that no trial changed, measured once before the first trial.

    vanilla: P_0 on every set; its nll on the approximate set A is the target for the forget set.
    exact_retrain: the model retrained without U, where there is one.
    retraining_flops: what retraining would cost; 0 when unknown.
    """

    vanilla: Row
    exact_retrain: Row | None = None
    retraining_flops: float = 0.0

    def target_nll(self, half: str) -> float:
        """log ppl_0(A): the approximate-retraining target for log ppl(U), in nats per token."""
        return float(self.vanilla[f"approximate_nll_{half}"])

    @property
    def forget_target(self) -> ForgetTarget:
        """What trained states are calibrated to."""
        return ForgetTarget(float(self.vanilla["forget_nll"]), self.target_nll("selection"))


def weighted_score(forget_gap: Any, retain: Any, general: Any, weights: ScoreWeights) -> Any:
    """w_gap forget_gap + 1/2 (w_retain retain + w_general general), numbers or arrays.

    Args:
        forget_gap: |log ppl(U) - log ppl_0(A)|, nats/token.
        retain: utility loss on retain text, nats/token.
        general: utility loss on general text, nats/token.
        weights: of the three.
    """
    utility = weights.retain * retain + weights.general * general
    return weights.forget_gap * forget_gap + utility / 2


def scored(
    row: Row,
    baselines: Baselines,
    weights: ScoreWeights = EQUAL_WEIGHTS,
    objective: Objective = WEIGHTED_SUM,
) -> Row:
    """`row` with gap, utility loss, score, distance to exact retraining and efficiency ratio added.

    All differences are of log perplexities (token-mean nll), in nats per token:
        forget_gap   = |log ppl(U) - log ppl_0(A)|
        utility_loss = 1/2 sum over S in {retain, general} of max(0, log ppl(S) - log ppl_0(S))
        score        = w_gap forget_gap + 1/2 sum over S of w_S max(0, log ppl(S) - log ppl_0(S))
    where the objective is one metric, the score is made of that instead.
    A non-finite input gives a non-finite score: the trial has diverged, and is not good or bad.
    """
    row = dict(row)
    for half in HALVES:
        gap = abs(row["forget_nll"] - baselines.target_nll(half))
        losses = {
            name: _rise(row, baselines.vanilla, f"{name}_nll_{half}")
            for name in ("retain", "general")
        }
        row[f"forget_gap_{half}"] = gap
        row[f"utility_loss_{half}"] = (losses["retain"] + losses["general"]) / 2
        row[f"score_{half}"] = weighted_score(gap, losses["retain"], losses["general"], weights)
        if baselines.exact_retrain is not None:
            names = ["forget_nll", *(f"{name}_nll_{half}" for name in HALVED_SETS)]
            distances = [abs(row[name] - baselines.exact_retrain[name]) for name in names]
            row[f"exact_distance_{half}"] = sum(distances) / len(distances)
    if baselines.retraining_flops and row.get("flops"):
        row["efficiency_ratio"] = baselines.retraining_flops / row["flops"]
    for half in HALVES:
        score = objective.score(row, half)
        if score is not None:
            row[f"score_{half}"] = score
    return row


def _rise(row: Row, vanilla: Row, name: str) -> float:
    difference = float(row[name] - vanilla[name])
    return difference if math.isnan(difference) else max(0.0, difference)

"""TOFU's truth ratio, probability, forget quality and model utility (Maini et al. 2024).

arXiv 2401.06121, section 2.2. P(a)^(1/|a|), the probability of an answer to the power of one over
its tokens, is exp of the mean log-probability of its tokens.

Shapes: D documents of a set, A answers to all of them; `owner` [A] is the document of an answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.store.schema import Metrics
from ray_unlearn.unlearn.metrics import Floats

Owner = NDArray[np.int32]
UTILITY_PARTS = ("probability", "rouge_l", "truth_ratio")
"""Columns of each set that model utility is made of."""


@dataclass(frozen=True)
class Truth:
    """Mean log-probability per token of a set's answers: true, wrong, and in other words."""

    own: Floats
    """[D]"""
    wrong: tuple[Floats, Owner]
    paraphrased: tuple[Floats, Owner] | None = None

    @property
    def log_ratios(self) -> Floats:
        """log R, [D], against the true answer where there is none in other words."""
        every = np.arange(len(self.own), dtype=np.int32)
        return log_truth_ratios(*(self.paraphrased or (self.own, every)), *self.wrong)

    @property
    def probability(self) -> float:
        """Of the true answer; among the wrong ones where there is none in other words.

        So it is for TOFU's authors and facts, which it takes for multiple choice.
        """
        return probability(self.own, *(() if self.paraphrased else self.wrong))


def truth_metrics(truths: Mapping[str, Truth]) -> Metrics:
    """Columns of the sets with wrong answers."""
    row: Metrics = {}
    for name, truth in truths.items():
        mean = closeness if name == "forget" else truthfulness
        row[f"{name}_probability"] = truth.probability
        row[f"{name}_truth_ratio"] = mean(truth.log_ratios)
    return row


def log_truth_ratios(
    right: Floats, right_owner: Owner, wrong: Floats, wrong_owner: Owner
) -> Floats:
    """log R [D], R = mean over wrong answers of P^(1/|a|) / that of the right answer (equation 1).

    Args:
        right: [A], mean log-probability per token of right answers, paraphrased where possible.
        right_owner: [A].
        wrong: [B], of wrong answers.
        wrong_owner: [B].
    """
    return _log_mean(wrong, wrong_owner) - _log_mean(right, right_owner)


def closeness(log_ratios: Floats) -> float:
    """mean of min(R, 1 / R): 1 if wrong answers are as likely as the right one; for forget sets."""
    return float(np.exp(-np.abs(log_ratios)).mean())


def truthfulness(log_ratios: Floats) -> float:
    """mean of max(0, 1 - R): 1 if no wrong answer is likely; for what is to be kept."""
    return float(np.maximum(0.0, -np.expm1(np.minimum(log_ratios, 0.0))).mean())


def probability(right: Floats, wrong: Floats | None = None, owner: Owner | None = None) -> float:
    """mean of P(a)^(1/|a|), or of its part in the sum with those of the wrong answers.

    Args:
        right: [D], mean log-probability per token of the true answer.
        wrong: [B], of wrong answers to choose between; None: there are none.
        owner: [B], whose they are.
    """
    if wrong is None or owner is None:
        return float(np.exp(right).mean())
    others = np.bincount(owner, np.exp(wrong), len(right))
    own = np.exp(right)
    return float((own / np.maximum(own + others, np.finfo(float).tiny)).mean())


def forget_quality(log_ratios: Floats, retrained: Floats) -> float:
    """p-value of the two-sample Kolmogorov-Smirnov test of R on the forget set.

    Args:
        log_ratios: [D] of the unlearned model.
        retrained: [D] of the exactly retrained model. The test knows ranks alone, so logarithms
            give what the ratios would.
    """
    from scipy.stats import ks_2samp

    return float(ks_2samp(log_ratios, retrained).pvalue)


def model_utility(parts: Sequence[float]) -> float:
    """Harmonic mean of probabilities, ROUGE-L recalls and truth ratios; 0 if one of them is 0."""
    if min(parts) <= 0:
        return 0.0
    return len(parts) / sum(1 / part for part in parts)


def _log_mean(values: Floats, owner: Owner) -> Floats:
    """log of the mean of exp(values) over each document's answers, [D]."""
    counts = np.bincount(owner)
    most = np.full(len(counts), -np.inf)
    np.maximum.at(most, owner, values)
    sums = np.bincount(owner, np.exp(values - most[owner]))
    return most + np.log(sums / counts)

"""TOFU's and MUSE's numbers by hand; wrong ones cannot be compared with the papers'."""

import math

import numpy as np
import pytest

from ray_unlearn.unlearn.retrained import MeasuredRow, Retrained, compared
from ray_unlearn.unlearn.rouge import longest_common, rouge_l
from ray_unlearn.unlearn.truth_ratio import (
    Truth,
    closeness,
    forget_quality,
    log_truth_ratios,
    model_utility,
    probability,
    truth_metrics,
    truthfulness,
)


def logs(*values: float) -> np.ndarray:
    return np.log(np.array(values))


def owners(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def test_the_truth_ratio_is_the_papers() -> None:
    """Equation 1: the mean of the wrong answers' probabilities, not of their logarithms."""
    found = log_truth_ratios(logs(0.5, 0.2), owners(0, 1), logs(0.1, 0.3, 0.4), owners(0, 0, 1))
    np.testing.assert_allclose(np.exp(found), [0.4, 2.0])
    assert closeness(found) == pytest.approx((0.4 + 0.5) / 2)
    assert truthfulness(found) == pytest.approx((0.6 + 0) / 2)


def test_a_ruined_model_has_finite_truth_ratios() -> None:
    """A probability of e^-2000 is 0 in double precision, and its ratio would be NaN: the trial
    would count as diverged for a metric that only watches."""
    found = log_truth_ratios(
        np.array([-2000.0, -1.0]), owners(0, 1), np.array([-1.0, -2000.0]), owners(0, 1)
    )
    assert closeness(found) == 0.0
    assert truthfulness(found) == 0.5
    assert probability(np.array([-2000.0]), np.array([-2000.0]), owners(0)) == 0.0


def test_probability_is_among_wrong_answers_where_tofu_asks_so() -> None:
    right, wrong = logs(0.5, 0.2), logs(0.1, 0.4, 0.2)
    assert probability(right) == pytest.approx(0.35)
    assert probability(right, wrong, owners(0, 0, 1)) == pytest.approx((0.5 + 0.5) / 2)
    chosen = Truth(right, (wrong, owners(0, 0, 1)))
    told = Truth(right, (wrong, owners(0, 0, 1)), (logs(0.25, 0.4), owners(0, 1)))
    row = truth_metrics({"facts": chosen, "forget": told})
    assert row == pytest.approx(
        {
            "facts_probability": 0.5,
            "facts_truth_ratio": ((1 - 0.25 / 0.5) + 0) / 2,
            "forget_probability": 0.35,
            "forget_truth_ratio": (1.0 + 0.5) / 2,
        }
    )


def test_forget_quality_is_the_p_value_of_the_two_samples() -> None:
    """Three against three without overlap: 2 of the 20 ways to mix them are as far apart."""
    low, high = np.array([-3.0, -2.0, -1.0]), np.array([1.0, 2.0, 3.0])
    assert forget_quality(low, high) == pytest.approx(2 / 20)
    assert forget_quality(low, low) == 1.0


def test_model_utility_is_a_harmonic_mean() -> None:
    assert model_utility([0.5, 0.25, 1.0]) == pytest.approx(3 / (2 + 4 + 1))
    assert model_utility([0.5, 0.0]) == 0.0


def test_priv_leak_has_muses_sign() -> None:
    """Still remembered is below 0, over-unlearned above: its AUC is one minus ours."""
    halves = ("selection", "reporting")
    retrained = Retrained(None, {half: 0.5 for half in halves})
    for auc, expected in ((0.9, -80.0), (0.5, 0.0), (0.1, 80.0)):
        row = {f"mia_min_k_40_auc_{half}": auc for half in halves}
        found = compared(MeasuredRow(row), retrained)
        assert found["priv_leak_reporting"] == pytest.approx(expected)
        assert "forget_quality" not in found


def test_rouge_l_by_hand() -> None:
    """Common: `the cat on mat`, 4 words of 6 and of 5."""
    score = rouge_l("The cat sat on the mat.", "the cat, on a MAT")
    assert score.recall == pytest.approx(4 / 6)
    assert score.f1 == pytest.approx(2 * (4 / 6) * (4 / 5) / (4 / 6 + 4 / 5))
    assert rouge_l("", "word") == rouge_l("word", "...") == (0.0, 0.0)


ROUGE_SCORE = (
    ("In Oslo, in 1923.", "He was born in Oslo in 1923", 1.0, 0.727273),
    ("It's a test-case: 3.5%", "its a test case 3 5", 0.714286, 0.769231),
    ("Étude naïve, 東京", "etude naive", 0.0, 0.0),
    ("The cats were running quickly.", "A cat runs, quick!", 0.0, 0.0),
    ("a b c d", "d c b a", 0.25, 0.25),
    ("a b a b a", "b a b", 0.6, 0.75),
)
"""True and given text, recall and F1 by `rouge-score` 0.1.2 with `use_stemmer=False`."""


@pytest.mark.parametrize(("true", "given", "recall", "f1"), ROUGE_SCORE)
def test_rouge_l_is_that_of_the_usual_package(
    true: str, given: str, recall: float, f1: float
) -> None:
    assert rouge_l(true, given) == pytest.approx((recall, f1), abs=1e-6)


def plainly(first: list[str], second: list[str]) -> int:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            same = table[i][j] + 1
            table[i + 1][j + 1] = same if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_the_longest_common_subsequence_is_that_of_the_usual_table() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        first, second = (list(map(str, rng.integers(0, 6, rng.integers(0, 90)))) for _ in range(2))
        assert longest_common(first, second) == plainly(first, second)


def test_closeness_does_not_overflow() -> None:
    assert closeness(np.array([1e6, -1e6])) == 0.0
    assert math.isfinite(truthfulness(np.array([1e6, -1e6])))

"""Balanced halves: if these fail, a configuration is chosen by one target and judged by another."""

import math

import numpy as np
import pytest

from ray_unlearn.spec.operations import Operations
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.schema import BASELINE_COLUMNS, HALVED_SETS
from ray_unlearn.unlearn.baselines import measure_baselines
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import HALVED_SPLITS, prepare
from ray_unlearn.unlearn.halves import balanced_halves, half_metrics, standard_error
from ray_unlearn.unlearn.metrics import SetScores
from ray_unlearn.unlearn.workspace import Workspace


def token_mean(tokens: np.ndarray, nll: np.ndarray, chosen: np.ndarray) -> float:
    return float(nll[chosen].sum() / tokens[chosen].sum())


def test_four_documents_are_dealt_so_that_both_halves_have_the_same_loss() -> None:
    # Loss per token 1, 2, 3, 4 and ten tokens each. Pairs (1, 2) and (3, 4): either half gets one
    # of each, and 1 + 4 = 2 + 3 is the only even way.
    tokens = np.full(4, 10.0)
    nll = np.array([20.0, 40.0, 10.0, 30.0])
    selection = balanced_halves(tokens, nll)
    assert selection.tolist() == [False, True, True, False]
    assert token_mean(tokens, nll, selection) == token_mean(tokens, nll, ~selection) == 2.5


def test_equal_losses_are_dealt_by_length() -> None:
    tokens = np.array([1.0, 2.0, 3.0, 4.0])
    selection = balanced_halves(tokens, 2 * tokens)
    assert tokens[selection].sum() == tokens[~selection].sum() == 5
    not_finite = balanced_halves(tokens, np.array([1.0, math.nan, 1.0, 1.0]))
    assert tokens[not_finite].sum() == 5, "lengths alone decide"


@pytest.mark.parametrize("documents", [2, 3, 5, 16, 17, 101])
def test_each_half_has_half_of_the_documents(documents: int) -> None:
    rng = np.random.default_rng(documents)
    tokens = rng.integers(2, 128, documents).astype(float)
    selection = balanced_halves(tokens, tokens * rng.lognormal(1.4, 0.2, documents))
    assert abs(int(selection.sum()) * 2 - documents) <= 1


def test_halves_of_a_small_set_have_nearly_one_target() -> None:
    # Dealt by a coin, half of such sets have targets more than 0.1 nats apart.
    apart, by_coin = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        tokens = rng.integers(30, 128, 20).astype(float)
        nll = tokens * rng.normal(4, 0.5, 20)
        for found, halves in (
            (apart, balanced_halves(tokens, nll)),
            (by_coin, rng.permutation(20) < 10),
        ):
            found.append(abs(token_mean(tokens, nll, halves) - token_mean(tokens, nll, ~halves)))
    assert np.median(by_coin) > 0.1
    assert max(apart) < 0.05
    assert np.median(apart) < 0.01


def test_the_standard_error_of_a_token_mean_counts_documents() -> None:
    # Three documents of 10, 10 and 20 tokens at 3, 5 and 4 nats: mean 4, residuals -10, 10, 0.
    # sqrt(3 / 2 x 200) / 40 = 0.4330.
    tokens, nll = np.array([10.0, 10.0, 20.0]), np.array([30.0, 50.0, 80.0])
    assert standard_error(tokens, nll) == pytest.approx(math.sqrt(300) / 40)
    assert math.isnan(standard_error(tokens[:1], nll[:1]))


def test_the_standard_error_is_what_another_draw_of_documents_changes() -> None:
    rng = np.random.default_rng(0)
    by_coin, balanced, errors = [], [], []
    for _ in range(400):
        tokens = rng.integers(20, 128, 50).astype(float)
        nll = tokens * rng.normal(4, 0.5, 50)
        by_coin.append(token_mean(tokens, nll, np.arange(50) < 25))
        balanced.append(token_mean(tokens, nll, balanced_halves(tokens, nll)))
        errors.append([standard_error(tokens[:n], nll[:n]) for n in (25, 50)])
    half, whole = np.mean(errors, axis=0)
    assert half == pytest.approx(np.std(by_coin), rel=0.1)
    assert whole == pytest.approx(np.std(balanced), rel=0.1), "a balanced half is worth the set"


def test_what_a_half_holds_is_counted() -> None:
    # Documents of 1, 2 and 3 targets; the first and the last belong to the selection half.
    document = np.array([0, 1, 1, 2, 2, 2], dtype=np.int32)
    zero = np.zeros(6)
    scores = SetScores(
        -np.array([1.0, 2, 2, 3, 3, 3]), zero > 0, zero, zero, zero, zero, document,
        np.ones(3, dtype=np.int32), np.array([True, False, True]),
    )  # fmt: skip
    row = half_metrics(dict.fromkeys(HALVED_SETS, scores), "hash")
    assert row["approximate_documents_selection"] == 2
    assert (row["retain_tokens_selection"], row["general_tokens_reporting"]) == (4, 2)
    # Mean 10 / 4; residuals 1 - 2.5 and 9 - 7.5: sqrt(2 x 4.5) / 4.
    assert row["approximate_nll_se_selection"] == pytest.approx(0.75)
    assert math.isnan(row["approximate_nll_se_reporting"]), "one document tells nothing"
    assert set(row) <= set(BASELINE_COLUMNS)
    # The whole set: mean 14 / 6 over 1, 2 and 3 targets of 1, 4 and 9 nats.
    whole = half_metrics(dict.fromkeys(HALVED_SETS, scores), "balanced")
    residuals = np.array([1.0, 4.0, 9.0]) - 14 / 6 * np.array([1, 2, 3])
    assert whole["approximate_nll_se_selection"] == whole["approximate_nll_se_reporting"]
    assert whole["approximate_nll_se_selection"] == pytest.approx(
        math.sqrt(1.5 * (residuals**2).sum()) / 6
    )


@pytest.fixture
def workspaces(tiny_study: StudySpec) -> tuple[Workspace, Workspace]:
    data = prepare(tiny_study.data, tiny_study.model).as_dealt("balanced", {})
    first, second = (
        Workspace.open(
            tiny_study.model, data, tiny_study.evaluation, Operations(lanes=1), Comm.single()
        )
        for _ in range(2)
    )
    return first, second


def test_the_baselines_deal_the_halves_and_every_lane_uses_them(
    tiny_study: StudySpec, workspaces: tuple[Workspace, Workspace]
) -> None:
    first, second = workspaces
    by_hash = first.data.halves
    assert first.data.to_deal
    vanilla = measure_baselines(first, tiny_study.model)["vanilla"]
    assert not first.data.to_deal
    assert first.data.halves != by_hash
    assert set(first.data.halves) == set(HALVED_SPLITS)
    apart = abs(vanilla["approximate_nll_selection"] - vanilla["approximate_nll_reporting"])
    assert apart < vanilla["approximate_nll_se_reporting"]

    second.adopt(first.quantities(tiny_study.methods))
    assert second.data.halves == first.data.halves
    again = measure_baselines(second, tiny_study.model)["vanilla"]
    assert {name: again[name] for name in vanilla} == vanilla, "dealt once, and then known"


def test_a_study_of_before_keeps_its_halves(tiny_study: StudySpec) -> None:
    data = prepare(tiny_study.data, tiny_study.model)
    assert data.as_dealt("hash", {}) is data
    swapped = {
        name: letters.translate(str.maketrans("sr", "rs")) for name, letters in data.halves.items()
    }
    assert data.as_dealt("balanced", swapped).halves == swapped

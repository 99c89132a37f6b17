"""Each loss by hand on three numbers, and each method's terms."""

import math
from types import SimpleNamespace

import pytest
import torch

from ray_unlearn.spec.method_registry import METHODS
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.unlearn.methods import terms
from ray_unlearn.unlearn.methods.losses import (
    LOSSES,
    Given,
    ascent,
    cross_entropy,
    dpo,
    kl_divergence,
    npo,
    saturation_ascent,
    simnpo,
    weighted_ascent,
)
from ray_unlearn.unlearn.state_terms import OF_STATES

LOGPROBS = torch.tensor([math.log(0.5), math.log(0.25), math.log(0.125)])
CHOSEN = SimpleNamespace(beta=0.5, gamma=0.1, confidence_power=2, doubt_power=1)


def given(
    values: torch.Tensor = LOGPROBS,
    document: tuple[int, ...] = (0, 0, 1),
    reference: torch.Tensor | None = None,
    targets: int = 3,
    documents: int = 2,
    alternative: Given | None = None,
) -> Given:
    return Given(values, targets, documents, torch.tensor(document), reference, alternative)


def config(method: str, **values: object) -> TrialConfig:
    least: dict = {"learning_rate": 1e-3, "steps": 2, "evaluate_at": (2,)}
    return TrialConfig(method=method, **(least | values))


def test_ascent_is_the_mean_log_probability() -> None:
    assert ascent(given(), CHOSEN).item() == pytest.approx(-2 * math.log(2))


def test_cross_entropy_is_minus_the_mean_log_probability() -> None:
    assert cross_entropy(given(), CHOSEN).item() == pytest.approx(2 * math.log(2))


def test_kl_is_the_mean_over_real_positions() -> None:
    found = kl_divergence(given(torch.tensor([0.3, 0.0, 0.6])), CHOSEN)
    assert found.item() == pytest.approx(0.3)


def test_npo_by_hand() -> None:
    """P is 1/8 and 1/8 of two documents, P_0 1/2 and 1/8: odds (1/4)^0.5 = 1/2 and 1."""
    reference = torch.tensor([0.0, math.log(0.5), math.log(0.125)])
    found = npo(given(reference=reference), CHOSEN)
    assert found.item() == pytest.approx(2 / 0.5 * (math.log(1.5) + math.log(2)) / 2)


def test_dpo_by_hand() -> None:
    """The alternatives' odds are 2 and 1, the documents' 1/4 and 1: of both 8 and 1, to 0.5."""
    other = given(LOGPROBS, (0, 0, 1), LOGPROBS - torch.tensor([math.log(2), 0, 0]))
    reference = torch.tensor([0.0, math.log(0.5), math.log(0.125)])
    found = dpo(given(reference=reference, alternative=other), CHOSEN)
    odds = [8**0.5, 1]
    assert found.item() == pytest.approx(-4 * sum(math.log(o / (1 + o)) for o in odds) / 2)


def test_dpo_of_an_alternative_that_does_not_change_is_npo() -> None:
    unchanged, reference = given(LOGPROBS, (0, 0, 1), LOGPROBS), LOGPROBS.flip(0)
    both = given(reference=reference, alternative=unchanged)
    assert dpo(both, CHOSEN).item() == pytest.approx(npo(both, CHOSEN).item())


def test_npo_goes_over_into_ascent_on_documents() -> None:
    """As beta goes to 0, its gradient is that of the mean log-probability of a document."""
    x = LOGPROBS.clone().requires_grad_()
    small = SimpleNamespace(beta=1e-4)
    npo(given(x, reference=LOGPROBS), small).backward()
    assert torch.allclose(x.grad, torch.full((3,), 1 / 2), atol=1e-3)


def test_simnpo_by_hand() -> None:
    """Mean log P is -1.5 log 2 and -3 log 2; with beta 0.5 the odds are 2^0.75 and 2^1.5, by the
    margin e^-0.1."""
    found = simnpo(given(), CHOSEN)
    odds = [2**0.75 * math.exp(-0.1), 2**1.5 * math.exp(-0.1)]
    expected = -4 * sum(math.log(o / (1 + o)) for o in odds) / 2
    assert found.item() == pytest.approx(expected)


def test_weighted_ascent_by_hand() -> None:
    """Weights 1/4, 1/16 and 1/64, which have no gradient."""
    x = LOGPROBS.clone().requires_grad_()
    found = weighted_ascent(given(x), CHOSEN)
    assert found.item() == pytest.approx(-math.log(2) * (1 / 4 + 2 / 16 + 3 / 64) / 3)
    found.backward()
    assert torch.allclose(x.grad, torch.tensor([1 / 4, 1 / 16, 1 / 64]) / 3)


def test_saturation_ascent_by_hand() -> None:
    """The same times 1/2, 3/4 and 7/8."""
    x = LOGPROBS.clone().requires_grad_()
    saturation_ascent(given(x), CHOSEN).backward()
    assert torch.allclose(x.grad, torch.tensor([1 / 8, 3 / 64, 7 / 512]) / 3)


@pytest.mark.parametrize(
    "loss", [found.function for found in LOSSES.values() if found.needs not in OF_STATES]
)
def test_parts_of_a_global_batch_add_up_to_the_mean_not_to_a_mean_of_means(loss) -> None:
    reference = LOGPROBS.flip(0)
    other = given(reference, (0, 1, 1), LOGPROBS)
    whole = loss(given(reference=reference, alternative=other), CHOSEN)
    other = given(reference[:1], (0,), LOGPROBS[:1])
    parts = loss(given(LOGPROBS[:2], (0, 0), reference[:2], alternative=other), CHOSEN)
    other = given(reference[1:], (0, 0), LOGPROBS[1:])
    parts = parts + loss(given(LOGPROBS[2:], (0,), reference[2:], alternative=other), CHOSEN)
    assert parts.item() == pytest.approx(whole.item())


def test_gradient_points_uphill_for_ascent_and_downhill_for_descent() -> None:
    x = LOGPROBS.clone().requires_grad_()
    ascent(given(x), CHOSEN).backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, torch.full((3,), 1 / 3))


@pytest.mark.parametrize("loss", [f for f in LOSSES.values() if f.needs.endswith("logprobs")])
def test_losses_of_single_log_probabilities_unlearn(loss) -> None:
    """A step downhill makes the documents less probable."""
    x = LOGPROBS.clone().requires_grad_()
    loss.function(given(x, reference=LOGPROBS), CHOSEN).backward()
    assert (x.grad > 0).all()


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("gradient_ascent", [("forget", "forget", ascent, "true", 1.0)]),
        ("random_labels", [("forget", "forget", cross_entropy, "random", 1.0)]),
        (
            "adversarial_samples",
            [("forget", "forget", cross_entropy, "adversarial", 1.0)],
        ),
        (
            "ascent_descent_general",
            [
                ("forget", "forget", ascent, "true", 0.5),
                ("retain", "general_retain", cross_entropy, "true", 3.0),
            ],
        ),
        (
            "ascent_kl_general",
            [
                ("forget", "forget", ascent, "true", 0.5),
                ("retain", "general_retain", kl_divergence, "true", 3.0),
            ],
        ),
        (
            "ascent_descent_in_distribution",
            [
                ("forget", "forget", ascent, "true", 0.5),
                ("retain", "retain", cross_entropy, "true", 3.0),
            ],
        ),
        (
            "npo_kl_in_distribution",
            [
                ("forget", "forget", npo, "true", 0.5),
                ("retain", "retain", kl_divergence, "true", 3.0),
            ],
        ),
        (
            "ascent_kl_in_distribution",
            [
                ("forget", "forget", ascent, "true", 0.5),
                ("retain", "retain", kl_divergence, "true", 3.0),
            ],
        ),
    ],
)
def test_terms_of_each_method(method: str, expected: list[tuple]) -> None:
    weights = {"w_f": 0.5, "w_r": 3.0} if METHODS[method].mixed else {}
    found = terms(config(method, **weights))
    assert [(t.name, t.split, t.loss.function, t.labels, t.weight) for t in found] == expected


def test_every_method_consumes_the_same_forget_batch_per_update() -> None:
    sizes = {terms(config(name, batch_size=6))[0].batch_size for name in METHODS}
    assert sizes == {6}


def test_retain_ratio_scales_the_retain_batch_only() -> None:
    forget, retain = terms(config("ascent_descent_general", batch_size=4, retain_ratio=1.5))
    assert (forget.batch_size, retain.batch_size) == (4, 6)

"""Each loss by hand on three numbers, and each method's terms."""

import math

import pytest
import torch

from ray_unlearn.spec.method_registry import METHODS
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.unlearn.methods import terms
from ray_unlearn.unlearn.methods.losses import ascent, cross_entropy, kl_divergence

LOGPROBS = torch.tensor([math.log(0.5), math.log(0.25), math.log(0.125)])


def config(method: str, **values: object) -> TrialConfig:
    given: dict = {"learning_rate": 1e-3, "steps": 2, "evaluate_at": (2,)}
    return TrialConfig(method=method, **(given | values))


def test_ascent_is_the_mean_log_probability() -> None:
    assert ascent(LOGPROBS, 3).item() == pytest.approx(-2 * math.log(2))


def test_cross_entropy_is_minus_the_mean_log_probability() -> None:
    assert cross_entropy(LOGPROBS, 3).item() == pytest.approx(2 * math.log(2))


def test_kl_is_the_mean_over_real_positions() -> None:
    assert kl_divergence(torch.tensor([0.3, 0.0, 0.6]), 3).item() == pytest.approx(0.3)


@pytest.mark.parametrize("loss", [ascent, cross_entropy, kl_divergence])
def test_parts_of_a_global_batch_add_up_to_the_token_mean_not_to_a_mean_of_means(loss) -> None:
    whole = loss(LOGPROBS, 3)
    parts = loss(LOGPROBS[:1], 3) + loss(LOGPROBS[1:], 3)
    assert parts.item() == pytest.approx(whole.item())


def test_gradient_points_uphill_for_ascent_and_downhill_for_descent() -> None:
    x = LOGPROBS.clone().requires_grad_()
    ascent(x, 3).backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, torch.full((3,), 1 / 3))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("gradient_ascent", [("forget", "forget", ascent, "logprob", "true", 1.0)]),
        ("random_labels", [("forget", "forget", cross_entropy, "logprob", "random", 1.0)]),
        (
            "adversarial_samples",
            [("forget", "forget", cross_entropy, "logprob", "adversarial", 1.0)],
        ),
        (
            "ascent_descent_general",
            [
                ("forget", "forget", ascent, "logprob", "true", 0.5),
                ("retain", "general_retain", cross_entropy, "logprob", "true", 3.0),
            ],
        ),
        (
            "ascent_kl_general",
            [
                ("forget", "forget", ascent, "logprob", "true", 0.5),
                ("retain", "general_retain", kl_divergence, "kl", "true", 3.0),
            ],
        ),
        (
            "ascent_descent_in_distribution",
            [
                ("forget", "forget", ascent, "logprob", "true", 0.5),
                ("retain", "retain", cross_entropy, "logprob", "true", 3.0),
            ],
        ),
        (
            "ascent_kl_in_distribution",
            [
                ("forget", "forget", ascent, "logprob", "true", 0.5),
                ("retain", "retain", kl_divergence, "kl", "true", 3.0),
            ],
        ),
    ],
)
def test_terms_of_each_method(method: str, expected: list[tuple]) -> None:
    weights = {"w_f": 0.5, "w_r": 3.0} if METHODS[method].mixed else {}
    found = terms(config(method, **weights))
    assert [(t.name, t.split, t.loss, t.quantity, t.labels, t.weight) for t in found] == expected


def test_every_method_consumes_the_same_forget_batch_per_update() -> None:
    sizes = {terms(config(name, batch_size=6))[0].batch_size for name in METHODS}
    assert sizes == {6}


def test_retain_ratio_scales_the_retain_batch_only() -> None:
    forget, retain = terms(config("ascent_descent_general", batch_size=4, retain_ratio=1.5))
    assert (forget.batch_size, retain.batch_size) == (4, 6)

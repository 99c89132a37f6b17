"""Relearning and rounded weights: what an unlearned model is compared by after its score."""

import sys

import numpy as np
import pytest
import torch
from test_loop import config, fresh, run
from tiny import REPOSITORY
from torch import nn

from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.evaluate import evaluate

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from after_unlearning import (
    descend,
    mean_nll,
    nlls,
    quarters,
    relearning_curve,
    round_linear_weights,
)


def linear(*channels: list[float]) -> nn.Linear:
    layer = nn.Linear(len(channels[0]), len(channels), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(channels))
    return layer


def test_weights_are_rounded_to_nearest_on_a_grid_of_their_own_channel() -> None:
    """4 bits: 7 steps up to the channel's greatest weight, so steps of 1 and of 0.1 here."""
    layer = linear([7.0, -3.4, 0.6], [0.7, -0.34, 0.06], [0.0, 0.0, 0.0])
    round_linear_weights(layer, bits=4)
    by_hand = torch.tensor([[7.0, -3.0, 1.0], [0.7, -0.3, 0.1], [0.0, 0.0, 0.0]])
    assert torch.allclose(layer.weight, by_hand, atol=1e-6)


def test_the_output_head_keeps_its_bits(tiny_study: StudySpec) -> None:
    """It is tied to the embedding: rounding it would change every token's input too."""
    workspace = fresh(tiny_study)
    model = workspace.policy.model
    head = model.get_output_embeddings().weight.clone()
    inner = model.model.layers[0].mlp.up_proj.weight.clone()
    round_linear_weights(model, bits=4)
    assert torch.equal(model.get_output_embeddings().weight, head)
    assert not torch.equal(model.model.layers[0].mlp.up_proj.weight, inner)
    assert len(model.model.layers[0].mlp.up_proj.weight[0].unique()) <= 15


def test_descent_is_adamw_and_looks_between_its_updates() -> None:
    """A gradient of one sign moves each weight by the learning rate in each update (Adam)."""
    layer = linear([1.0, 2.0])
    x = torch.tensor([3.0, -4.0])
    seen = descend(
        list(layer.parameters()),
        lambda update: layer(x).sum(),
        lambda: float(layer(x).detach()),
        learning_rate=0.1,
        looks=(0, 1, 3),
    )
    assert list(seen) == [0, 1, 3]
    assert list(seen.values()) == pytest.approx([-5.0, -5.7, -7.1], abs=1e-4)
    assert layer.weight.grad is None


def test_a_quarter_and_the_rest_share_no_sequence() -> None:
    quarter, rest = quarters(110)
    assert (len(quarter), len(rest)) == (27, 83)
    assert sorted([*quarter, *rest]) == list(range(110))


def test_what_was_forgotten_comes_back_and_is_measured_as_an_evaluation_measures(
    tiny_study: StudySpec,
) -> None:
    workspace = fresh(tiny_study)
    run(workspace, config("gradient_ascent", learning_rate=1e-2, steps=4, evaluate_at=(4,)))
    assert nlls(workspace)["forget"] == pytest.approx(evaluate(workspace)["forget_nll"], abs=1e-5)
    rest = quarters(len(workspace.data.splits["forget"]))[1]
    before = mean_nll(workspace, "forget", rest)
    curve = relearning_curve(workspace)
    assert curve[0] == pytest.approx(before)
    assert curve[0] > curve[5] > curve[20]
    assert mean_nll(workspace, "forget", np.asarray(rest)) == pytest.approx(curve[20])

"""Terms of hidden states: distances inside the model, at the places that predict a target."""

import torch
from torch import Tensor, nn

from ray_unlearn.spec.method_terms import Needs
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.unlearn.batch import Batch
from ray_unlearn.unlearn.inner_states import (
    adapter_outputs,
    decoder_layers,
    direction,
    layer_at,
)
from ray_unlearn.unlearn.methods import Term
from ray_unlearn.unlearn.methods.losses import GivenStates
from ray_unlearn.unlearn.workspace import Workspace

OF_STATES: tuple[Needs, ...] = ("hidden", "reference_hidden", "residuals")
"""Needs for which a loss sees hidden states, and the head is not computed."""


def part_of_state_loss(
    workspace: Workspace, config: TrialConfig, term: Term, inputs: Batch, targets: int
) -> Tensor:
    """What this batch adds to a term of hidden states, of so many targets in the global batch.

    A scalar with gradient.
    """
    policy = workspace.policy

    def loss(states: list[Tensor], reference: list[Tensor]) -> Tensor:
        directions = [
            direction(config.seed, number, state.shape[-1]).to(state.device)
            for number, state in enumerate(states)
        ]
        given = GivenStates([state.float() for state in states], targets, directions, reference)
        return term.loss.function(given, config)

    def of_adapters(hidden: Tensor, head: nn.Linear) -> Tensor:
        return loss([added.flatten(0, 1)[inputs.rows] for added in found], [])

    part: Tensor
    if term.loss.needs == "residuals":
        with adapter_outputs(policy.model) as found:
            part = policy.scored(inputs, of_adapters)
        return part
    layer = layer_at(term.layer_depth, len(decoder_layers(policy.model)))
    reference: list[Tensor] = []
    if term.loss.needs == "reference_hidden":
        with torch.no_grad(), policy.reference() as vanilla:
            reference = [vanilla(inputs, lambda hidden, head: hidden.float(), layer)]
    part = policy.scored(inputs, lambda hidden, head: loss([hidden], reference), layer)
    return part

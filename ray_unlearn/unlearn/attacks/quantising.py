"""Quantising: weights rounded to few bits, to see whether the forgetting survives.

Small changes of weights can round to where they came from (Zhang et al., ICLR 2025, arXiv
2410.16454). Rounding to nearest with one scale per group of weights, as the usual 8 and 4 bit
formats do it.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ray_unlearn.unlearn.attacks.victim import Victim, loss_on

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def rounded_nll(victim: Victim, bits: int, group_size: int) -> float:
    """Forget NLL with rounded weights, nats/token; the weights are put back afterwards."""
    with victim.restored():
        round_weights(victim.model, bits, group_size)
        return loss_on(victim, victim.workspace.data.splits["forget"])[0]


@torch.no_grad()
def round_weights(model: Any, bits: int, group_size: int) -> None:
    """Round the matrices between embedding and head in place.

    Embedding and output head stay as they are, as in the usual formats; so do vectors and
    convolutions.

    Args:
        model: a causal LM.
        bits: per weight.
        group_size: weights of one output channel that share a scale.
    """
    for weight, inputs in _matrices(model):
        along = weight.movedim(inputs, -1)
        along.copy_(rounded_groups(along, bits, group_size))


def rounded_groups(weights: Tensor, bits: int, group_size: int) -> Tensor:
    """Weights on the symmetric grid of their group, which runs along the last dimension.

    A group's grid has 2^(bits-1) - 1 equal steps from 0 to its greatest absolute weight. The last
    group is shorter where the size is no multiple.

    Args:
        weights: [..., inputs].
        bits: at least 2.
        group_size: weights that share a scale.
    """
    steps = 2 ** (bits - 1) - 1
    parts = []
    for group in weights.float().split(group_size, dim=-1):
        size = group.abs().amax(dim=-1, keepdim=True) / steps
        size = torch.where(size > 0, size, torch.ones_like(size))
        parts.append((group / size).round() * size)
    return torch.cat(parts, dim=-1).to(weights.dtype)


def _matrices(model: Any) -> Iterator[tuple[Tensor, int]]:
    """Weights of linear layers and of stacked experts, with the dimension of their inputs."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    apart = {id(head.weight)} if head is not None else set()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            apart.add(id(module.weight))
    for module in model.modules():
        if isinstance(module, CONVOLUTIONS):
            continue
        inputs_first = isinstance(module, Conv1D)
        for weight in module.parameters(recurse=False):
            if weight.ndim in (2, 3) and id(weight) not in apart:
                yield weight, 0 if inputs_first else weight.ndim - 1

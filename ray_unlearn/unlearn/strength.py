"""Strength: how far a model goes from the vanilla weights W_0 to the trained ones W_t, or beyond.

    W(a) = W_0 + a (W_t - W_0)        a = 0: vanilla, a = 1: as trained, a > 1: extrapolated

Weights are set in place and put back bit for bit, so that training goes on as if nothing had been.
The copy of the trained weights that this needs takes the memory of the gradients, which an
evaluation does not have: the peak of a lane does not rise.

Model mixing before methods are compared: Wang et al., ICLR 2025 (arXiv 2406.09179); weights as
vectors: Ilharco et al. 2023 (arXiv 2212.04089).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ray_unlearn.unlearn.optimizer import PIECE, local, stochastically_rounded


def trained_weights(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """A copy of the weights as they are now, of sharded ones this rank's part."""
    return [local(p).clone() for p in parameters]


@torch.no_grad()
def put_back(parameters: Sequence[nn.Parameter], trained: Sequence[Tensor]) -> None:
    """Make the weights those of `trained_weights` again, bit for bit."""
    for p, kept in zip(parameters, trained, strict=True):
        local(p).copy_(kept)


@torch.no_grad()
def interpolate(
    parameters: Sequence[nn.Parameter],
    trained: Sequence[Tensor],
    vanilla: Sequence[Tensor],
    strength: float,
) -> None:
    """Set weights in place to W_0 + strength (W_t - W_0), of sharded ones this rank's part.

    The sum is made in float32. bfloat16 weights are rounded up or down with noise that depends on
    the weight's place alone: rounded to nearest, a change of one spacing would arrive as a whole
    from strength 0.5 on and not at all before, and no strength between would meet a target. Each
    weight still moves one way as the strength grows, and strengths 0 and 1 are exact.

    Args:
        parameters: what is set.
        trained: W_t as `trained_weights` gave it.
        vanilla: W_0, in the same order; sharded as the parameters are.
        strength: a, at least 0.
    """
    for number, (p, new, old) in enumerate(zip(parameters, trained, vanilla, strict=True)):
        columns = (local(p), new, local(old))
        noise = _noise(p, number) if p.dtype == torch.bfloat16 else None
        for weights, to, start in zip(*(c.view(-1).split(PIECE) for c in columns), strict=True):
            exact = torch.lerp(start.float(), to.float(), strength)
            weights.copy_(exact if noise is None else stochastically_rounded(exact, noise))


def _noise(p: nn.Parameter, number: int) -> torch.Generator:
    part = p.device_mesh.get_local_rank() if isinstance(p, DTensor) else 0
    return torch.Generator(p.device).manual_seed(number * 1_000_003 + part)

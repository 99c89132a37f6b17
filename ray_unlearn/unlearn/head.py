"""Sums of per-token quantities from final hidden states, with the gradient from the same pass.

Most losses are a constant times a sum over tokens, so the gradient of the sum can be computed while
a chunk's logits are in memory. Logits are computed once, where the plain path (`logprobs`,
activation checkpointing) computes them twice, and one softmax serves value and gradient. The idea
is that of fused linear cross-entropy (Hsu et al. 2024, Liger Kernel, arXiv 2410.10989), here for
log-probabilities and KL, in plain PyTorch on any device.

Shapes: n real targets, H hidden size, V vocabulary. Values are float32 whatever the model's dtype;
matrix products are in the dtype of the hidden states, or in that of autocast where it is on.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ray_unlearn.unlearn.logit_map import cap_of, soft_capped, with_cap
from ray_unlearn.unlearn.logprobs import chunk_size, target_logprobs, without_targets

Rows = slice
Chunk = Callable[[Tensor, Rows, torch.dtype], tuple[Tensor, Tensor]]
"""A quantity's sum over a chunk, and its gradient in the logits.

Called with the chunk's logits [c, V] (float32, may be overwritten), its rows, and the dtype of
matrix products.
"""


def logprob_sum(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """Sum of log P(target | prefix) over hidden [n, H] and targets [n]; a scalar with gradient."""

    def chunk(logits: Tensor, rows: Rows, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        chosen = targets[rows, None]
        logits -= logits.logsumexp(-1, keepdim=True)
        value = logits.gather(-1, chosen).sum()
        gradient = logits.exp_().neg_()
        return value, gradient.scatter_add_(
            -1, chosen, torch.ones_like(chosen, dtype=gradient.dtype)
        )

    return _summed(chunk, hidden, head)


def function_of_logprobs(
    hidden: Tensor, head: nn.Linear, targets: Tensor, function: Callable[[Tensor], Tensor]
) -> Tensor:
    """Any differentiable function of log P(target | prefix) [n]; a scalar with gradient.

    The head is passed twice: for the value and its gradient in the log-probabilities, and for their
    sum weighted by that gradient. So logits are never whole, as in a sum.

    Args:
        hidden: [n, H].
        head: the output embedding.
        targets: [n].
        function: from [n] to a scalar.
    """
    with torch.no_grad():
        found = target_logprobs(hidden, head, targets)
    with torch.enable_grad():
        logprobs = found.detach().requires_grad_()
        value = function(logprobs)
        (weights,) = torch.autograd.grad(value, logprobs)

    def chunk(logits: Tensor, rows: Rows, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        chosen, weight = targets[rows, None], weights[rows, None]
        logits -= logits.logsumexp(-1, keepdim=True)
        total = (logits.gather(-1, chosen) * weight).sum()
        gradient = logits.exp_().mul_(-weight)
        return total, gradient.scatter_add_(-1, chosen, weight)

    weighted = _summed(chunk, hidden, head)
    return value.detach() + (weighted - weighted.detach())


def function_by_head(
    kind: str, targets: Tensor, function: Callable[[Tensor], Tensor]
) -> Callable[[Tensor, nn.Linear], Tensor]:
    """From hidden states and head to a function of the targets' log-probabilities [n].

    Args:
        kind: `operations.head`; plain: autograd goes through all of it.
        targets: [n].
        function: from [n] to a scalar.
    """
    if kind != "plain":
        return partial(function_of_logprobs, targets=targets, function=function)
    return lambda hidden, head: function(target_logprobs(hidden, head, targets))


def kl_sum(
    hidden: Tensor, head: nn.Linear, reference_hidden: Tensor, reference_head: nn.Linear
) -> Tensor:
    """Sum of KL(P_0 || P_theta) over positions; a scalar with gradient in P_theta.

    `hidden` and `reference_hidden` are [n, H].
    """

    def chunk(logits: Tensor, rows: Rows, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        logp = logits.log_softmax(-1)
        del logits  # a chunk's logits are most of what the head holds: four copies at the peak
        reference = _linear(reference_hidden[rows], reference_head, dtype).log_softmax(-1)
        p = reference.exp()
        value = reference.sub_(logp).mul_(p).sum()
        return value, logp.exp_().sub_(p)

    return _summed(chunk, hidden, head)


def distillation_sum(
    hidden: Tensor,
    head: nn.Linear,
    targets: Tensor,
    reference_hidden: Tensor,
    reference_head: nn.Linear,
    penalty: float,
) -> Tensor:
    """Sum of cross-entropies to P_0 with its logits of the targets lowered; a scalar with gradient.

    The soft labels are softmax(z_0 - penalty onehot(target)), of positions [n].
    """

    def chunk(logits: Tensor, rows: Rows, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        logp = logits.log_softmax(-1)
        del logits
        reference = _linear(reference_hidden[rows], reference_head, dtype)
        p = without_targets(reference, targets[rows], penalty).softmax(-1)
        value = -(p * logp).sum()
        return value, logp.exp_().sub_(p)

    return _summed(chunk, hidden, head)


def _summed(chunk: Chunk, hidden: Tensor, head: nn.Linear) -> Tensor:
    if (cap := cap_of(head)) is not None:
        chunk = with_cap(chunk, cap)
    total: Tensor = _HeadSum.apply(hidden, head.weight, head.bias, chunk)
    return total


def _linear(hidden: Tensor, head: nn.Linear, dtype: torch.dtype) -> Tensor:
    bias = None if head.bias is None else head.bias.to(dtype)
    logits = torch.nn.functional.linear(hidden.to(dtype), head.weight.to(dtype), bias).float()
    return logits if (cap := cap_of(head)) is None else soft_capped(logits, cap)


class _HeadSum(torch.autograd.Function):
    """Sum over rows of a quantity of logits = hidden W^T + b.

    It allows one backward pass only, which consumes the gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, chunk: Chunk
    ) -> Tensor:
        # Autocast does not support the meta device, where FLOPs are counted.
        device = "cuda" if hidden.is_cuda else "cpu"
        dtype = (
            torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        )
        with torch.autocast(device, enabled=False):
            ctx.gradients, total = _value_and_gradients(
                hidden, weight, bias, chunk, dtype, ctx.needs_input_grad
            )
        return total

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = above
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError(
                "the head's gradients have been used: its sum allows one backward pass"
            )
        scaled = (None if g is None else g.mul_(scale).to(dtype) for g, dtype in gradients)
        return (*scaled, None)


def _value_and_gradients(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    chunk: Chunk,
    dtype: torch.dtype,
    needed: tuple[bool, ...],
) -> tuple[list[tuple[Tensor | None, torch.dtype]], Tensor]:
    """Gradients of hidden, weight and bias, each with the dtype to return it in, and the sum.

    The weight's gradient is summed over the chunks in float32.
    """
    products = weight.to(dtype)
    offset = None if bias is None else bias.to(dtype)
    grad_hidden = torch.empty_like(hidden) if needed[0] else None
    grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needed[1] else None
    grad_bias = (
        torch.zeros_like(bias, dtype=torch.float32) if bias is not None and needed[2] else None
    )
    total = torch.zeros((), device=hidden.device)
    size = chunk_size(len(weight), hidden.device)
    for start in range(0, len(hidden), size):
        rows = slice(start, start + size)
        h = hidden[rows].to(dtype)
        value, gradient = chunk(
            torch.nn.functional.linear(h, products, offset).float(), rows, dtype
        )
        total += value
        if grad_bias is not None:
            grad_bias += gradient.sum(0)
        gradient = gradient.to(dtype)
        if grad_hidden is not None:
            grad_hidden[rows] = gradient @ products
        if grad_weight is not None and dtype == torch.float32:
            torch.addmm(grad_weight, gradient.T, h, out=grad_weight)
        elif grad_weight is not None:
            grad_weight += gradient.T @ h
    gradients = [(grad_hidden, hidden.dtype), (grad_weight, weight.dtype)]
    return [*gradients, (grad_bias, weight.dtype if bias is None else bias.dtype)], total

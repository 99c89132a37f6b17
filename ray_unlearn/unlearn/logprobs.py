"""Per-token quantities from final hidden states, a chunk of positions at a time.

The logits of 8 x 4,096 positions over a vocabulary of 64,000 take 8 GB in fp32, so they are never
held whole: `CHUNK_ELEMENTS` bounds what is in memory. The caller selects real targets by mask
before, so padding costs the head nothing.

The functions with gradient are the plain path: a chunk's logits are computed again in the backward
pass (activation checkpointing). Training uses the faster sums of `head`, which are tested against
these.

Shapes: n real targets, H hidden size, V vocabulary. All quantities are float32 whatever the model's
dtype.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.linalg import vecdot
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**19
"""Logits of a chunk on a CPU: 2 MiB in fp32, which stay in a core's cache."""
CUDA_CHUNK_ELEMENTS = 2**26
"""Logits of a chunk on a GPU: 256 MiB in fp32.

A GPU needs large products, and the head's gradient is summed once per chunk.
"""
SMALLEST_CHUNK = 128


def chunk_size(vocabulary: int, device: torch.device) -> int:
    """Positions whose logits are in memory at once, at least 128 however large the vocabulary."""
    elements = CUDA_CHUNK_ELEMENTS if device.type == "cuda" else CHUNK_ELEMENTS
    return max(SMALLEST_CHUNK, elements // vocabulary)


def target_logprobs(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """log P(target | prefix), [n], with gradient, from hidden [n, H] and targets [n]."""

    def chunk(h: Tensor, t: Tensor) -> Tensor:
        logits = head(h).float()
        return logits.gather(-1, t[:, None])[:, 0] - logits.logsumexp(-1)

    return _in_chunks(chunk, head, hidden, targets)


def kl_from_reference(
    hidden: Tensor, head: nn.Linear, reference_hidden: Tensor, reference_head: nn.Linear
) -> Tensor:
    """KL(P_0 || P_theta) per position, [n], with gradient in P_theta.

    It is sum_a P_0(a) (log P_0(a) - log P_theta(a)).
    """

    def chunk(h: Tensor, r: Tensor) -> Tensor:
        reference = reference_head(r).float().log_softmax(-1)
        return (reference.exp() * (reference - head(h).float().log_softmax(-1))).sum(-1)

    return _in_chunks(chunk, head, hidden, reference_hidden)


def distillation(
    hidden: Tensor,
    head: nn.Linear,
    targets: Tensor,
    reference_hidden: Tensor,
    reference_head: nn.Linear,
    penalty: float,
) -> Tensor:
    """Cross-entropy to softmax(z_0 - penalty onehot(target)) per position, [n], with gradient."""

    def chunk(h: Tensor, t: Tensor, r: Tensor) -> Tensor:
        reference = without_targets(reference_head(r).float(), t, penalty).softmax(-1)
        return -(reference * head(h).float().log_softmax(-1)).sum(-1)

    return _in_chunks(chunk, head, hidden, targets, reference_hidden)


def without_targets(logits: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """Logits [n, V] less a penalty at the targets [n]."""
    return logits.scatter_add(-1, targets[:, None], logits.new_full((len(targets), 1), -penalty))


class TokenScores(NamedTuple):
    """Result of one evaluation pass for each real target; all [n], float32 (`correct`: bool)."""

    logprob: Tensor
    correct: Tensor
    mean: Tensor
    """E[log P(a)] over a ~ P_theta, which is minus the entropy.

    Used by Min-K%++ (Zhang et al. 2025, arXiv 2404.02936).
    """
    sd: Tensor
    """Standard deviation of log P(a) over a ~ P_theta."""
    kl: Tensor
    vanilla: Tensor
    """log P_0 of the target."""


@torch.no_grad()
def token_scores(
    hidden: Tensor,
    head: nn.Linear,
    targets: Tensor,
    reference_hidden: Tensor,
    reference_head: nn.Linear,
) -> TokenScores:
    """All per-token quantities of the evaluation from one head pass."""
    parts = []
    for h, t, r in _chunks(
        chunk_size(head.out_features, hidden.device), hidden, targets, reference_hidden
    ):
        parts.append(_scores(head(h).float(), t, reference_head(r).float()))
    return TokenScores(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _scores(logits: Tensor, targets: Tensor, reference_logits: Tensor) -> TokenScores:
    # Autocast would compute the dot products in a lower precision.
    with torch.autocast(logits.device.type, enabled=False):
        logp, reference = logits.log_softmax(-1), reference_logits.log_softmax(-1)
        p = logp.exp()
        mean = vecdot(p, logp)
        variance = vecdot(p, (logp - mean[:, None]).square_())
        kl = vecdot(reference.exp(), reference - logp)
        logprob = logp.gather(-1, targets[:, None])[:, 0]
        # Twenty times faster than argmax; a tie with the target counts as correct.
        correct = logprob >= logp.amax(-1)
        vanilla = reference.gather(-1, targets[:, None])[:, 0]
        return TokenScores(logprob, correct, mean, variance.sqrt(), kl, vanilla)


@torch.no_grad()
def adversarial_targets(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """The most likely wrong token, argmax over a != x_t of P_0(a | x_<t), [n].

    It is taken from the hidden state that predicts x_t, never one position late.
    """
    parts = []
    for h, t in _chunks(chunk_size(head.out_features, hidden.device), hidden, targets):
        parts.append(head(h).float().scatter(-1, t[:, None], -torch.inf).argmax(-1))
    return torch.cat(parts)


def _in_chunks(function: Callable[..., Tensor], head: nn.Linear, *columns: Tensor) -> Tensor:
    parts = [
        checkpoint(function, *chunk, use_reentrant=False, preserve_rng_state=False)
        for chunk in _chunks(chunk_size(head.out_features, columns[0].device), *columns)
    ]
    return torch.cat(parts)


def _chunks(size: int, *columns: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(column.split(size) for column in columns), strict=True)

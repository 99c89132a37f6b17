"""What an unlearned model keeps when it is attacked or deployed: relearning, and rounded weights.

Relearning: a few updates of descent on a quarter of the forget set; does the rest come back?
(Lynch et al. 2024, arXiv 2402.16835; Hu et al., ICLR 2025, arXiv 2406.13356.) Rounding: weights to
few bits; does the forgetting survive? (Zhang et al., ICLR 2025, arXiv 2410.16454.) Both are also
measured on the exactly retrained model, which is what they are to be compared with.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ray_unlearn.unlearn.head import logprob_sum
from ray_unlearn.unlearn.logprobs import target_logprobs
from ray_unlearn.unlearn.workspace import Workspace

LEARNING_RATE = 1e-4
LOOKS = (0, 5, 20)
"""Updates of relearning after which the rest of the forget set is looked at."""
BATCH = 8
KEPT_SETS = ("retain_heldout", "general_evaluation")


def relearning_curve(workspace: Workspace) -> dict[int, float]:
    """Forget NLL of three quarters of the forget set while the other quarter is learnt again.

    Plain descent with AdamW at 1e-4, 8 sequences per update, gradients clipped at norm 1. The
    policy is changed.

    Returns:
        By update, nats/token.
    """
    quarter, rest = quarters(len(workspace.data.splits["forget"]))
    draws = np.random.default_rng(1)

    def loss(update: int) -> Tensor:
        chosen = np.sort(draws.choice(quarter, min(BATCH, len(quarter)), replace=False))
        batch = workspace.batch("forget", chosen)
        found: Tensor = workspace.policy.scored(batch, partial(logprob_sum, targets=batch.targets))
        return -found.sum() / len(batch.targets)

    return descend(
        workspace.parameters, loss, lambda: mean_nll(workspace, "forget", rest), LEARNING_RATE
    )


def quarters(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A fixed quarter of that many sequences, and the rest; both rising."""
    order = np.random.default_rng(0).permutation(size)
    return np.sort(order[: size // 4]), np.sort(order[size // 4 :])


def descend(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[int], Tensor],
    measure: Callable[[], float],
    learning_rate: float,
    looks: Sequence[int] = LOOKS,
) -> dict[int, float]:
    """What `measure` says after each number of updates in `looks`.

    Args:
        parameters: what is changed.
        loss: of an update, which counts from 0.
        measure: looks at the model.
        learning_rate: of AdamW without weight decay.
        looks: rising.
    """
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    found = {}
    for update in range(looks[-1] + 1):
        if update in looks:
            found[update] = measure()
        if update < looks[-1]:
            optimizer.zero_grad(set_to_none=True)
            loss(update).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return found


@torch.no_grad()
def round_linear_weights(model: nn.Module, bits: int) -> None:
    """Round the weights of all linear layers to nearest, in place, on a grid per output channel.

    The grid is symmetric: 2^(bits-1) - 1 steps from 0 to the channel's greatest weight. The output
    head stays as it is, as in the usual libraries; here it is the embedding too.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            steps = 2 ** (bits - 1) - 1
            size = module.weight.abs().amax(dim=1, keepdim=True) / steps
            size = torch.where(size > 0, size, torch.ones_like(size))
            module.weight.copy_((module.weight / size).round() * size)


def nlls(workspace: Workspace) -> Mapping[str, float]:
    """Token-mean NLL on forget, held-out retain and general text, nats/token."""
    sets = ("forget", *KEPT_SETS)
    return {name: mean_nll(workspace, name) for name in sets}


@torch.no_grad()
def mean_nll(workspace: Workspace, split: str, chosen: NDArray[np.int64] | None = None) -> float:
    """Token-mean NLL of the policy on these sequences of a split, or on all of it."""
    if chosen is None:
        chosen = np.arange(len(workspace.data.splits[split]))
    total, targets, size = 0.0, 0, workspace.evaluation_batch_size
    for start in range(0, len(chosen), size):
        batch = workspace.batch(split, chosen[start : start + size])
        found: Tensor = workspace.policy.scored(
            batch, partial(target_logprobs, targets=batch.targets)
        )
        total -= float(found.double().sum())
        targets += len(found)
    return total / targets

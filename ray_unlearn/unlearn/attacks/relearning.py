"""Relearning: a few updates of descent, to see whether what was forgotten comes back.

On a share of the forget set, with the rest measured (Lynch et al. 2024, arXiv 2402.16835), and on
related text, with the whole forget set measured (Hu et al., ICLR 2025, arXiv 2406.13356). The same
descent on the exactly retrained model says how much of it is plain learning.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ray_unlearn.spec.attack_spec import AttackSpec
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import Rounding
from ray_unlearn.unlearn.attacks.victim import Victim, loss_on
from ray_unlearn.unlearn.data_order import batch as drawn
from ray_unlearn.unlearn.head import logprob_sum
from ray_unlearn.unlearn.optimizer import Rounded
from ray_unlearn.unlearn.token_set import TokenSet

SEED = 0
"""Of the share that is learnt and of the order in which it is: the same for all models."""
MAX_GRAD_NORM = 1.0


def relearning_curve(victim: Victim, learnt: str, how: AttackSpec) -> dict[int, float]:
    """Forget NLL while text is learnt; the weights are put back afterwards.

    Plain descent with AdamW without weight decay, gradients clipped at norm 1. Sequences come in
    passes of a random order.

    Args:
        victim: the model.
        learnt: `forget`, of which a share is learnt and the rest measured, or another split, with
            the whole forget set measured.
        how: updates, learning rate, batch size and share.

    Returns:
        By update, from 0 on, nats/token.

    Raises:
        UserError: a share that leaves nothing to learn or to measure.
    """
    splits = victim.workspace.data.splits
    tokens, rest = splits[learnt], None
    sequences = np.arange(len(tokens))
    if learnt == "forget":
        sequences, rest = dealt_share(tokens, how.share)

    def loss(update: int) -> Tensor:
        chosen, _ = drawn(SEED, learnt, update + 1, how.batch_size, len(sequences))
        batch = victim.workspace.batch_of(tokens, sequences[chosen])
        found: Tensor = victim.scored(batch, partial(logprob_sum, targets=batch.targets))
        return -found / len(batch.targets)

    with victim.restored():
        return descend(
            victim.parameters,
            loss,
            lambda: loss_on(victim, splits["forget"], rest)[0],
            how.learning_rate,
            sorted({0, *how.updates}),
            victim.workspace.rounding,
        )


def dealt_share(tokens: TokenSet, share: float) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Sequences of a random share of the documents, and the documents without a token in them.

    Args:
        tokens: the forget set.
        share: fraction of the documents, more than 0 and less than 1.

    Returns:
        Sequences to learn, rising; and [D], True for documents that are measured.

    Raises:
        UserError: one of the two is empty.
    """
    size = len(tokens.selection)
    order = np.random.default_rng(SEED).permutation(size)
    chosen = np.isin(tokens.document, order[: round(share * size)])
    sequences = np.flatnonzero(chosen.any(axis=1))
    touched = np.unique(tokens.document[sequences])
    rest = np.ones(size, dtype=bool)
    rest[touched[touched >= 0]] = False
    if not len(sequences) or not rest.any():
        raise UserError(
            f"relearn: a share of {share:g} of {size} forget document(s) leaves nothing to "
            f"{'learn' if not len(sequences) else 'measure'}; give another `share`, or learn "
            "another text"
        )
    return sequences, rest


def descend(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[int], Tensor],
    measure: Callable[[], float],
    learning_rate: float,
    looks: Sequence[int],
    rounding: Rounding = "stochastic",
) -> dict[int, float]:
    """What `measure` says after each number of updates in `looks`; it changes the parameters.

    Args:
        parameters: what is changed.
        loss: of an update, which counts from 0.
        measure: looks at the model.
        learning_rate: of AdamW without weight decay.
        looks: rising.
        rounding: of bfloat16 weights after an update.
    """
    optimizer = _adamw(parameters, learning_rate, rounding)
    found = {}
    for update in range(looks[-1] + 1):
        if update in looks:
            found[update] = measure()
        if update < looks[-1]:
            optimizer.zero_grad(set_to_none=True)
            loss(update).backward()
            nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return found


def _adamw(
    parameters: Sequence[nn.Parameter], learning_rate: float, rounding: Rounding
) -> torch.optim.Optimizer:
    if all(p.dtype == torch.float32 for p in parameters):
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    return Rounded(parameters, learning_rate, rounding=rounding, seed=SEED)

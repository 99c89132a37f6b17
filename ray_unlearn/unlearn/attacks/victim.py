"""A model under attack: plain weights that an attack may change, and that are put back."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ray_unlearn.unlearn.logprobs import TokenScores, token_scores
from ray_unlearn.unlearn.policy import Adapters, WholeModel
from ray_unlearn.unlearn.scored import Scored
from ray_unlearn.unlearn.strength import put_back, trained_weights
from ray_unlearn.unlearn.token_set import TokenSet
from ray_unlearn.unlearn.workspace import Workspace


@dataclass(frozen=True)
class Victim:
    """A causal LM whose every weight an attack may change, in the workspace it is measured in.

    An attacker has the released model, so adapters are merged into the weights.
    """

    workspace: Workspace
    scored: Scored
    parameters: list[nn.Parameter]

    @property
    def model(self) -> Any:
        """The causal LM."""
        return self.scored.model

    @contextmanager
    def restored(self) -> Iterator[None]:
        """A context after which the weights are what they were before, bit for bit."""
        kept = trained_weights(self.parameters)
        try:
            yield
        finally:
            put_back(self.parameters, kept)
            for parameter in self.parameters:
                parameter.grad = None


def victim_of(workspace: Workspace) -> Victim:
    """The policy as it is now.

    The whole model is attacked in place; of adapters a merged copy is.
    """
    policy = workspace.policy
    if isinstance(policy, WholeModel):
        return Victim(workspace, policy.scored, policy.parameters)
    assert isinstance(policy, Adapters), "one process holds the whole model"
    merged = policy.merged()
    for module in merged.modules():
        # A layer with activation checkpointing holds the policy's own forward.
        module.__dict__.pop("forward", None)
    merged.requires_grad_(True)
    return Victim(workspace, policy.scored.like(merged), list(merged.parameters()))


def other_victim(workspace: Workspace, model: Any) -> Victim:
    """Another model of the same kind, such as the exactly retrained one.

    Raises:
        UserError: it cannot read the batches that the policy reads.
    """
    scored = workspace.scored(model)
    assert isinstance(scored, Scored), "one process holds the whole model"
    scored.requires_grad_(True)
    return Victim(workspace, scored, list(model.parameters()))


def loss_on(
    victim: Victim, tokens: TokenSet, documents: NDArray[np.bool_] | None = None
) -> tuple[float, float]:
    """Token-mean NLL (nats/token) and accuracy on documents of a set.

    Args:
        victim: the model.
        tokens: the set.
        documents: [D], True for those that are measured; None: all of them.
    """
    chosen = np.arange(len(tokens))
    if documents is not None:
        chosen = np.flatnonzero(documents[tokens.document].any(axis=1, where=tokens.document >= 0))
    logprob, correct = _scores(victim, tokens, chosen)
    if documents is not None:
        of = tokens.document[chosen][:, 1:][tokens.target_mask[chosen]]
        logprob, correct = logprob[documents[of]], correct[documents[of]]
    return -float(logprob.mean()), float(correct.mean())


@torch.no_grad()
def _scores(
    victim: Victim, tokens: TokenSet, chosen: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """log P and whether it is the argmax, of each real target of these sequences."""
    found = []
    for start in range(0, len(chosen), victim.workspace.evaluation_batch_size):
        indices = chosen[start : start + victim.workspace.evaluation_batch_size]
        batch = victim.workspace.batch_of(tokens, indices)

        def use(hidden: torch.Tensor, head: nn.Linear, targets: Any = batch.targets) -> TokenScores:
            return token_scores(hidden, head, targets, hidden, head)

        found.append(victim.scored(batch, use))
    columns = list(zip(*found, strict=True))
    logprob, correct = (torch.cat(columns[index]).cpu().numpy() for index in (0, 1))
    return logprob.astype(np.float64), correct

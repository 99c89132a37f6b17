"""One evaluation: one forward pass over each set gives every metric."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ray_unlearn.store.schema import SETS, Metrics
from ray_unlearn.unlearn.data import EVALUATED
from ray_unlearn.unlearn.halves import deal_halves, half_metrics
from ray_unlearn.unlearn.logprobs import TokenScores, token_scores
from ray_unlearn.unlearn.metrics import SetScores, row_metrics
from ray_unlearn.unlearn.scored import Scored
from ray_unlearn.unlearn.workspace import Workspace


def evaluate(workspace: Workspace, other: Scored | None = None) -> Metrics:
    """All metrics of the policy as it is now, or of another model.

    A collective of all ranks, with the same row on every rank.
    """
    sets = _scores(workspace, other or workspace.policy.scored)
    return workspace.comm.broadcast(None if sets is None else row_metrics(sets))


def evaluate_vanilla(workspace: Workspace) -> Metrics:
    """All metrics of the policy, which is the vanilla model now, and what its halves hold.

    Deals the halves first, where that is still to be done. A collective of all ranks.
    """
    sets = _scores(workspace, workspace.policy.scored)
    if workspace.data.to_deal:
        dealt = None
        if sets is not None:
            dealt = deal_halves(sets)
            sets |= {name: replace(sets[name], selection=half) for name, half in dealt.items()}
        workspace.use_halves(workspace.comm.broadcast(dealt))
    row = None if sets is None else row_metrics(sets) | half_metrics(sets, workspace.data.dealing)
    return workspace.comm.broadcast(row)


def _scores(workspace: Workspace, model: Scored) -> dict[str, SetScores] | None:
    """Of all sets on rank 0, None on the others."""
    gathered = {name: _gathered(workspace, model, name) for name in SETS}
    found = {name: scores for name, scores in gathered.items() if scores is not None}
    return found if workspace.comm.rank == 0 else None


@torch.no_grad()
def _gathered(workspace: Workspace, model: Scored, name: str) -> SetScores | None:
    """Scores of the whole set on rank 0.

    Each rank scores a run of consecutive sequences, so the order stays the same.
    """
    split = EVALUATED[name]
    tokens = workspace.data.splits[split]
    comm = workspace.comm
    bounds = np.linspace(0, len(tokens), comm.world_size + 1).round().astype(int)
    own = np.arange(bounds[comm.rank], bounds[comm.rank + 1])
    batches = -(-np.diff(bounds) // workspace.evaluation_batch_size)
    _idle_calls(workspace, model, split, int(batches[comm.rank]), int(batches.max()))
    parts = comm.gather(_own_scores(workspace, model, split, own))
    if parts is None:
        return None
    logprob, correct, mean, sd, kl = (np.concatenate(column) for column in zip(*parts, strict=True))
    return SetScores(
        logprob.astype(np.float64), correct, mean.astype(np.float64), sd.astype(np.float64),
        kl.astype(np.float64),
        tokens.target_document, tokens.compressed_bytes, tokens.selection,
    )  # fmt: skip


def _idle_calls(workspace: Workspace, model: Scored, split: str, mine: int, most: int) -> None:
    """What a batch calls, for nothing."""
    first = np.zeros(1, dtype=np.int64)
    for _ in workspace.idle_calls(mine, most):
        workspace.reference.hidden(split, first)
        model(workspace.batch(split, first), lambda hidden, head: None)


def _own_scores(
    workspace: Workspace, model: Scored, split: str, own: NDArray[np.int64]
) -> tuple[NDArray[np.float32 | np.bool_], ...]:
    """Scores of these sequences' real targets, in sequence order."""
    if not len(own):
        empty = np.zeros(0, dtype=np.float32)
        return (empty, empty.astype(bool), empty, empty, empty)
    parts: list[TokenScores] = []
    for start in range(0, len(own), workspace.evaluation_batch_size):
        chosen = own[start : start + workspace.evaluation_batch_size]
        batch = workspace.batch(split, chosen)
        reference = workspace.reference.hidden(split, chosen)
        use = partial(
            token_scores,
            targets=batch.targets,
            reference_hidden=reference,
            reference_head=workspace.reference.head,
        )
        parts.append(model(batch, use))
    return tuple(torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))

"""One evaluation: one forward pass over each set gives every metric."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_unlearn.store.schema import SETS, Metrics
from ray_unlearn.unlearn.data import EVALUATED
from ray_unlearn.unlearn.halves import deal_halves, half_metrics
from ray_unlearn.unlearn.logprobs import TokenScores, target_logprobs, token_scores
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
def forget_nll(workspace: Workspace) -> float:
    """Token-mean NLL of the policy as it is now on the forget set, nats/token.

    It is what `evaluate` says, to rounding, from a pass over that set alone. A collective of all
    ranks, and the same on each.
    """
    model, split, comm = workspace.policy.scored, EVALUATED["forget"], workspace.comm
    own, idle = _own_part(workspace, split)
    for _ in workspace.idle_calls(0, idle):
        model(workspace.batch(split, np.zeros(1, dtype=np.int64)), lambda hidden, head: None)
    total, targets = 0.0, 0
    for chosen in _batches(workspace, own):
        batch = workspace.batch(split, chosen)
        found: Tensor = model(batch, partial(target_logprobs, targets=batch.targets))
        total -= float(found.double().sum())
        targets += len(found)
    parts = comm.gather((total, targets))
    sums = None if parts is None else [sum(column) for column in zip(*parts, strict=True)]
    return float(comm.broadcast(None if sums is None else sums[0] / sums[1]))


@torch.no_grad()
def _gathered(workspace: Workspace, model: Scored, name: str) -> SetScores | None:
    """Scores of the whole set on rank 0."""
    split = EVALUATED[name]
    tokens = workspace.data.splits[split]
    own, idle = _own_part(workspace, split)
    _idle_calls(workspace, model, split, idle)
    parts = workspace.comm.gather(_own_scores(workspace, model, split, own))
    if parts is None:
        return None
    logprob, correct, mean, sd, kl = (np.concatenate(column) for column in zip(*parts, strict=True))
    return SetScores(
        logprob.astype(np.float64), correct, mean.astype(np.float64), sd.astype(np.float64),
        kl.astype(np.float64),
        tokens.target_document, tokens.compressed_bytes, tokens.selection,
    )  # fmt: skip


def _own_part(workspace: Workspace, split: str) -> tuple[NDArray[np.int64], int]:
    """This rank's sequences, and how many batches fewer it has than the rank with the most.

    Each rank has a run of consecutive sequences, so the order stays the same.
    """
    comm = workspace.comm
    bounds = np.linspace(0, len(workspace.data.splits[split]), comm.world_size + 1)
    bounds = bounds.round().astype(int)
    batches = -(-np.diff(bounds) // workspace.evaluation_batch_size)
    own = np.arange(bounds[comm.rank], bounds[comm.rank + 1])
    return own, int(batches.max() - batches[comm.rank])


def _batches(workspace: Workspace, own: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(own), workspace.evaluation_batch_size):
        yield own[start : start + workspace.evaluation_batch_size]


def _idle_calls(workspace: Workspace, model: Scored, split: str, idle: int) -> None:
    """What a batch calls, for nothing."""
    first = np.zeros(1, dtype=np.int64)
    for _ in workspace.idle_calls(0, idle):
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
    for chosen in _batches(workspace, own):
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

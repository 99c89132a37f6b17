"""One evaluation: one forward pass over each set gives every metric."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ray_unlearn.results.schema import SETS, Metrics
from ray_unlearn.unlearn.data import EVALUATED, TokenSet
from ray_unlearn.unlearn.logprobs import TokenScores, token_scores
from ray_unlearn.unlearn.metrics import SetScores, row_metrics
from ray_unlearn.unlearn.scored import Scored
from ray_unlearn.unlearn.workspace import Workspace


def evaluate(workspace: Workspace, other: Scored | None = None) -> Metrics:
    """All metrics of the policy as it is now, or of another model; the same row on every rank. A collective of all ranks."""
    model = other or workspace.trained.scored
    gathered = {name: _gathered(workspace, model, name) for name in SETS}
    row = (
        row_metrics({name: scores for name, scores in gathered.items() if scores}) if workspace.comm.rank == 0 else None
    )
    return workspace.comm.broadcast(row)


@torch.no_grad()
def _gathered(workspace: Workspace, model: Scored, name: str) -> SetScores | None:
    """Scores of the whole set on rank 0. Each rank takes a run of consecutive sequences, so order is kept."""
    split = EVALUATED[name]
    tokens = workspace.data.splits[split]
    comm = workspace.comm
    bounds = np.linspace(0, len(tokens), comm.world + 1).round().astype(int)
    own = np.arange(bounds[comm.rank], bounds[comm.rank + 1])
    parts = comm.gather(_own_scores(workspace, model, split, tokens, own))
    if parts is None:
        return None
    logprob, correct, mean, sd, kl = (np.concatenate(column) for column in zip(*parts, strict=True))
    return SetScores(
        logprob.astype(np.float64), correct, mean.astype(np.float64), sd.astype(np.float64), kl.astype(np.float64),
        tokens.target_document, tokens.compressed_bytes, tokens.selection,
    )  # fmt: skip


def _own_scores(
    workspace: Workspace, model: Scored, split: str, tokens: TokenSet, own: NDArray[np.int64]
) -> tuple[NDArray[np.float32 | np.bool_], ...]:
    """Scores of these sequences' real targets, in sequence order; batches are bucketed by length and cut to their longest."""
    if not len(own):
        empty = np.zeros(0, dtype=np.float32)
        return (empty, empty.astype(bool), empty, empty, empty)
    lengths = (tokens.document[own] >= 0).sum(axis=1)
    order = np.argsort(-lengths, kind="stable")
    parts: list[TokenScores] = []
    for start in range(0, len(own), workspace.evaluation_batch_size):
        chosen = order[start : start + workspace.evaluation_batch_size]
        longest = int(lengths[chosen[0]])
        input_ids, position_ids, mask = workspace.inputs(split, own[chosen], longest)
        reference = workspace.reference.hidden(split, own[chosen])[:, : longest - 1][mask]
        parts.append(model(input_ids, position_ids, _scores(input_ids[:, 1:][mask], mask, reference, workspace)))
    back = _back_to_sequence_order(tokens.target_mask[own].sum(axis=1), order)
    return tuple(torch.cat(column).cpu().numpy()[back] for column in zip(*parts, strict=True))


def _scores(targets: Tensor, mask: Tensor, reference: Tensor, workspace: Workspace) -> Callable[..., TokenScores]:
    def use(hidden: Tensor, head: nn.Linear) -> TokenScores:
        return token_scores(hidden[:, :-1][mask], head, targets, reference, workspace.reference.head)

    return use


def _back_to_sequence_order(targets: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index that undoes the bucketing: `targets` [N] per sequence, `order` [N] the sequences as they were scored."""
    starts = np.zeros(len(order), dtype=np.int64)
    starts[order] = np.cumsum(targets[order]) - targets[order]
    return np.concatenate([np.arange(start, start + size) for start, size in zip(starts, targets, strict=True)])

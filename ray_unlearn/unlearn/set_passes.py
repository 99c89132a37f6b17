"""Forward passes over whole sets: per-token scores, gathered from all ranks."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_unlearn.store.schema import SETS
from ray_unlearn.unlearn.data import split_evaluated
from ray_unlearn.unlearn.logprobs import TokenScores, target_logprobs, token_scores
from ray_unlearn.unlearn.metrics import Floats, SetScores, mean_by_document
from ray_unlearn.unlearn.scored import Scored
from ray_unlearn.unlearn.token_set import TokenSet
from ray_unlearn.unlearn.workspace import Workspace

Columns = tuple[NDArray[Any], ...]
"""`TokenScores` as arrays, in the order of the targets."""


def set_scores(workspace: Workspace, model: Scored) -> dict[str, SetScores] | None:
    """Per-token scores of every evaluated set, by its name, on rank 0; None on the others."""
    names = (*SETS, *workspace.data.watched)
    gathered = {name: token_columns(workspace, model, split_evaluated(name)) for name in names}
    return {
        name: scores_of(workspace.data.splits[split_evaluated(name)], columns)
        for name, columns in gathered.items()
        if columns is not None
    } or None


def scores_of(tokens: TokenSet, columns: Columns) -> SetScores:
    """The scores of all targets of a set."""
    logprob, correct, mean, sd, kl, vanilla = columns
    return SetScores(
        logprob.astype(np.float64), correct, mean.astype(np.float64), sd.astype(np.float64),
        kl.astype(np.float64), vanilla.astype(np.float64),
        tokens.target_document, tokens.compressed_bytes, tokens.selection,
    )  # fmt: skip


@torch.no_grad()
def document_means(workspace: Workspace, model: Scored, split: str) -> Floats | None:
    """Mean log-probability of each document's targets, [D], on rank 0; None on the others."""
    parts = workspace.comm.gather(
        [batch.float().cpu().numpy() for batch in own_logprobs(workspace, model, split)]
    )
    if parts is None:
        return None
    tokens = workspace.data.splits[split]
    logprobs = np.concatenate([batch for part in parts for batch in part]).astype(np.float64)
    return mean_by_document(logprobs, tokens.target_document, len(tokens.selection))


def own_logprobs(workspace: Workspace, model: Scored, split: str) -> Iterator[Tensor]:
    """Log-probabilities of the targets of this rank's part of a split, batch by batch."""
    own, idle = _own_part(workspace, split)
    for _ in workspace.idle_calls(0, idle):
        model(workspace.batch(split, np.zeros(1, dtype=np.int64)), lambda hidden, head: None)
    for chosen in _batches(workspace, own):
        batch = workspace.batch(split, chosen)
        found: Tensor = model(batch, partial(target_logprobs, targets=batch.targets))
        yield found


@torch.no_grad()
def token_columns(
    workspace: Workspace,
    model: Scored,
    split: str,
    sequences: NDArray[np.int64] | None = None,
) -> Columns | None:
    """Scores of the targets of these sequences (None: all) on rank 0; None on the others.

    A collective of all ranks.
    """
    own, idle = _own_part(workspace, split, sequences)
    _idle_calls(workspace, model, split, idle)
    parts = workspace.comm.gather(_own_scores(workspace, model, split, own))
    if parts is None:
        return None
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _own_part(
    workspace: Workspace, split: str, sequences: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], int]:
    """This rank's part of these sequences, and its batches less than the rank with the most has.

    Each rank has a run of them (None: of all), so the order stays the same.
    """
    comm = workspace.comm
    if sequences is None:
        sequences = np.arange(len(workspace.data.splits[split]))
    bounds = np.linspace(0, len(sequences), comm.world_size + 1)
    bounds = bounds.round().astype(int)
    batches = -(-np.diff(bounds) // workspace.evaluation_batch_size)
    own = sequences[bounds[comm.rank] : bounds[comm.rank + 1]]
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
        return (empty, empty.astype(bool), empty, empty, empty, empty)
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

"""Batches: the real tokens of some sequences in one row without padding, or in rows with it.

Documents differ in length, and padding costs as much as text: with a fifth of padding, an update
takes a fifth longer for nothing. So a batch is one row of real tokens, and attention, the only
operation that mixes tokens, runs document by document. Packed sequences then need no block mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ray_unlearn.unlearn.token_set import TokenSet

ATTENTION = "ray_unlearn_documents"
"""Name under which `attend_by_document` is registered with transformers."""


@dataclass(frozen=True)
class Batch:
    """The input of a forward pass, and which of its final hidden states predict a real target."""

    input_ids: Tensor
    """[1, N], or padded [B, T]."""
    position_ids: Tensor | None
    """[1, N] or [B, T], from 0 on in each document; None: from 0 on in each row."""
    document_lengths: tuple[int, ...] | None
    """Tokens of each document of the row, N in all; None for a batch of several rows."""
    rows: Tensor
    """[n]: positions in the flattened row or rows."""
    targets: Tensor
    """[n]: the tokens that are predicted at `rows`."""

    def without_targets(self) -> "Batch":
        """The same pass with no target to predict."""
        return replace(self, rows=self.rows[:0], targets=self.targets[:0])


def ragged(tokens: TokenSet, indices: NDArray[np.int64], device: torch.device) -> Batch:
    """The real tokens of these sequences in one row, long documents first.

    Documents of equal length are then neighbours. Targets are in the order of `target_mask`.
    """
    starts, lengths = document_runs(tokens, indices)
    order = np.argsort(-lengths, kind="stable")
    row = np.concatenate([np.arange(starts[i], starts[i] + lengths[i]) for i in order])
    place = np.empty(len(row), dtype=np.int64)
    place[row] = np.arange(len(row))
    rows, targets = _predicted(tokens, indices, place)
    real = tokens.document[indices] >= 0
    ids, positions, rows_there, targets_there = on_device(
        [
            tokens.input_ids[indices][real][row][None],
            np.concatenate([np.arange(length) for length in lengths[order]])[None],
            rows,
            targets,
        ],
        device,
    )
    documents = tuple(int(length) for length in lengths[order])
    return Batch(ids, positions, documents, rows_there, targets_there)


def apart(tokens: TokenSet, indices: NDArray[np.int64], device: torch.device) -> Batch:
    """A row for each document of these sequences, padded to the longest.

    It is for packed data and a model that cannot separate the documents of a row.
    """
    _, lengths = document_runs(tokens, indices)
    is_real = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(is_real.shape, dtype=np.int64)
    ids[is_real] = tokens.input_ids[indices][tokens.document[indices] >= 0]
    rows, targets = _predicted(tokens, indices, np.flatnonzero(is_real))
    there = on_device([ids, rows, targets], device)
    return Batch(there[0], None, None, *there[1:])


def _predicted(
    tokens: TokenSet, indices: NDArray[np.int64], place: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Positions that predict a target, and the targets, for real tokens at `place`."""
    real, predicts = tokens.document[indices] >= 0, tokens.target_mask[indices]
    number = (np.cumsum(real) - 1).reshape(real.shape)
    return place[number[:, :-1][predicts]], tokens.input_ids[indices][:, 1:][predicts]


def document_runs(
    tokens: TokenSet, indices: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and length of each document among the real tokens of these sequences.

    A document that fills two sequences counts as two here.
    """
    document = tokens.document[indices]
    real = document >= 0
    pairs = np.stack([np.nonzero(real)[0], document[real]])
    starts = np.concatenate(
        [[0], np.flatnonzero(np.any(pairs[:, 1:] != pairs[:, :-1], axis=0)) + 1]
    )
    return starts, np.diff(np.append(starts, pairs.shape[1]))


def target_documents(tokens: TokenSet, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for the document of each target of these sequences, [n], in order of `target_mask`.

    Equal for targets of one document in one sequence, and not consecutive.
    """
    sequence = np.arange(len(indices))[:, None] * (int(tokens.document.max()) + 1)
    return (sequence + tokens.document[indices])[:, 1:][tokens.target_mask[indices]]


def padded(tokens: TokenSet, indices: NDArray[np.int64], device: torch.device) -> Batch:
    """These sequences as they are, packed or not, cut to the longest of them.

    Padding becomes token 0: that of a tokenizer may be beyond the model's vocabulary.
    """
    longest = int((tokens.document[indices] >= 0).sum(axis=1).max())
    ids, predicts = tokens.input_ids[indices, :longest], tokens.target_mask[indices, : longest - 1]
    positions = tokens.position_ids
    sequence, column = np.nonzero(predicts)
    is_real = tokens.document[indices, :longest] >= 0
    ids_there, rows, targets, *packed = on_device(
        [
            np.where(is_real, ids, 0),
            sequence * longest + column,
            ids[:, 1:][predicts],
            *([] if positions is None else [positions[indices, :longest]]),
        ],
        device,
    )
    return Batch(ids_there, packed[0] if packed else None, None, rows, targets)


def attend_by_document(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    document_lengths: tuple[int, ...] | None = None,
    **named: Any,
) -> tuple[Tensor, None]:
    """SDPA attention of transformers for each document of a row; query [1, heads, N, D].

    Without `document_lengths` it attends over the batch as it is. Neighbours of equal length go
    through the kernel together.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    named |= {"is_causal": True}
    if document_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **named)
    runs = [(length, len(list(same))) for length, same in groupby(document_lengths)]
    sizes = [length * many for length, many in runs]
    parts = []
    # `split`, not slices: the gradient of a slice is a whole row of zeros
    for (_, many), *columns in zip(
        runs, *(column[0].split(sizes, dim=1) for column in (query, key, value)), strict=True
    ):
        q, k, v = (column.unflatten(1, (many, -1)).transpose(0, 1) for column in columns)
        found, _ = sdpa_attention_forward(module, q, k, v, None, **named)
        parts.append(found.flatten(0, 1))
    return torch.cat(parts)[None], None


def joined_batches(first: Batch, second: Batch) -> Batch:
    """Two batches of one layout in one pass; the targets of the first come first."""
    targets = torch.cat([first.targets, second.targets])
    if first.document_lengths is not None and second.document_lengths is not None:
        assert first.position_ids is not None
        assert second.position_ids is not None
        return Batch(
            torch.cat([first.input_ids, second.input_ids], dim=1),
            torch.cat([first.position_ids, second.position_ids], dim=1),
            first.document_lengths + second.document_lengths,
            torch.cat([first.rows, second.rows + first.input_ids.numel()]),
            targets,
        )
    width = max(first.input_ids.shape[1], second.input_ids.shape[1])
    one, other = _widened(first, width), _widened(second, width)
    positions = None
    if first.position_ids is not None or second.position_ids is not None:
        positions = torch.cat([_positions(one), _positions(other)])
    return Batch(
        torch.cat([one.input_ids, other.input_ids]),
        positions,
        None,
        torch.cat([one.rows, other.rows + one.input_ids.numel()]),
        targets,
    )


def _widened(batch: Batch, width: int) -> Batch:
    """The same rows with padding up to `width`."""
    before = batch.input_ids.shape[1]
    ids, positions = (
        None if each is None else nn.functional.pad(each, (0, width - before))
        for each in (batch.input_ids, batch.position_ids)
    )
    assert ids is not None
    rows = batch.rows // before * width + batch.rows % before
    return Batch(ids, positions, None, rows, batch.targets)


def _positions(batch: Batch) -> Tensor:
    if batch.position_ids is not None:
        return batch.position_ids
    rows, width = batch.input_ids.shape
    return torch.arange(width, device=batch.input_ids.device).expand(rows, width)


def on_device(arrays: Sequence[NDArray[Any]], device: torch.device) -> list[Tensor]:
    """These integers as int64 tensors of their shapes.

    They go to a GPU in one copy from pinned memory, which the host does not wait for; a copy from
    other memory would wait until the GPU has caught up.
    """
    if device.type != "cuda":
        return [torch.from_numpy(np.ascontiguousarray(a)).to(device).long() for a in arrays]
    flat = torch.from_numpy(np.concatenate([a.ravel().astype(np.int64) for a in arrays]))
    parts = flat.pin_memory().to(device, non_blocking=True).split([a.size for a in arrays])
    return [part.view(a.shape) for part, a in zip(parts, arrays, strict=True)]

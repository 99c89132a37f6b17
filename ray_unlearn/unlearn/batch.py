"""Batches without padding: the real tokens of some sequences in one row, each document attending to
itself.

Documents are of different lengths, and padding costs as much as text: with a fifth of padding, an
update takes a fifth longer for nothing. So a batch is one row of real tokens, and attention, the
only place where tokens meet, is run document by document. Packed sequences need no block mask that
way.
"""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ray_unlearn.unlearn.data import TokenSet
from ray_unlearn.unlearn.model import hidden_states

ATTENTION = "ray_unlearn_documents"
"""Name under which `attend_by_document` is registered with transformers."""
PROBE_LENGTHS = (7, 3, 7)


@dataclass(frozen=True)
class Batch:
    """What a forward pass reads, and which of its final hidden states predict a real target."""

    input_ids: Tensor
    """[1, N], or padded [B, T]."""
    position_ids: Tensor | None
    """Likewise; None: from 0 on in each row."""
    document_lengths: tuple[int, ...] | None
    """Of the row's documents, N in all; None for a padded batch."""
    rows: Tensor
    """[n]: places in the flattened row or rows."""
    targets: Tensor
    """[n]: the tokens that are predicted there."""

    def without_targets(self) -> "Batch":
        """The same pass, of which nothing is used."""
        return Batch(
            self.input_ids,
            self.position_ids,
            self.document_lengths,
            self.rows[:0],
            self.targets[:0],
        )


def ragged(tokens: TokenSet, indices: NDArray[np.int64], device: torch.device) -> Batch:
    """These sequences' real tokens in one row, long documents first, so that those of equal length
    are neighbours; targets in the order of `target_mask`."""
    ids, real = tokens.input_ids[indices], tokens.document[indices] >= 0
    starts, lengths = document_runs(tokens, indices)
    order = np.argsort(-lengths, kind="stable")
    row = np.concatenate([np.arange(starts[i], starts[i] + lengths[i]) for i in order])
    place = np.empty(len(row), dtype=np.int64)
    place[row] = np.arange(len(row))
    number = (np.cumsum(real) - 1).reshape(real.shape)
    predicts = tokens.target_mask[indices]
    return Batch(
        _to(ids[real][row][None], device),
        _to(np.concatenate([np.arange(length) for length in lengths[order]])[None], device),
        tuple(int(length) for length in lengths[order]),
        _to(place[number[:, :-1][predicts]], device),
        _to(ids[:, 1:][predicts], device),
    )


def document_runs(
    tokens: TokenSet, indices: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and length of each document among the real tokens of these sequences; one that fills
    two sequences is two here."""
    document = tokens.document[indices]
    real = document >= 0
    pairs = np.stack([np.nonzero(real)[0], document[real]])
    starts = np.concatenate(
        [[0], np.flatnonzero(np.any(pairs[:, 1:] != pairs[:, :-1], axis=0)) + 1]
    )
    return starts, np.diff(np.append(starts, pairs.shape[1]))


def padded(tokens: TokenSet, indices: NDArray[np.int64], device: torch.device) -> Batch:
    """These sequences cut to the longest of them; the plain way, and for attention that cannot be
    run by document."""
    longest = int((tokens.document[indices] >= 0).sum(axis=1).max())
    ids, predicts = tokens.input_ids[indices, :longest], tokens.target_mask[indices, : longest - 1]
    positions = tokens.position_ids
    sequence, column = np.nonzero(predicts)
    return Batch(
        _to(ids, device),
        None if positions is None else _to(positions[indices, :longest], device),
        None,
        _to(sequence * longest + column, device),
        _to(ids[:, 1:][predicts], device),
    )


def attend_by_document(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    document_lengths: tuple[int, ...] | None = None,
    **named: Any,
) -> tuple[Tensor, None]:
    """transformers' SDPA attention for each document of a row; query [1, heads, N, D]. Without
    lengths: for the batch as it is.

    Neighbours of equal length go through the kernel together.
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


def use_documents(model: Any) -> bool:
    """Make the model attend by document, if that gives what it gave before: False, and nothing
    changed, otherwise.

    Tried on three documents of random tokens: sliding windows, position biases or soft-capped
    scores may need a mask.
    """
    from transformers import AttentionInterface

    if model.config._attn_implementation != "sdpa":
        return False
    window = getattr(model.config, "sliding_window", None)
    if window is not None and getattr(model.config, "use_sliding_window", True):
        return False  # the probe is too short to show it
    AttentionInterface.register(ATTENTION, attend_by_document)
    total = sum(PROBE_LENGTHS)
    device = model.get_output_embeddings().weight.device
    ids = (torch.arange(total, device=device) * 37 + 11) % model.config.vocab_size
    positions = torch.cat([torch.arange(length, device=device) for length in PROBE_LENGTHS])
    with torch.no_grad():
        expected = torch.cat(
            [hidden_states(model, part[None])[0] for part in ids.split(PROBE_LENGTHS)]
        )
        model.set_attn_implementation(ATTENTION)
        found = hidden_states(model, ids[None], positions[None], PROBE_LENGTHS)[0]
    tolerance = 1e-4 if expected.dtype == torch.float32 else 5e-2
    if (found - expected).float().norm() <= tolerance * expected.float().norm():
        return True
    model.set_attn_implementation("sdpa")
    return False


def _to(array: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device).long()

"""How documents may share a batch with this model: tried on a few documents before it is relied on.

Packed documents must not see each other, and padding must not be seen. Which ways of writing a
batch keep to that depends on the architecture and its attention: many ignore position ids, layers
that keep a state (convolutions, scans) run on over the end of a document, and some are not causal
at all. None of them says so, so each way is compared with the documents one at a time.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from ray_unlearn.spec.errors import UserError
from ray_unlearn.unlearn.batch import ATTENTION, Batch, apart, attend_by_document, padded, ragged
from ray_unlearn.unlearn.model import hidden_states
from ray_unlearn.unlearn.scored import Scored
from ray_unlearn.unlearn.token_set import TokenSet

Layout = Literal["by_document", "stored", "apart"]
"""by_document: one row of real tokens, attention runs document by document. stored: the sequences
of the token set as they are, padded or packed. apart: a row for each document."""
MAKERS: dict[Layout, Callable[[TokenSet, NDArray[np.int64], torch.device], Batch]] = {
    "by_document": ragged,
    "stored": padded,
    "apart": apart,
}
NOT_PACKED = (
    "data.layout: {} does not keep packed documents apart; each gets a padded row of its own, "
    "which "
    "gives the same results and takes longer"
)
PROBE_ROWS = ((7, 3), (3, 7))
"""Lengths of the probe's documents by packed sequence. Two sequences, for there is attention that
keeps documents apart in one row only."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest difference of hidden states, relative to the norm of a document's."""
NOISE_FACTOR = 4.0
"""A difference counts from so many times the one that a batch of equal documents makes: rounding
grows with depth, and it can send a token to another expert."""
States = Callable[[Batch], Tensor]


def choose_layout(model: Any, packed: bool) -> Layout:
    """The cheapest layout that gives this model's hidden states of documents one at a time.

    `by_document` where attention can be run so (the model's attention is changed then), else the
    stored sequences, else a row for each document.

    Args:
        model: a causal LM; its attention implementation may be changed.
        packed: whether documents share stored sequences.

    Raises:
        UserError: not even padded documents give what they give alone.
    """
    probe = Probe(model)
    states = states_of(Scored(model))
    truth = probe.alone(states)
    if attends_by_document(model, probe, truth):
        return "by_document"
    if probe.differs(states, "stored", truth, packed) is None:
        return "stored"
    problem = probe.differs(states, "apart", truth, packed) if packed else "padding is seen"
    if problem is None:
        return "apart"
    raise UserError(
        f"model.source: {type(model).__name__} gives other hidden states for documents in a padded "
        f"batch than for each alone ({problem}); it cannot be trained here (is it a causal model?)"
    )


def attends_by_document(model: Any, probe: "Probe", truth: Sequence[Tensor]) -> bool:
    """Make the model attend by document, if that gives what it gave before; else change nothing."""
    from transformers import AttentionInterface

    if model.config._attn_implementation != "sdpa" or _looks_back_only_so_far(model.config):
        return False
    AttentionInterface.register(ATTENTION, attend_by_document)
    # An architecture without that seam fails in any way it likes; the next layout is tried then.
    try:
        model.set_attn_implementation(ATTENTION)
        if probe.differs(states_of(Scored(model)), "by_document", truth) is None:
            return True
    except Exception:
        pass
    model.set_attn_implementation("sdpa")
    return False


def check_layout(states: States, layout: Layout, packed: bool, probe: "Probe", what: str) -> None:
    """Refuse a model, as it is really called, for which the chosen layout does not hold.

    The policy may have adapters, sharded or checkpointed layers, and an exactly retrained model
    has a config of its own.

    Raises:
        UserError: `what` gives other hidden states in such a batch.
    """
    problem = probe.differs(states, layout, probe.alone(states), packed)
    if problem is not None:
        raise UserError(
            f"{what}: documents in one batch give other hidden states than each alone ({problem}); "
            "set `data.layout: pad`, or another `model.attention`"
        )


def states_of(scored: Scored) -> States:
    """The hidden states that predict a batch's targets, without gradient."""

    @torch.no_grad()
    def states(batch: Batch) -> Tensor:
        found: Tensor = scored(batch, lambda hidden, head: hidden.clone())
        return found

    return states


class Probe:
    """A few documents of arbitrary tokens, packed and padded."""

    def __init__(self, model: Any, device: torch.device | None = None) -> None:
        self._device: torch.device = device or model.get_output_embeddings().weight.device
        lengths = [length for row in PROBE_ROWS for length in row]
        ids = (np.arange(sum(lengths)) * 37 + 11) % model.config.vocab_size
        documents = np.split(ids, np.cumsum(lengths)[:-1])
        self._packed = _token_set(documents, PROBE_ROWS)
        self._padded = _token_set(documents, tuple((length,) for length in lengths))
        self._targets = [length - 1 for length in lengths]

    def alone(self, states: States) -> list[Tensor]:
        """Hidden states of each document by itself."""
        every = range(len(self._targets))
        return [states(padded(self._padded, np.array([i]), self._device)) for i in every]

    def differs(
        self, states: States, layout: Layout, truth: Sequence[Tensor], packed: bool = True
    ) -> str | None:
        """The largest difference that cannot be rounding, in words; None where there is none."""
        tokens = self._packed if packed else self._padded
        batch = MAKERS[layout](tokens, np.arange(len(tokens)), self._device)
        try:
            found = states(batch).split(self._targets)
        except (TypeError, ValueError, NotImplementedError, RuntimeError, IndexError) as error:
            return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"
        worst = max(map(_distance, found, truth))
        tolerance = max(TOLERANCE.get(truth[0].dtype, 5e-2), NOISE_FACTOR * self._noise(states))
        return None if worst <= tolerance else f"by {worst:.1%}"

    def _noise(self, states: States) -> float:
        """How far a document's states are from those of the same document twice in one batch."""
        alone = states(padded(self._padded, np.array([0]), self._device))
        twice = states(padded(self._padded, np.array([0, 0]), self._device))
        return max(_distance(one, alone) for one in twice.split(self._targets[0]))

    def gradient(self, model: Any) -> Tensor:
        """Gradient of the squared final hidden states in the padded documents' embedded tokens."""
        batch = padded(self._padded, np.arange(len(self._padded)), self._device)
        embedded: list[Tensor] = []

        def keep(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
            embedded.append(output.detach().requires_grad_())
            return embedded[-1]

        hook = model.get_input_embeddings().register_forward_hook(keep)
        try:
            hidden = hidden_states(model, batch.input_ids)
        finally:
            hook.remove()
        (found,) = torch.autograd.grad(hidden.float().square().sum(), embedded[:1])
        return found


def _token_set(documents: Sequence[NDArray[np.int64]], rows: Any) -> TokenSet:
    """The documents in order, so many tokens of them in each row."""
    length = max(map(sum, rows))
    ids = np.zeros((len(rows), length), dtype=np.int32)
    owner = np.full(ids.shape, -1, dtype=np.int32)
    remaining = list(enumerate(documents))
    for row, members in enumerate(rows):
        start = 0
        for _ in members:
            number, tokens = remaining.pop(0)
            ids[row, start : start + len(tokens)] = tokens
            owner[row, start : start + len(tokens)] = number
            start += len(tokens)
    every = len(documents)
    return TokenSet(ids, owner, np.ones(every, dtype=np.int32), np.ones(every, dtype=bool))


def _distance(found: Tensor, expected: Tensor) -> float:
    """Relative to the norm of what is expected; infinite where it is not finite."""
    apart_by = (found - expected).float().norm() / expected.float().norm()
    return float(apart_by) if torch.isfinite(apart_by) else float("inf")


def _looks_back_only_so_far(config: Any) -> bool:
    """Whether attention has a window, which the short probe would not show."""
    if getattr(config, "attention_chunk_size", None) is not None:
        return True
    window = getattr(config, "sliding_window", None)
    return window is not None and bool(getattr(config, "use_sliding_window", True))


def check_checkpointing(model: Any, wrap: Callable[[Any], Callable[[], None]]) -> None:
    """Refuse activation checkpointing where computing a layer again gives another gradient.

    A layer that keeps a state between calls, or writes to what another layer reads, does.

    Args:
        model: a causal LM.
        wrap: switches checkpointing on, and returns what switches it off again.

    Raises:
        UserError: the gradients differ.
    """
    probe = Probe(model)
    expected = probe.gradient(model)
    undo = wrap(model)
    try:
        found = probe.gradient(model)
    except CheckpointError as error:
        raise UserError(
            f"operations.activation_checkpointing: {type(model).__name__} computes something else "
            f"the second time ({str(error).splitlines()[0]}); set it to false"
        ) from None
    finally:
        undo()
    if _distance(found, expected) > TOLERANCE.get(expected.dtype, 5e-2):
        raise UserError(
            f"operations.activation_checkpointing: {type(model).__name__} gives another gradient "
            "when its layers are computed again; set it to false"
        )

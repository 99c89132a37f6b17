"""One module call per forward pass, for hidden states and what the head makes of them."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ray_unlearn.unlearn.batch import Batch
from ray_unlearn.unlearn.inner_states import layer_states
from ray_unlearn.unlearn.model import head_of, hidden_states

T = TypeVar("T")


class Scored(nn.Module):
    """A causal LM whose call applies a function to final hidden states and head.

    The hidden states are those that predict a batch's targets, [n, H]. The function runs inside the
    call because FSDP gathers the parameters for the length of a call, so that the head's weights
    are there, tied or not; and because body and head then run under one autocast.
    """

    def __init__(self, model: Any, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = model
        self._autocast = autocast

    def like(self, model: Any) -> "Scored":
        """Another model, called in the same precision."""
        return Scored(model, self._autocast)

    def forward(
        self, batch: Batch, use: Callable[[Tensor, nn.Linear], T], layer: int | None = None
    ) -> T:
        """`use(hidden states, head)`: final ones, or those of a decoder layer, from 1 on."""
        device = batch.input_ids.device.type
        # Without a cache of casts, which would hold a low-precision copy of all weights.
        lower = (
            nullcontext()
            if self._autocast is None
            else torch.autocast(device, self._autocast, cache_enabled=False)
        )
        with lower:
            call = partial(
                hidden_states,
                self.model,
                batch.input_ids,
                batch.position_ids,
                batch.document_lengths,
            )
            hidden = call() if layer is None else layer_states(self.model, layer, call)
            return use(hidden.flatten(0, 1)[batch.rows], head_of(self.model))

"""One module call per forward pass: hidden states, and at once what is made of them with the head."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ray_unlearn.unlearn.model import head_of, hidden_states

T = TypeVar("T")


class Scored(nn.Module):
    """A causal LM whose call hands final hidden states [B, T, H] and the head to a function, inside the call.

    The head is used inside so that whoever wraps this module (FSDP gathers the parameters for the length of a call) has the
    head's weights there, tied or not; and so that body and head run under one autocast.
    """

    def __init__(self, model: Any, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = model
        self._autocast = autocast

    def forward(self, input_ids: Tensor, position_ids: Tensor | None, use: Callable[[Tensor, nn.Linear], T]) -> T:
        """`use(hidden states, head)` for input_ids [B, T]."""
        lower = nullcontext() if self._autocast is None else torch.autocast(input_ids.device.type, self._autocast)
        with lower:
            return use(hidden_states(self.model, input_ids, position_ids), head_of(self.model))

"""Counted FLOPs: every matrix multiplication of the real code is counted on the meta device, where
nothing is computed.

A multiply-add is 2 FLOPs (torch.utils.flop_counter). The count covers forward and backward; what
activation checkpointing of layers (`operations`) computes again is not counted: it is work, not
use. It is exact in the lengths of the documents, a linear part and attention's square, and in the
number of real targets. Attention is counted whole, also where a causal kernel leaves out half of
it.
"""

from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ray_unlearn.unlearn.head import kl_sum, logprob_sum
from ray_unlearn.unlearn.methods import Term
from ray_unlearn.unlearn.model import head_of


@dataclass(frozen=True)
class UpdateCost:
    """FLOPs of the parts of an update."""

    body_per_token: float
    body_per_square: float
    """Per squared length of a document: attention."""
    logprob_per_target: float
    kl_per_target: float

    def of(self, term: Term, lengths: NDArray[np.int64], targets: int) -> float:
        """FLOPs of one term on documents of these lengths; the cached hidden states of P_0 are a
        one-off of the study and not in it."""
        per_target = self.kl_per_target if term.quantity == "kl" else self.logprob_per_target
        return self.body(lengths) + targets * per_target

    def body(self, lengths: NDArray[np.int64]) -> float:
        """Of all but the head, forward and backward."""
        return float(
            self.body_per_token * lengths.sum() + self.body_per_square * np.square(lengths).sum()
        )


def count_update(config: Any, sequence_length: int) -> UpdateCost:
    """Count a sequence, half a sequence and one target of a model given by its transformers config
    (no weights needed)."""
    from transformers import AutoModelForCausalLM

    config = deepcopy(
        config
    )  # the attention named below would be written into it, and a living model obeys its config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        tokens = torch.zeros((1, sequence_length), dtype=torch.long)
        reference = torch.zeros((1, head_of(model).in_features), dtype=model.dtype)
    head = head_of(model)

    def body(length: int) -> None:
        mask = torch.zeros(
            (1, 1, length, length), dtype=model.dtype, device="meta"
        )  # given, none is made: no `.item()`
        model.base_model(
            tokens[:, :length], attention_mask=mask, use_cache=False
        ).last_hidden_state.sum().backward()

    def logprob() -> None:
        hidden = reference.clone().requires_grad_()
        logprob_sum(hidden, head, tokens[0, :1]).backward()

    def kl() -> None:
        hidden = reference.clone().requires_grad_()
        kl_sum(hidden, head, reference, _frozen(head)).backward()

    whole, half = sequence_length, max(1, sequence_length // 2)
    per_token = [_flops(partial(body, length)) / length for length in (whole, half)]
    square = (per_token[0] - per_token[1]) / (whole - half)
    return UpdateCost(per_token[0] - square * whole, square, _flops(logprob), _flops(kl))


def _frozen(head: nn.Linear) -> nn.Linear:
    with torch.device("meta"):
        return nn.Linear(
            head.in_features, head.out_features, bias=head.bias is not None
        ).requires_grad_(False)


def _flops(run: Any) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())

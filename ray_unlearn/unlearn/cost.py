"""Counted FLOPs: every matrix multiplication of the real code is counted on the meta device, where nothing is computed.

A multiply-add is 2 FLOPs (torch.utils.flop_counter). The count covers forward and backward; what activation
checkpointing of layers (`operations`) computes again is not counted: it is work, not use. It is exact in the number of sequences (each costs the same) and of real targets.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ray_unlearn.unlearn.head import kl_sum, logprob_sum
from ray_unlearn.unlearn.methods import Term
from ray_unlearn.unlearn.model import head_of


@dataclass(frozen=True)
class UpdateCost:
    """FLOPs of the parts of an update."""

    body_per_sequence: float
    logprob_per_target: float
    kl_per_target: float

    def of(self, term: Term, sequences: int, targets: int) -> float:
        """FLOPs of one term on a batch; the cached hidden states of P_0 are a one-off of the study and not in it."""
        per_target = self.kl_per_target if term.quantity == "kl" else self.logprob_per_target
        return sequences * self.body_per_sequence + targets * per_target


def count_update(config: Any, sequence_length: int) -> UpdateCost:
    """Count one sequence and one target of a model given by its transformers config (no weights needed)."""
    from transformers import AutoModelForCausalLM

    config = deepcopy(config)  # the attention named below would be written into it, and a living model obeys its config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        tokens = torch.zeros((1, sequence_length), dtype=torch.long)
        mask = torch.zeros(
            (1, 1, sequence_length, sequence_length), dtype=model.dtype
        )  # given, none is made: no `.item()`
        reference = torch.zeros((1, head_of(model).in_features), dtype=model.dtype)
    head = head_of(model)

    def body() -> None:
        model.base_model(tokens, attention_mask=mask, use_cache=False).last_hidden_state.sum().backward()

    def logprob() -> None:
        hidden = reference.clone().requires_grad_()
        logprob_sum(hidden, head, tokens[0, :1]).backward()

    def kl() -> None:
        hidden = reference.clone().requires_grad_()
        kl_sum(hidden, head, reference, _frozen(head)).backward()

    return UpdateCost(_flops(body), _flops(logprob), _flops(kl))


def _frozen(head: nn.Linear) -> nn.Linear:
    with torch.device("meta"):
        return nn.Linear(head.in_features, head.out_features, bias=head.bias is not None).requires_grad_(False)


def _flops(run: Any) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())

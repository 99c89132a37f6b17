"""FLOPs of an update, counted on the meta device, where nothing is computed.

Every matrix multiplication of the real code is counted; a multiply-add is 2 FLOPs
(torch.utils.flop_counter). The count covers forward and backward. It leaves out what activation
checkpointing computes again: that is work, not use. It is exact in the lengths of the documents (a
linear part and attention's square) and in the number of real targets. Attention is counted whole,
even where a causal kernel skips half of it.

If a model cannot be counted (a kernel does not support the meta device, or the counter does not
know it and counts nothing), its body is estimated and `UpdateCost.estimated` says so. A cost is
never a reason to refuse a model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ray_unlearn.unlearn.head import kl_sum, logprob_sum
from ray_unlearn.unlearn.inner_states import layer_at
from ray_unlearn.unlearn.memory import active_parameters, on_meta
from ray_unlearn.unlearn.methods import Term
from ray_unlearn.unlearn.model import head_of

NAMED_EXPERTS = "experts_implementation"
CREDIBLE = 0.9
"""Least fraction of 6 FLOPs per active weight and token that a count must reach.

Below it, the counter has missed a kernel.
"""


@dataclass(frozen=True)
class UpdateCost:
    """FLOPs of the parts of an update."""

    body_per_token: float
    body_per_square: float
    """Per squared length of a document, for attention."""
    logprob_per_target: float
    kl_per_target: float
    forward_per_target: float
    """Of the head, without a gradient."""
    layers: int
    """Of the body."""
    estimated: str = ""
    """How the body was estimated and why; empty if it was counted."""

    def of(self, term: Term, lengths: NDArray[np.int64], targets: int) -> float:
        """FLOPs of one term, without the cached hidden states of P_0, a one-off cost of the study.

        Args:
            term: a term of the method.
            lengths: tokens of each document, [documents].
            targets: real targets among them.
        """
        if term.loss.needs in ("hidden", "reference_hidden", "residuals"):
            return self.body(lengths) * self._share_of_body(term)
        passes = {"logprobs": 1, "reference_logprobs": 2, "preference": 2}.get(term.loss.needs, 0)
        per_target = passes * self.forward_per_target + (
            self.kl_per_target
            if term.loss.needs in ("kl_sum", "distillation_sum")
            else self.logprob_per_target
        )
        return self.body(lengths) + targets * per_target

    def _share_of_body(self, term: Term) -> float:
        """Fraction of the body's FLOPs that a term of hidden states takes, its layers all alike.

        A third of them is the forward pass. Layers above the one that is looked at are not
        computed, and gradients stop at the lowest one that is trained; of trained layers all count.
        """
        if term.loss.needs == "residuals":
            return 1.0
        top = layer_at(term.layer_depth, self.layers)
        trained = top if term.trained_layers is None else min(top, term.trained_layers)
        forward = 2 if term.loss.needs == "reference_hidden" else 1
        return (forward * top + 2 * trained) / (3 * self.layers)

    def body(self, lengths: NDArray[np.int64]) -> float:
        """FLOPs of all but the head, forward and backward."""
        return float(
            self.body_per_token * lengths.sum() + self.body_per_square * np.square(lengths).sum()
        )


def count_update(config: Any, sequence_length: int) -> UpdateCost:
    """Cost of an update, from counting a sequence, half a sequence and one target, or estimated.

    Args:
        config: the model's transformers config; no weights are needed.
        sequence_length: tokens of the longer sequence that is counted.
    """
    model = on_meta(config)
    head = head_of(model)
    reference = torch.zeros((1, head.in_features), dtype=model.dtype, device="meta")
    token = torch.zeros(1, dtype=torch.long, device="meta")

    def logprob() -> None:
        hidden = reference.clone().requires_grad_()
        logprob_sum(hidden, head, token).backward()

    def kl() -> None:
        hidden = reference.clone().requires_grad_()
        kl_sum(hidden, head, reference, _frozen(head)).backward()

    def forward() -> None:
        head(reference)

    rest = _flops(logprob), _flops(kl), _flops(forward), config.num_hidden_layers
    per_token = 6.0 * _active_matrices(model)
    try:
        linear, square = _counted_body(config, sequence_length)
    # Kernels and masking code raise any kind of error on the meta device.
    except Exception as error:
        reason = f"counting failed with {type(error).__name__}: {str(error).splitlines()[0][:100]}"
    else:
        counted = linear + square * sequence_length
        if counted < CREDIBLE * per_token:
            reason = "the counter does not know all of its kernels"
        elif square < 0:  # scans that pad to whole blocks: short sequences cost more per token
            text = f"as a whole sequence of {sequence_length} tokens, in proportion to the tokens"
            return UpdateCost(counted, 0.0, *rest, estimated=text)
        else:
            return UpdateCost(linear, square, *rest)
    text = f"6 x {per_token / 6:,.0f} active weights x tokens, and attention's square: {reason}"
    return UpdateCost(per_token, _attention_square(model.config), *rest, estimated=text)


def _counted_body(config: Any, sequence_length: int) -> tuple[float, float]:
    """FLOPs of the body per token, and per squared length.

    Raises:
        Exception: the model's first error, if no way of calling it works.
    """
    whole, half = sequence_length, max(1, sequence_length // 2)
    failed: Exception | None = None
    for model, mask in _ways(config):
        try:
            counts = [_flops(partial(_body, model, length, mask)) for length in (whole, half)]
        except Exception as error:  # of any kind, see `count_update`; the next way may work
            failed = failed or error
            continue
        per_token = [count / length for count, length in zip(counts, (whole, half), strict=True)]
        square = (per_token[0] - per_token[1]) / (whole - half)
        return per_token[0] - square * whole, square
    assert failed is not None
    raise failed


def _ways(config: Any) -> Iterator[tuple[Any, str]]:
    """Models and kinds of mask to try.

    Experts are computed as batched products first: other kernels sort tokens by their values, which
    the meta device does not have, or are unknown to the counter.
    """
    for experts in ("batched_mm", None):
        try:
            model = on_meta(config, **({} if experts is None else {NAMED_EXPERTS: experts}))
        except ValueError:  # it has no such implementation
            continue
        yield from ((model, mask) for mask in ("square", "row"))


def _body(model: Any, length: int, mask: str) -> None:
    """Run forward and backward of one sequence.

    The mask is passed whole, so that the model does not make one with `.item()`; OPT and BLOOM make
    theirs from a row of ones.
    """
    shape = (1, 1, length, length) if mask == "square" else (1, length)
    dtype = model.dtype if mask == "square" else torch.long
    model.base_model(
        torch.zeros((1, length), dtype=torch.long, device="meta"),
        attention_mask=torch.ones(shape, dtype=dtype, device="meta"),
        use_cache=False,
    ).last_hidden_state.sum().backward()


def _active_matrices(model: Any) -> float:
    """Number of the body's weights that a token is multiplied with.

    It leaves out embedding and head, and counts chosen experts only.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    tables.add(id(head_of(model).weight))
    matrices = (
        (name, p) for name, p in model.named_parameters() if p.ndim >= 2 and id(p) not in tables
    )
    return active_parameters(matrices, model.config)


def _attention_square(config: Any) -> float:
    """FLOPs of scores and weighted values: 2 products of T^2 H forward, twice that backward."""
    return 12.0 * config.num_hidden_layers * config.hidden_size


def _frozen(head: nn.Linear) -> nn.Linear:
    with torch.device("meta"):
        return nn.Linear(
            head.in_features, head.out_features, bias=head.bias is not None
        ).requires_grad_(False)


def _flops(run: Any) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())

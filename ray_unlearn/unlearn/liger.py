"""The sums of `head` by the Triton kernels of Liger Kernel, optional, for CUDA devices.

Liger Kernel: Hsu et al. 2024, arXiv 2410.10989. log P is minus its fused linear cross-entropy with
`reduction="sum"`. KL(P_0 || P_theta) is its fused linear Jensen-Shannon divergence with
`jsd_beta=0`, which is exactly that KL and no mixture (1 would be the reverse KL); Liger averages it
over positions, so it is multiplied by their number. Both accumulate the head's gradient in float32
(`accum_dtype`) and run their matrix products in the dtype of the hidden states, or in that of
autocast where it is on.

`head` still computes three cases: no rows at all, where Liger divides by zero, soft-capped logits,
and KL with a head that has a bias; Liger's KL supports neither. As in `head`, the forward pass
computes the gradients and the backward pass consumes them, so only one backward pass is allowed
(not checked here; a second one with `retain_graph` would be wrong).
"""

import inspect
import os
from typing import Any

import torch
from torch import Tensor, nn

from ray_unlearn.spec.errors import UserError
from ray_unlearn.unlearn import head as plain_torch
from ray_unlearn.unlearn.logit_map import cap_of

REMEDY = "pip install 'ray-unlearn[liger]'"


def kernels(device: torch.device) -> Any:
    """Liger's functional module, if it can be used on `device`; call it early to fail early.

    Raises:
        UserError: not a CUDA device (unless Triton's interpreter is on, for tests), or no recent
            Liger Kernel installed.
    """
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise UserError(
            "operations.head: the kernels of `liger` need a CUDA device, this one is "
            f"{device.type}; use `head: fused`"
        )
    try:
        from liger_kernel.transformers import functional
    except ImportError as error:
        raise UserError(
            f"operations.head: `liger` needs Liger Kernel ({error}): {REMEDY}"
        ) from None
    if "accum_dtype" not in inspect.signature(functional.liger_fused_linear_jsd).parameters:
        raise UserError(
            f"operations.head: the installed Liger Kernel is too old for `liger`: {REMEDY}"
        )
    return functional


def liger_logprob_sum(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """Sum of log P(target | prefix) over hidden [n, H] and targets [n]; a scalar with gradient."""
    liger = kernels(hidden.device)
    if not len(hidden) or cap_of(head) is not None:
        return plain_torch.logprob_sum(hidden, head, targets)
    bias = _bias(head)
    loss: Tensor = liger.liger_fused_linear_cross_entropy(
        _differentiable(hidden, head),
        _castable(head.weight, hidden),
        targets,
        None if bias is None else _castable(bias, hidden),
        ignore_index=-1,  # every target counts, and none is negative
        reduction="sum",
        accum_dtype=torch.float32,
    )
    return -loss


def liger_kl_sum(
    hidden: Tensor, head: nn.Linear, reference_hidden: Tensor, reference_head: nn.Linear
) -> Tensor:
    """Sum of KL(P_0 || P_theta) over positions; a scalar with gradient in P_theta.

    `hidden` and `reference_hidden` are [n, H].
    """
    liger = kernels(hidden.device)
    biased = any(_bias(h) is not None for h in (head, reference_head))
    if not len(hidden) or biased or cap_of(head) is not None:
        return plain_torch.kl_sum(hidden, head, reference_hidden, reference_head)
    mean: Tensor = liger.liger_fused_linear_jsd(
        _differentiable(hidden, head),
        _castable(head.weight, hidden),
        _castable(reference_hidden, hidden),
        _castable(reference_head.weight, hidden),
        jsd_beta=0.0,
        accum_dtype=torch.float32,
    )
    return mean * len(hidden)


def _bias(head: nn.Linear) -> Tensor | None:
    return head.bias


def _differentiable(hidden: Tensor, head: nn.Linear) -> Tensor:
    """Hidden states that need a gradient where the head does; otherwise Liger makes none for it."""
    if head.weight.requires_grad and not hidden.requires_grad:
        return hidden.detach().requires_grad_()
    return hidden


def _castable(tensor: Tensor, hidden: Tensor) -> Tensor:
    """The tensor in the dtype of the matrix products.

    Autocast, where it is on, casts by itself and leaves gradients in float32.
    """
    return tensor if torch.is_autocast_enabled(hidden.device.type) else tensor.to(hidden.dtype)

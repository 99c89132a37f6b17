"""A model trained whole by several workers that each hold a part of it, with FSDP2.

FSDP: Zhao et al. 2023, arXiv 2304.11277. Weights of policy and vanilla model, gradients and
optimizer states are sharded along their first dimension. A decoder layer is gathered when it is
called and dropped after, so a worker holds one whole layer at a time, and the embeddings while a
call lasts.

Every call is a collective, forward and backward: all ranks must make the same number, in the same
order. A rank with fewer sequences makes idle calls (`Workspace.idle_calls`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ray_unlearn.spec.errors import UserError
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.logit_map import CappedHead, cap_of
from ray_unlearn.unlearn.optimizer import local
from ray_unlearn.unlearn.scored import Scored
from ray_unlearn.unlearn.strength import interpolate


class ShardedModel:
    """`WholeModel` with a shard on each rank.

    It is made from a vanilla model on any device: layers move to `device` one by one, and the
    policy's whole weights exist nowhere.

    Raises:
        UserError: the architecture marks no decoder layers.
    """

    def __init__(
        self, vanilla: Any, autocast: torch.dtype | None, comm: Comm, device: torch.device
    ) -> None:
        self._mesh = init_device_mesh(device.type, (comm.world_size,))
        self._rank = comm.rank
        self.model = _hollow(vanilla)
        self.scored = sharded(Scored(self.model, autocast), self._mesh)
        self.scored.to_empty(device=device)
        self._reference = self.shard(Scored(vanilla, autocast))
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.reset(0)

    def shard(self, other: Scored) -> Scored:
        """Another model of the same kind, frozen and sharded the same way."""
        return sharded(other.requires_grad_(False), self._mesh)

    @torch.no_grad()
    def reset(self, seed: int) -> None:
        """Copy the vanilla model's shard and whole buffers into the policy; drop gradients."""
        self.model.zero_grad(set_to_none=True)
        vanilla = self._reference.model
        for mine, theirs in zip(self.model.parameters(), vanilla.parameters(), strict=True):
            local(mine).copy_(local(theirs))
        for mine, theirs in zip(self.model.buffers(), vanilla.buffers(), strict=True):
            mine.copy_(theirs)

    @contextmanager
    def reference(self) -> Iterator[Scored]:
        """The frozen copy."""
        yield self._reference

    def weights(self) -> dict[str, Tensor]:
        """Every parameter, whole, in the CPU memory of rank 0; nothing on the others.

        A collective, one parameter at a time.
        """
        found = {}
        for name, p in self.model.named_parameters():
            tensor = whole(p.detach())
            if self._rank == 0:
                found[name] = tensor.cpu()
        return found

    def mix(self, trained: Sequence[Tensor], strength: float) -> None:
        """Of this rank's part of every weight; ranks need not wait for each other."""
        vanilla = list(self._reference.model.parameters())
        interpolate(self.parameters, trained, vanilla, strength)


def sharded(scored: Scored, mesh: DeviceMesh) -> Scored:
    """Shard each decoder layer, and the rest (embeddings, last norm, head) as one group.

    That group is gathered while a call lasts, so tied weights are one tensor in it. Gradients are
    summed over the ranks in float32, because a loss is already divided by the targets of the global
    batch.

    Raises:
        UserError: the architecture marks no decoder layers.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [
        module for module in scored.modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    if not layers:
        raise UserError(
            f"operations.parallel: {type(scored.model).__name__} marks no layers to shard; use "
            "`replicate`"
        )
    precision = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in (*layers, scored):
        cut = fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=precision)
        assert isinstance(cut, FSDPModule)
        cut.set_gradient_divide_factor(1.0)
        cut.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum
    return scored


def whole_head(head: nn.Linear) -> nn.Linear:
    """The head unsharded, for use inside another model's call.

    A collective if the head is sharded.
    """
    if not isinstance(head.weight, DTensor):
        return head
    found = nn.Linear(
        head.in_features, head.out_features, bias=head.bias is not None, device="meta"
    )
    for name, p in head.named_parameters():
        setattr(found, name, nn.Parameter(whole(p.detach()), requires_grad=False))
    return found if (cap := cap_of(head)) is None else CappedHead(found, cap)


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered, which is a collective; a plain one unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _hollow(model: Any) -> Any:
    """A trainable copy whose parameters have no memory yet; tied ones stay tied."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in model.parameters()
    }
    return deepcopy(model, memo)

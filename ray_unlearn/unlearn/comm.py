"""Collectives of the workers of one lane.

A trial is defined by global quantities, which are summed and shared here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

BUCKET_BYTES = 2**28
"""Of one message of gradients."""


@dataclass(frozen=True)
class Comm:
    """Rank and size of the worker group; every collective is the identity for one worker."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def single(cls) -> "Comm":
        """One worker, no process group."""
        return cls()

    @classmethod
    def distributed(cls) -> "Comm":
        """The default process group of `torch.distributed`; one worker where there is none."""
        if not dist.is_available() or not dist.is_initialized():
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    def shard(self, items: Any) -> Any:
        """This rank's part of a global batch: every `world_size`-th item from `rank` on."""
        return items[self.rank :: self.world_size]

    def all_reduce_sum(self, tensors: Iterable[torch.Tensor]) -> None:
        """Sum each tensor over all ranks, in place.

        bfloat16 is summed in float32, as sharded gradients are. Messages are of `BUCKET_BYTES` at
        most, or of one tensor, so that there is no second copy of all gradients.
        """
        if self.world_size == 1:
            return
        for group in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1).to(_summed_in(tensor)) for tensor in group])
            dist.all_reduce(flat)
            for tensor, part in zip(
                group, flat.split([tensor.numel() for tensor in group]), strict=True
            ):
                tensor.copy_(part.view_as(tensor))

    def broadcast(self, value: Any) -> Any:
        """`value` of rank 0, on every rank.

        It is for small picklable objects between our own processes only.
        """
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def check_same(self, number: int, what: str) -> None:
        """Check that all ranks have the same `number`; going on would mix two trials.

        Raises:
            RuntimeError: they do not.
        """
        if self.world_size > 1:
            total = torch.tensor([number, number * number], dtype=torch.int64)
            dist.all_reduce(total)
            if total.tolist() != [self.world_size * number, self.world_size * number * number]:
                raise RuntimeError(
                    f"{what}: rank {self.rank} has {number}, another rank has something else"
                )

    def gather(self, value: Any) -> list[Any] | None:
        """Every rank's value in rank order, on rank 0; None elsewhere."""
        if self.world_size == 1:
            return [value]
        box: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        dist.gather_object(value, box, dst=0)
        return box


def _summed_in(tensor: torch.Tensor) -> torch.dtype:
    return torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype


def _buckets(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Tensors that are summed in one message: neighbours that are summed in one dtype."""
    group: list[torch.Tensor] = []
    held = 0
    for tensor in tensors:
        size = tensor.numel() * _summed_in(tensor).itemsize
        other = bool(group) and _summed_in(group[0]) != _summed_in(tensor)
        if group and (other or held + size > BUCKET_BYTES):
            yield group
            group, held = [], 0
        group.append(tensor)
        held += size
    if group:
        yield group

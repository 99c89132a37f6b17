"""The frozen reference P_0: its final hidden states and its adversarial labels."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ray_unlearn.unlearn.batch import Batch, on_device
from ray_unlearn.unlearn.logprobs import adversarial_targets, target_logprobs
from ray_unlearn.unlearn.model import head_of
from ray_unlearn.unlearn.policy import Policy
from ray_unlearn.unlearn.sharded_model import whole_head
from ray_unlearn.unlearn.token_set import TokenSet
from ray_unlearn.unlearn.weight_sharing import to_array, to_tensor

CACHE_BYTES = 2**30


class Reference:
    """Quantities of the vanilla model, which are computed once.

    Final hidden states that predict the targets of a split are cached if they fit into
    `CACHE_BYTES` together with those cached before; then KL costs one more head, not one more
    forward pass. They are always computed in the same batches, so they do not depend on what the
    lane did before.
    """

    def __init__(
        self,
        policy: Policy,
        splits: dict[str, TokenSet],
        batch_size: int,
        batch: Callable[[str, NDArray[np.int64]], Batch],
    ) -> None:
        self._policy = policy
        self._splits = splits
        self._batch_size = batch_size
        self._batch = batch
        self._cached: dict[str, Tensor] = {}
        self._starts = {
            name: np.cumsum([0, *tokens.target_mask.sum(axis=1)]) for name, tokens in splits.items()
        }
        with policy.reference() as reference:
            self.head: nn.Linear = whole_head(head_of(reference.model))
            """P_0's output embedding; with adapters, which do not change it, also the policy's."""

    @torch.no_grad()
    def hidden(self, split: str, indices: NDArray[np.int64]) -> Tensor:
        """Final hidden states that predict the targets of these sequences, [n, H].

        They are in the order of `target_mask`.
        """
        self._cache(split)
        if split not in self._cached:
            return self._forward(split, indices)
        starts = self._starts[split]
        rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in indices])
        (places,) = on_device([rows], self.head.weight.device)
        return self._cached[split][places]

    @torch.no_grad()
    def logprobs(self, split: str, indices: NDArray[np.int64], targets: Tensor) -> Tensor:
        """log P_0 of these targets [n] of these sequences, in the order of `target_mask`."""
        return target_logprobs(self.hidden(split, indices)[: len(targets)], self.head, targets)

    @torch.no_grad()
    def adversarial_labels(self) -> NDArray[np.int32]:
        """The most likely wrong token at each target of the forget set, [N, T - 1].

        It is argmax over a != x_t of P_0(a | x_<t), and 0 where there is no target.
        """
        forget = self._splits["forget"]
        labels = np.zeros(forget.target_mask.shape, dtype=np.int32)
        for indices in self._batches("forget"):
            targets = self._batch("forget", indices).targets
            found = adversarial_targets(self.hidden("forget", indices), self.head, targets)
            block = labels[indices]
            block[forget.target_mask[indices]] = found.cpu().numpy()
            labels[indices] = block
        return labels

    @torch.no_grad()
    def fill(self, splits: Iterable[str]) -> dict[str, tuple[NDArray[Any], str]]:
        """Hidden states of these splits, as far as they fit, as arrays for `adopt`.

        See `weight_sharing` on the arrays.
        """
        for split in splits:
            self._cache(split)
        return {
            split: (to_array(cached), str(cached.dtype).removeprefix("torch."))
            for split, cached in self._cached.items()
        }

    def adopt(self, hidden: dict[str, tuple[NDArray[Any], str]]) -> None:
        """Use hidden states that another lane has computed.

        On a CPU they are not copied, as they are only ever indexed.
        """
        for split, (array, dtype) in hidden.items():
            self._cached[split] = to_tensor(array, getattr(torch, dtype)).to(
                self.head.weight.device
            )

    def _cache(self, split: str) -> None:
        if split not in self._cached and self._fits(split):
            self._cached[split] = torch.cat(
                [self._forward(split, indices) for indices in self._batches(split)]
            )

    def _batches(self, split: str) -> list[NDArray[np.int64]]:
        every = np.arange(len(self._splits[split]))
        return [
            every[start : start + self._batch_size]
            for start in range(0, len(every), self._batch_size)
        ]

    def _forward(self, split: str, indices: NDArray[np.int64]) -> Tensor:
        with self._policy.reference() as reference:
            hidden: Tensor = reference(self._batch(split, indices), lambda states, head: states)
        return hidden

    def _fits(self, split: str) -> bool:
        cached = sum(tensor.nbytes for tensor in self._cached.values())
        weight = self.head.weight
        return bool(
            cached + self._starts[split][-1] * weight.shape[1] * weight.element_size()
            <= CACHE_BYTES
        )

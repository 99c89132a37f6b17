"""P_0: the original model's final hidden states, and the adversarial labels it gives."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ray_unlearn.unlearn.data import TokenSet
from ray_unlearn.unlearn.logprobs import adversarial_targets
from ray_unlearn.unlearn.model import head_of
from ray_unlearn.unlearn.trained import Trained

CACHE_BYTES = 2**30


class Reference:
    """What is computed of the vanilla model once.

    Final hidden states of a split are kept when they fit into `CACHE_BYTES` together with those kept before; then KL
    costs one more head, not one more forward pass. They are always computed in the same batches, so a lane's history
    cannot show in them.
    """

    def __init__(self, trained: Trained, splits: dict[str, TokenSet], batch_size: int, device: torch.device) -> None:
        self._trained = trained
        self._splits = splits
        self._batch_size = batch_size
        self._device = device
        self._kept: dict[str, Tensor] = {}
        with trained.original() as original:
            self.head: nn.Linear = head_of(original.model)
            """P_0's output embedding. With adapters it is the policy's too: they leave it alone."""

    @torch.no_grad()
    def hidden(self, split: str, indices: NDArray[np.int64]) -> Tensor:
        """Final hidden states of these sequences, [B, T, H]."""
        if split not in self._kept and self._fits(split):
            every = np.arange(len(self._splits[split]))
            self._kept[split] = torch.cat(
                [self._forward(split, every[i : i + self._batch_size]) for i in range(0, len(every), self._batch_size)]
            )
        if split in self._kept:
            return self._kept[split][torch.from_numpy(indices).to(self._device)]
        return self._forward(split, indices)

    @torch.no_grad()
    def adversarial_labels(self) -> NDArray[np.int32]:
        """For the forget set, [N, T - 1]: argmax over a != x_t of P_0(a | x_<t); 0 where there is no target."""
        forget = self._splits["forget"]
        labels = np.zeros(forget.target_mask.shape, dtype=np.int32)
        for start in range(0, len(forget), self._batch_size):
            indices = np.arange(start, min(start + self._batch_size, len(forget)))
            mask = torch.from_numpy(forget.target_mask[indices]).to(self._device)
            targets = torch.from_numpy(forget.input_ids[indices, 1:]).to(self._device).long()[mask]
            found = adversarial_targets(self.hidden("forget", indices)[:, :-1][mask], self.head, targets)
            block = labels[indices]
            block[forget.target_mask[indices]] = found.cpu().numpy()
            labels[indices] = block
        return labels

    def _forward(self, split: str, indices: NDArray[np.int64]) -> Tensor:
        tokens = self._splits[split]
        input_ids = torch.from_numpy(tokens.input_ids[indices]).to(self._device).long()
        positions = tokens.position_ids
        position_ids = None if positions is None else torch.from_numpy(positions[indices]).to(self._device)
        with self._trained.original() as original:
            hidden: Tensor = original(input_ids, position_ids, lambda states, head: states)
        return hidden

    def _fits(self, split: str) -> bool:
        kept = sum(tensor.nbytes for tensor in self._kept.values())
        weight = self.head.weight
        size = self._splits[split].input_ids.size * weight.shape[1] * weight.element_size()
        return kept + size <= CACHE_BYTES

"""Weights as plain arrays, so that the lanes of a node read one copy of them.

Arrays in Ray's object store are mapped without a copy into each process that asks for them. torch
does not know that they are read-only: writing into such a tensor would write into all lanes. So
only the frozen vanilla model is made of them; the policy is always a copy, and tests check that no
method changes a bit.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_unlearn.unlearn.logit_map import LogitMap, logit_map_of


def to_array(tensor: Tensor) -> NDArray[Any]:
    """The tensor's memory as an array; numpy has no bfloat16, so its bits travel as int16."""
    tensor = tensor.detach().cpu().contiguous()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def to_tensor(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """Inverse of `to_array`, without a copy; never write into the tensor."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(array)
    return tensor.view(dtype) if dtype == torch.bfloat16 else tensor


@dataclass(frozen=True)
class SharedModel:
    """A causal LM as its class, its config and its weights.

    It pickles without copying the arrays (protocol 5).
    """

    architecture: type
    config: Any
    arrays: dict[str, NDArray[Any]]
    dtypes: dict[str, torch.dtype]
    logit_map: LogitMap

    @classmethod
    def of(cls, model: Any) -> "SharedModel":
        """A model from `load_model` as shared arrays, with tied weights once."""
        seen: set[int] = set()
        arrays, dtypes = {}, {}
        for name, tensor in model.state_dict().items():
            if tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                arrays[name], dtypes[name] = to_array(tensor), tensor.dtype
        return cls(type(model), model.config, arrays, dtypes, logit_map_of(model))

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(array.nbytes for array in self.arrays.values())

    def model(self) -> Any:
        """The frozen causal LM over these arrays, as `load_model` would return it."""
        tensors = {name: to_tensor(array, self.dtypes[name]) for name, array in self.arrays.items()}
        found = self.architecture.from_pretrained(  # type: ignore[attr-defined]
            None, config=self.config, state_dict=tensors, dtype=self.config.dtype,
            attn_implementation=self.config._attn_implementation,
        )  # fmt: skip
        found.logit_map = self.logit_map
        return found.eval().requires_grad_(False)

"""What a lane keeps between trials: policy, reference and data on the device, restored in place."""

import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_unlearn.spec.base import digest
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.study import EvaluationSpec, ModelSpec, Operations, Rounding, StudySpec
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import StudyData
from ray_unlearn.unlearn.model import DTYPES, demo_world, load_model, model_digest
from ray_unlearn.unlearn.reference import Reference
from ray_unlearn.unlearn.scored import Scored
from ray_unlearn.unlearn.trained import Trained, checkpoint_layers, trained


def context_digest(spec: StudySpec, data: StudyData) -> str:
    """Digest of all that changes a trial's result beside its own configuration: model, data, evaluation batches."""
    model = spec.model
    content = [model_digest(model), model.dtype, model.attention, data.digest, spec.evaluation.batch_size]
    if model.autocast is not None:
        content.append(model.autocast)
    if model.dtype != "float32":
        content.append(model.rounding)
    if model.lora is not None:
        content.append(model.lora.model_dump(mode="json"))
    return digest(content)


class Workspace:
    """What is trained, P_0, the data, and the worker group: all that `unlearn` works on."""

    def __init__(
        self,
        trained: Trained,
        data: StudyData,
        *,
        vanilla_shapes: list[torch.Size],
        comm: Comm,
        device: torch.device,
        evaluation_batch_size: int,
        micro_batch_size: int | None = None,
        fused_head: bool = True,
        autocast: torch.dtype | None = None,
        rounding: Rounding = "exact",
    ) -> None:
        self.trained = trained
        self.vanilla_shapes = vanilla_shapes
        self.data = data
        self.comm = comm
        self.device = device
        self.evaluation_batch_size = evaluation_batch_size
        self.micro_batch_size = micro_batch_size
        self.fused_head = fused_head
        self.rounding: Rounding = rounding
        self.reference = Reference(trained, data.splits, evaluation_batch_size, device)
        self._autocast = autocast
        self._adversarial_labels: NDArray[np.int32] | None = None

    @classmethod
    def open(
        cls,
        model: ModelSpec,
        data: StudyData,
        evaluation: EvaluationSpec,
        operations: Operations,
        comm: Comm,
        device: str = "cpu",
    ) -> "Workspace":
        """Load the model once and place policy and reference on `device`.

        Raises:
            UserError: the model cannot be loaded, or its vocabulary is smaller than its tokenizer's.
        """
        vanilla = load_model(model).to(device)
        vocabulary = vanilla.get_output_embeddings().out_features
        largest = int(data.allowed_labels.max())
        if largest >= vocabulary:
            raise UserError(
                f"model.source: tokenizer has token id {largest}, but the model's vocabulary is {vocabulary}"
            )
        shapes = [p.shape for p in vanilla.parameters()]
        found = trained(vanilla, model)
        if operations.activation_checkpointing:
            checkpoint_layers(found.policy)
        return cls(
            found,
            data,
            vanilla_shapes=shapes,
            comm=comm,
            device=torch.device(device),
            evaluation_batch_size=evaluation.batch_size,
            micro_batch_size=operations.micro_batch_size,
            fused_head=operations.head == "fused",
            autocast=None if model.autocast is None else DTYPES[model.autocast],
            rounding=model.rounding,
        )

    @property
    def policy(self) -> Any:
        """The causal LM with its current weights."""
        return self.trained.policy

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What a trial changes; tied ones once."""
        return self.trained.parameters

    def reset(self, seed: int = 0) -> None:
        """Make the policy the vanilla model again, in place, whatever a trial before has left (NaN included)."""
        self.trained.reset(seed)

    def scored(self, model: Any) -> Scored:
        """Another model of the same kind, such as an exactly retrained one, in this workspace's precision."""
        return Scored(model.to(self.device).requires_grad_(False), self._autocast)

    def inputs(
        self, split: str, indices: NDArray[np.int64], length: int | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """input_ids [B, T], position_ids [B, T] or None, target_mask [B, T - 1] on the device; T is `length` at most."""
        tokens = self.data.splits[split]
        input_ids = torch.from_numpy(tokens.input_ids[indices, :length]).to(self.device).long()
        positions = tokens.position_ids
        position_ids = None if positions is None else torch.from_numpy(positions[indices, :length]).to(self.device)
        last = None if length is None else length - 1
        return input_ids, position_ids, torch.from_numpy(tokens.target_mask[indices, :last]).to(self.device)

    @property
    def adversarial_labels(self) -> NDArray[np.int32]:
        """[N, T - 1] for the forget set; computed on first use, or given by the lane that has computed them."""
        if self._adversarial_labels is None:
            self._adversarial_labels = self.reference.adversarial_labels()
        return self._adversarial_labels

    @adversarial_labels.setter
    def adversarial_labels(self, labels: NDArray[np.int32]) -> None:
        assert labels.shape == self.data.splits["forget"].target_mask.shape
        self._adversarial_labels = labels

    def restart_peak_memory(self) -> None:
        """Begin a new measurement of `peak_memory_gib`."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with suppress(OSError):  # where it fails the peak is that of the process, an upper bound
                Path("/proc/self/clear_refs").write_text("5")  # Linux: peak resident set := resident set

    def peak_memory_gib(self) -> float:
        """Peak since `restart_peak_memory`: device memory on CUDA, resident memory of this process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        try:
            line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
            return int(line.split()[1]) / 2**20
        except (OSError, StopIteration):
            scale = 2**30 if os.uname().sysname == "Darwin" else 2**20
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def retraining_flops(spec: ModelSpec, parameters: int) -> float:
    """What retraining without the forget set costs: counted for the demo world, else 6 x parameters x tokens.

    0 when `model.pretraining_tokens` is not given: then there is no efficiency ratio.
    """
    if spec.source.startswith("demo:"):
        return float(demo_world(spec.source).info["retraining_flops"])
    return 6.0 * parameters * (spec.pretraining_tokens or 0)

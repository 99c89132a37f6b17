"""What a lane keeps between trials: policy, reference and data on the device, restored in place."""

import os
import resource
from collections.abc import Collection
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.evaluation_spec import ASKED, EvaluationSpec
from ray_unlearn.spec.method_registry import method_named
from ray_unlearn.spec.model_spec import ModelSpec, Rounding
from ray_unlearn.spec.operations import Operations
from ray_unlearn.spec.row_tasks import task_digests
from ray_unlearn.spec.strict import digest
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.user_methods import source_digests
from ray_unlearn.unlearn import liger
from ray_unlearn.unlearn.alternatives import ALTERNATIVE
from ray_unlearn.unlearn.batch import Batch, document_runs
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.context_length import check_positions
from ray_unlearn.unlearn.cost import UpdateCost, count_update
from ray_unlearn.unlearn.data import EVALUATED, StudyData, half_letters
from ray_unlearn.unlearn.decoding import NOT_CACHED, can_cache
from ray_unlearn.unlearn.gpu import ready_gpu
from ray_unlearn.unlearn.layout import (
    MAKERS,
    NOT_PACKED,
    Layout,
    Probe,
    check_checkpointing,
    check_layout,
    choose_layout,
    states_of,
)
from ray_unlearn.unlearn.loaded_tasks import LoadedTask, loaded_tasks
from ray_unlearn.unlearn.methods import loss_of
from ray_unlearn.unlearn.methods.losses import OF_REFERENCE
from ray_unlearn.unlearn.model import DTYPES, demo_models, load_model, model_digest
from ray_unlearn.unlearn.model_files import check_vocabulary
from ray_unlearn.unlearn.policy import Policy, WholeModel, checkpoint_layers, make_policy
from ray_unlearn.unlearn.questions import longest_generation
from ray_unlearn.unlearn.reference import Reference
from ray_unlearn.unlearn.retrained import Retrained
from ray_unlearn.unlearn.scored import Scored
from ray_unlearn.unlearn.sharded_model import ShardedModel
from ray_unlearn.unlearn.token_set import TokenSet
from ray_unlearn.unlearn.weight_sharing import SharedModel

Quantities = dict[str, Any]


def context_digest(spec: StudySpec, data: StudyData, *, former: bool = False) -> str:
    """Digest of everything beside its own configuration that changes a trial's result.

    That is the model, the data, the evaluation batches, and the sources of a user's own methods.

    Args:
        spec: the study.
        data: its documents as token sequences.
        former: the digest in ledgers that were begun with those in `former_digests`.
    """
    model = spec.model
    content = [
        model_digest(model, former=former),
        model.dtype,
        model.attention,
        data.former_digest if former else data.digest,
        spec.evaluation.batch_size,
    ]
    if model.autocast is not None:
        content.append(model.autocast)
    if model.dtype != "float32":
        content.append(model.rounding)
    if model.lora is not None:
        content.append(model.lora.model_dump(mode="json"))
    asked = spec.evaluation.model_dump(mode="json", include={*ASKED} - {"sets"})
    if tasks := spec.evaluation.tasks:
        asked["tasks"] = [[task.decisive() for task in tasks], task_digests(tasks)]
    if asked:
        content.append(asked)
    if own := source_digests(spec.methods):
        content.append(own)
    return digest(content)


class Workspace:
    """What is trained, P_0, the data, and the worker group: all that `unlearn` works on."""

    def __init__(
        self,
        policy: Policy,
        data: StudyData,
        *,
        vanilla_shapes: list[torch.Size],
        comm: Comm,
        device: torch.device,
        evaluation: EvaluationSpec,
        micro_batch_size: int | None = None,
        head: Literal["fused", "plain", "liger"] = "fused",
        autocast: torch.dtype | None = None,
        rounding: Rounding = "stochastic",
        layout: Layout = "stored",
        tasks: tuple[LoadedTask, ...] = (),
        gpus_per_worker: float = 0.0,
    ) -> None:
        self.policy = policy
        self.sharded = isinstance(policy, ShardedModel)
        """Each rank holds a part of the weights, and every call is a collective."""
        self.vanilla_shapes = vanilla_shapes
        self.data = data
        self.comm = comm
        self.device = device
        self.evaluation = evaluation
        self.evaluation_batch_size = evaluation.batch_size
        self.retrained: Retrained | None = None
        """What rows are compared with, where the study asks for it."""
        self.micro_batch_size = micro_batch_size
        self.head = head
        self.rounding: Rounding = rounding
        self.last_optimizer: torch.optim.Optimizer | None = None
        """The previous trial's, for its memory; None while its states may be half made."""
        self.layout: Layout = layout
        self.tasks = tasks
        self._gpus_per_worker = gpus_per_worker
        self._packed = data.packed
        self.reference = Reference(policy, data.splits, evaluation.batch_size, self.batch)
        self.autocast = autocast
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
        shared: SharedModel | None = None,
    ) -> "Workspace":
        """Place policy and reference on `device`: of the model in `shared`, or loaded here.

        Raises:
            UserError: the model cannot be loaded; its vocabulary is smaller than its tokenizer's;
                it has fewer positions than a sequence has tokens; it gives other results for
                documents in a batch than for each alone; `head: liger` cannot be used here; a task
                of lm-eval cannot be loaded.
        """
        ready_gpu(torch.device(device), operations.gpus_per_worker)
        if operations.head == "liger":
            liger.kernels(torch.device(device))
        vanilla = load_model(model) if shared is None else shared.model()
        check_vocabulary(_largest_token(data), vanilla.get_output_embeddings().out_features)
        check_positions(vanilla, data.splits["forget"].input_ids.shape[1])
        if (longest := longest_generation(data, evaluation)) > 0:
            check_positions(vanilla, longest, "evaluation.generate: prompt and answer")
        shapes = [p.shape for p in vanilla.parameters()]
        autocast = None if model.autocast is None else DTYPES[model.autocast]
        shards = operations.parallel == "shard" and comm.world_size > 1
        vanilla = vanilla if shards else vanilla.to(device)
        layout = choose_layout(vanilla, data.packed)
        if operations.activation_checkpointing:
            check_checkpointing(vanilla, checkpoint_layers)
        policy: Policy
        if shards:
            policy = ShardedModel(vanilla, autocast, comm, torch.device(device))
        else:
            policy = make_policy(vanilla, model)
        if operations.activation_checkpointing:
            checkpoint_layers(policy.model)
        plain = isinstance(policy, WholeModel) and autocast is None
        if not plain or operations.activation_checkpointing:
            _check_as_called(policy, layout, data.packed, torch.device(device))
        return cls(
            policy,
            data,
            vanilla_shapes=shapes,
            comm=comm,
            device=torch.device(device),
            evaluation=evaluation,
            micro_batch_size=operations.micro_batch_size,
            head=operations.head,
            autocast=autocast,
            rounding=model.rounding,
            layout=layout,
            tasks=loaded_tasks(evaluation),
            gpus_per_worker=operations.gpus_per_worker,
        )

    @property
    def comm_of_whole_models(self) -> Comm:
        """The workers that each have a whole model and can share work; alone in a sharded lane."""
        return Comm.single() if self.sharded else self.comm

    @property
    def accelerators(self) -> float:
        """GPUs that the lane's seconds are spent on, by shares; 0 on a CPU."""
        if self.device.type != "cuda":
            return 0.0
        return (self._gpus_per_worker or 1.0) * self.comm.world_size

    @cached_property
    def update_cost(self) -> UpdateCost:
        """FLOPs of this model's updates, counted once; a note says where they are estimated."""
        length = self.data.splits["forget"].input_ids.shape[1]
        return count_update(self.policy.model.config, length)

    @cached_property
    def can_cache(self) -> bool:
        """Whether answers are decoded with a cache of keys and values."""
        return can_cache(self.policy.scored, self.batch("forget", np.zeros(1, dtype=np.int64)))

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What a trial changes; tied ones once."""
        return self.policy.parameters

    def reset(self, seed: int = 0) -> None:
        """Make the policy the vanilla model again, in place, whatever state it is in (NaN too)."""
        self.policy.reset(seed)

    def scored(self, model: Any) -> Scored:
        """Another model of the same kind in this workspace's precision, such as a retrained one.

        Raises:
            UserError: it cannot read the batches that the policy reads.
        """
        model = model if self.sharded else model.to(self.device)
        scored = Scored(model.requires_grad_(False), self.autocast)
        # In its own config the model may have another attention, or layers of another kind.
        if self.layout == "by_document" and choose_layout(model, self._packed) != self.layout:
            raise UserError(
                "model.exact_retrain: its attention does not work document by document, as that of "
                "the source does; use the same config"
            )
        probe = Probe(model)
        check_layout(states_of(scored), self.layout, self._packed, probe, "model.exact_retrain")
        if isinstance(self.policy, ShardedModel):
            return self.policy.shard(scored)
        return scored

    def batch(self, split: str, indices: NDArray[np.int64]) -> Batch:
        """These sequences on the device, without padding where the model can do without."""
        return self.batch_of(self.data.splits[split], indices)

    def batch_of(self, tokens: TokenSet, indices: NDArray[np.int64]) -> Batch:
        """`batch` of sequences that are in none of the study's splits."""
        return MAKERS[self.layout](tokens, indices, self.device)

    def document_lengths(self, split: str, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Lengths that a pass over these sequences computes: of documents, or of padded rows."""
        tokens = self.data.splits[split]
        lengths = document_runs(tokens, indices)[1]
        if self.layout == "apart":
            return np.full(len(lengths), lengths.max())
        if self.layout == "stored":
            return np.full(len(indices), (tokens.document[indices] >= 0).sum(axis=1).max())
        return lengths

    @property
    def notes(self) -> list[str]:
        """What whoever reads the study's results should know of how they came about."""
        found = self.data.notes
        if self.data.packed and self.layout == "apart":
            found.append(NOT_PACKED.format(type(self.policy.model).__name__))
        length = self.data.splits["forget"].input_ids.shape[1]
        if (beyond := check_positions(self.policy.model, length)) is not None:
            found.append(beyond)
        if self.update_cost.estimated:
            found.append(f"FLOPs of updates are estimated: {self.update_cost.estimated}")
        if self.evaluation.generate and not self.can_cache:
            found.append(NOT_CACHED.format(type(self.policy.model).__name__))
        return found

    def quantities(self, methods: Collection[str]) -> Quantities:
        """The quantities of P_0 that every lane of a study needs, as arrays.

        They are the final hidden states of the sets that are evaluated and of those that a term
        compares with P_0 on, as far as they fit, adversarial labels, and the halves. A collective
        of all ranks.
        """
        terms = [term for name in methods for term in method_named(name).terms]
        referred = (term.split for term in terms if loss_of(term).needs in OF_REFERENCE)
        preferred = (ALTERNATIVE for term in terms if loss_of(term).needs == "preference")
        splits = [*EVALUATED.values(), *self.data.watched, *referred, *preferred]
        hidden = self.reference.fill(dict.fromkeys(splits))
        wanted = any(term.labels == "adversarial" for term in terms)
        return {
            "hidden": hidden,
            "adversarial_labels": self.adversarial_labels if wanted else None,
            "halves": self.data.halves,
            "retrained": self.retrained,
        }

    def use_halves(self, selection: dict[str, NDArray[np.bool_]]) -> None:
        """Deal the documents of evaluated sets, by name, so: True [D] for the selection half."""
        self.data = self.data.with_halves(
            {EVALUATED[name]: half_letters(half) for name, half in selection.items()}
        )

    def adopt(self, quantities: Quantities) -> None:
        """Use what another lane of the study has computed."""
        self.reference.adopt(quantities["hidden"])
        self.data = self.data.with_halves(quantities["halves"])
        self.retrained = quantities["retrained"]
        if quantities["adversarial_labels"] is not None:
            self.adversarial_labels = quantities["adversarial_labels"]

    def idle_calls(self, mine: int, most: int) -> range:
        """The idle calls of a sharded model, so that this rank makes as many as the others."""
        return range(most - mine if self.sharded else 0)

    @property
    def adversarial_labels(self) -> NDArray[np.int32]:
        """Adversarial labels of the forget set, [N, T - 1].

        They are computed at first use, or come from the lane that has computed them.
        """
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
            # Where it fails the peak is that of the process, an upper bound.
            with suppress(OSError):
                # Linux: peak resident set := resident set.
                Path("/proc/self/clear_refs").write_text("5")

    def peak_memory_gib(self) -> float:
        """GiB at the peak since `restart_peak_memory`.

        They are device memory on CUDA and resident memory of this process on a CPU.
        """
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        try:
            line = next(
                x
                for x in Path("/proc/self/status").read_text().splitlines()
                if x.startswith("VmHWM")
            )
            return int(line.split()[1]) / 2**20
        except (OSError, StopIteration):
            scale = 2**30 if os.uname().sysname == "Darwin" else 2**20
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def _largest_token(data: StudyData) -> int:
    """The largest token id that is a label or stands in a document."""
    used = (tokens.input_ids[tokens.document >= 0].max() for tokens in data.splits.values())
    return int(max(data.allowed_labels.max(), *used))


def _check_as_called(policy: Policy, layout: Layout, packed: bool, device: torch.device) -> None:
    """Policy and P_0 as they are called from now on: with adapters, autocast, cut into shards."""
    probe = Probe(policy.model, device)
    check_layout(states_of(policy.scored), layout, packed, probe, "model")
    with policy.reference() as reference:
        check_layout(states_of(reference), layout, packed, probe, "model")


def retraining_flops(spec: ModelSpec, parameters: float) -> float:
    """FLOPs of retraining without the forget set.

    They are counted for the demo; otherwise they are 6 x parameters x tokens.

    Args:
        spec: the model, with its `pretraining_tokens`.
        parameters: number of parameters that a token uses (`active_parameter_count`).

    Returns:
        0 if `model.pretraining_tokens` is not given: then there is no efficiency ratio.
    """
    if spec.source.startswith("demo:"):
        return float(demo_models(spec.source).info["retraining_flops"])
    return 6.0 * parameters * (spec.pretraining_tokens or 0)

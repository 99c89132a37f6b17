"""Memory of a worker, computed from its study's settings before anything is loaded."""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.operations import Operations
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.comm import BUCKET_BYTES
from ray_unlearn.unlearn.logprobs import chunk_size
from ray_unlearn.unlearn.reference import CACHE_BYTES

BYTES = {"float32": 4, "bfloat16": 2}
MOMENTS = 8
"""Bytes per weight of AdamW's two moments, float32 whatever the weights are."""
BUFFERS_GIB = 0.12
"""GiB held by allocator and libraries; measured on a CPU, the same for all settings."""
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
CHOSEN_EXPERTS = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk")
"""Config names for the number of a mixture's experts, and of those that a token uses."""
LOGIT_COPIES = 4
"""Float32 copies of a chunk's logits: logits, gradient, and P_0's with its probabilities."""

SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Config names of a soft cap, which takes `CAP_COPIES` more: capped logits and their slope."""
CAP_COPIES = 2


@dataclass(frozen=True)
class Memory:
    """GiB of one worker at its peak, by use.

    On a CPU all workers of a node read one `reference`.
    """

    weights: float
    gradients: float
    optimizer: float
    reference: float
    hidden_states: float
    activations: float
    head: float
    buffers: float = BUFFERS_GIB

    @property
    def total(self) -> float:
        """GiB in all."""
        return sum(asdict(self).values())

    @property
    def largest(self) -> str:
        """Name of the part that takes most."""
        parts = asdict(self)
        return max(parts, key=lambda name: float(parts[name]))


def memory(spec: StudySpec, config: Any, micro_batch: int) -> Memory:
    """Memory of one worker of a study.

    Args:
        spec: the study.
        config: the transformers config of its model.
        micro_batch: sequences in a forward and backward pass.
    """
    model, operations = spec.model, spec.operations
    size = BYTES[model.dtype]
    count, trained = _counts(config, model)
    sharded = operations.workers_per_lane if operations.parallel == "shard" else 1
    adapters = model.lora is not None
    trained_size = 4 if adapters else size
    residual_bits = (
        2 if not adapters and model.dtype == "bfloat16" and model.rounding == "exact" else 0
    )
    vocabulary, hidden = config.vocab_size, config.hidden_size
    head_gradient = 0 if adapters else vocabulary * hidden * (4 + (2 if model.autocast else 0))
    chunk = chunk_size(vocabulary, torch.device("cuda" if operations.gpus_per_worker else "cpu"))
    capped = any(getattr(config, name, None) for name in SOFT_CAPS)
    copies = LOGIT_COPIES + (CAP_COPIES if capped else 0)
    heads = vocabulary * hidden * size if sharded > 1 else 0
    return Memory(
        weights=_gib((count * size + (trained * 4 if adapters else 0)) / sharded),
        gradients=_gib(
            trained * trained_size / sharded + _message(config, model, operations, trained)
        ),
        optimizer=_gib(trained * (MOMENTS + residual_bits) / sharded),
        reference=_gib(0 if adapters else count * size / sharded + heads),
        hidden_states=_gib(min(CACHE_BYTES, _hidden_states(spec, hidden, size))),
        activations=_gib(
            _activations(config, model, operations) * micro_batch * spec.data.sequence_length
        ),
        head=_gib(
            min(chunk, micro_batch * spec.data.sequence_length) * vocabulary * 4 * copies
            + head_gradient
        ),
    )


def remedies(spec: StudySpec, config: Any, micro_batch: int) -> Iterator[tuple[str, Memory]]:
    """Settings that lower the memory, each alone and mildest first.

    Settings that change results come last, and say so.

    Yields:
        How to write the setting, and the memory with it.
    """
    now = memory(spec, config, micro_batch).total
    return ((name, then) for name, then in _changes(spec, config, micro_batch) if then.total < now)


def _changes(spec: StudySpec, config: Any, micro_batch: int) -> Iterator[tuple[str, Memory]]:
    operations, model = spec.operations, spec.model

    def changed(
        operated: dict[str, Any] | None = None,
        modelled: dict[str, Any] | None = None,
        batch: int = 0,
    ) -> Memory:
        other = spec.model_copy(
            update={
                "operations": operations.model_copy(update=operated or {}),
                "model": model.model_copy(update=modelled or {}),
            }
        )
        return memory(other, config, batch or micro_batch)

    if micro_batch > 1:
        yield "operations.micro_batch_size: 1", changed(batch=1)
    if not operations.activation_checkpointing:
        yield (
            "operations.activation_checkpointing: true",
            changed({"activation_checkpointing": True}),
        )
        if micro_batch > 1:
            both = changed({"activation_checkpointing": True}, batch=1)
            yield "operations.micro_batch_size: 1 with activation_checkpointing: true", both
    if operations.workers_per_lane > 1 and operations.parallel != "shard" and model.lora is None:
        yield "operations.parallel: shard", changed({"parallel": "shard"})
    if model.dtype == "float32":
        yield (
            "model.dtype: bfloat16 (other results)",
            changed(modelled={"dtype": "bfloat16", "autocast": None}),
        )
    if model.lora is None:
        from ray_unlearn.spec.model_spec import LoraSpec

        yield (
            "model.lora: {rank: 16} (another way to unlearn)",
            changed({"parallel": "replicate"}, {"lora": LoraSpec()}),
        )


def gpu_memory_gib() -> float | None:
    """GiB of this machine's smallest GPU; None without one."""
    sizes = [
        torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())
    ]
    return min(sizes) / 2**30 if sizes else None


def _gib(size: float) -> float:
    return size / 2**30


def parameter_count(config: Any) -> int:
    """Number of parameters, counted on the meta device; tied ones once."""
    return sum(p.numel() for p in on_meta(config).parameters())


def active_parameter_count(config: Any) -> float:
    """Parameters that a token uses, with only the chosen ones of a mixture's experts."""
    return active_parameters(on_meta(config).named_parameters(), config)


def active_parameters(named: Iterable[tuple[str, Tensor]], config: Any) -> float:
    """Numbers in these parameters that a token uses.

    Those of experts count by the fraction of experts that a token is sent to; all count where the
    config does not say how many experts there are and how many are chosen.
    """
    total, chosen = (_first_of(config, names) for names in (EXPERTS, CHOSEN_EXPERTS))
    share = min(1.0, chosen / total) if total and chosen else 1.0
    return sum(p.numel() * (share if ".experts." in f".{name}" else 1.0) for name, p in named)


def _first_of(config: Any, names: tuple[str, ...]) -> float:
    found = (getattr(config, name, None) for name in names)
    return next((float(value) for value in found if isinstance(value, int)), 0.0)


def on_meta(config: Any, **named: Any) -> Any:
    """The model of a transformers config, without memory for its weights.

    `named` is passed to `from_config`.
    """
    from transformers import AutoModelForCausalLM

    # A copy, because transformers writes the attention into the config, which a loaded model uses.
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            deepcopy(config), attn_implementation="eager", **named
        )


def _counts(config: Any, model: ModelSpec) -> tuple[int, int]:
    """Parameters of the model, and how many of them, or of its adapters, are trained."""
    built = on_meta(config)
    count = sum(p.numel() for p in built.parameters())
    if model.lora is None:
        return count, count
    adapted = [
        module
        for name, module in built.named_modules()
        if isinstance(module, nn.Linear)
        and module is not built.get_output_embeddings()
        and (model.lora.targets == "all-linear" or name.split(".")[-1] in model.lora.targets)
    ]
    return count, sum(
        model.lora.rank * (module.in_features + module.out_features) for module in adapted
    )


def _message(config: Any, model: ModelSpec, operations: Operations, trained: int) -> float:
    """Bytes of the largest message in which replicated workers sum gradients.

    They are float32, with a copy beside it where the gradients are not.
    """
    if operations.workers_per_lane == 1 or operations.parallel == "shard":
        return 0.0
    largest = max(BUCKET_BYTES, 4 * config.vocab_size * config.hidden_size)
    copies = 2 if model.dtype == "bfloat16" and model.lora is None else 1
    return float(copies * min(largest, 4 * trained))


def _activations(config: Any, model: ModelSpec, operations: Operations) -> float:
    """Bytes per token that the backward pass needs.

    They are those of a Llama-like layer without materialised attention matrices: two norms (input
    in float32, output), queries, keys, values, output and residuals, and four tensors of the MLP's
    width. With activation checkpointing they are each layer's input, and one layer whole.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    size = BYTES[model.dtype]
    # Float32 results, and the bfloat16 copies that go into products.
    copies = 1.5 if model.autocast else 1.0
    copies *= 2.0 if model.lora else 1.0  # measured: base and adapter have outputs of their own
    layer = copies * ((7 * hidden + 4 * inner) * size + 2 * hidden * 4)
    if operations.activation_checkpointing:
        return float(layers * hidden * size + layer)
    return float(layers * layer)


def _hidden_states(spec: StudySpec, hidden: int, size: int) -> float:
    """Estimated bytes of cached hidden states; a plan does not read the data.

    Local text counts as a token for every two bytes; hub data count as the largest cache.
    """
    splits = (*spec.data.sources.values(), *spec.evaluation.sets.values())
    sources = [source.path for source in splits]
    if any(path is None for path in sources):
        return float(CACHE_BYTES)
    text = sum(_text_bytes(Path(path)) for path in sources if path is not None)
    return text / 2 * hidden * size


def _text_bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())

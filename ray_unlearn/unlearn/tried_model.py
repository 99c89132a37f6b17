"""The study's own model, loaded and asked before anything starts: what its weights alone tell.

A lane would find the same, a minute later and on a machine that costs money.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ray_unlearn.demo import demo_model, is_built
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.study_spec import StudySpec, is_local
from ray_unlearn.store.schema import HALVES, Metrics
from ray_unlearn.store.target import HalfTarget, half_targets
from ray_unlearn.unlearn.architecture import model_config
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import EVALUATED, StudyData
from ray_unlearn.unlearn.evaluate import measured_vanilla
from ray_unlearn.unlearn.halves import balanced_halves
from ray_unlearn.unlearn.hub_ids import cached_file
from ray_unlearn.unlearn.logprobs import target_logprobs
from ray_unlearn.unlearn.machine import memory_here_gib
from ray_unlearn.unlearn.memory import BYTES, parameter_count
from ray_unlearn.unlearn.token_set import TokenSet
from ray_unlearn.unlearn.workspace import Workspace

LARGEST_MEASURED = 1e12
"""FLOPs of the forward passes over all sets that a plan may spend: seconds on a CPU."""
LARGEST_TRIED = 2e13
"""FLOPs of the forward pass of one sequence: a minute on a few cores."""
FEWEST_SEQUENCES = 8
"""Sequences of each set below which a sample says nothing."""
MEMORY_SHARE = 0.6
"""Largest fraction of this machine's memory for policy and reference."""


@dataclass(frozen=True)
class AskedModel:
    """What the vanilla model makes of the data."""

    data: StudyData
    """With the halves dealt as the study deals them, where all of it was measured."""
    halves: tuple[HalfTarget, HalfTarget]
    """`nll` is NaN where it was not measured."""
    vanilla: Metrics
    """Its row; empty where nothing was measured."""
    sample: int | None = None
    """Sequences of each set, where the model is too large to be asked about all of them."""


def model_is_here(model: ModelSpec) -> bool:
    """Whether a model is a folder, a demo model that was built, or in the hub's cache."""
    source = model.source
    if source.startswith("demo:"):
        return is_built(*demo_model(source))
    return is_local(source) or _is_cached(model)


def _is_cached(model: ModelSpec) -> bool:
    """Whether weights and tokenizer of a hub model need not be downloaded."""
    if model.gguf_file is not None:
        return cached_file(model, model.gguf_file)
    weights = ("model.safetensors", "model.safetensors.index.json")
    tokenizer = ("tokenizer.json", "tokenizer.model", "vocab.json")
    return all(any(cached_file(model, name) for name in names) for names in (weights, tokenizer))


def too_large_here(spec: StudySpec) -> str | None:
    """Why the model is not tried on this machine; None where it is."""
    parameters = parameter_count(model_config(spec))
    gib, there = 2 * parameters * BYTES[spec.model.dtype] / 2**30, memory_here_gib()
    if gib > MEMORY_SHARE * there:
        return f"model and reference take {gib:.0f} GiB, this machine has {there:.0f}"
    if 2.0 * parameters * spec.data.sequence_length > LARGEST_TRIED:
        return "one sequence would take minutes on CPUs"
    return None


def opened_here(spec: StudySpec, data: StudyData) -> tuple[Workspace, int, float]:
    """Load the model as a lane does, on CPUs, and pass one batch through it.

    Args:
        spec: the study; the model is on this machine.
        data: its data.

    Returns:
        The workspace, how many sequences the batch had, and their loss in nats/token.

    Raises:
        UserError: the model cannot be loaded or called, or its loss is not finite.
    """
    sample = _sample(spec, data)
    asked = replace(data.as_dealt("balanced", {}), watched=(), owners={})
    attention = "sdpa" if spec.model.attention == "flash_attention_2" else spec.model.attention
    operations = spec.operations.model_copy(
        update={"parallel": "replicate"}
        | ({"head": "fused"} if spec.operations.head == "liger" else {})
    )
    workspace = Workspace.open(
        spec.model.model_copy(update={"attention": attention}),
        _sampled(asked, sample) if sample else asked,
        spec.evaluation.bare,
        operations,
        Comm.single(),
    )
    workspace.reset()
    there = len(workspace.data.splits["forget"])
    count = min(_affordable(spec), spec.evaluation.batch_size, there)
    return workspace, count, _loss(workspace, spec.model.source, count)


@torch.no_grad()
def _loss(workspace: Workspace, source: str, count: int) -> float:
    batch = workspace.batch("forget", np.arange(count))
    found = workspace.policy.scored(
        batch, lambda hidden, head: target_logprobs(hidden, head, targets=batch.targets)
    )
    loss = -float(found.double().mean())
    if not math.isfinite(loss):
        raise UserError(
            f"model.source: {source}: the loss of the first {count} sequences of the forget set "
            "is not finite: weights are damaged, or too large for `model.dtype`; load it in "
            "float32, or download it again"
        )
    return loss


def asked_model(spec: StudySpec, data: StudyData, workspace: Workspace | None) -> AskedModel:
    """What the vanilla model knows of each set, and the halves as the study would deal them.

    Args:
        spec: the study.
        data: its data.
        workspace: of `opened_here`; None: the model is not asked, and lengths alone deal
            the halves.
    """
    data = data.as_dealt("balanced", {})
    unmeasured = AskedModel(data, _halves_by_length(data), {})
    sample = _sample(spec, data)
    if workspace is None or sample == 0:
        return unmeasured
    vanilla = measured_vanilla(workspace).row
    if sample is not None:
        return replace(unmeasured, vanilla=vanilla, sample=sample)
    halves = half_targets(vanilla)
    dealt = data.with_halves(workspace.data.halves)
    return AskedModel(dealt, halves, vanilla) if halves is not None else unmeasured


def _sample(spec: StudySpec, data: StudyData) -> int | None:
    """How many sequences of each set the model is asked about; None: all, 0: none."""
    sets = [data.splits[split] for split in EVALUATED.values()]
    flops = 2.0 * parameter_count(model_config(spec)) * sum(one.input_ids.size for one in sets)
    count = _affordable(spec) // len(sets)
    if flops <= LARGEST_MEASURED or count >= max(map(len, sets)):
        return None
    return count if count >= FEWEST_SEQUENCES else 0


def _affordable(spec: StudySpec) -> int:
    """Sequences that the model may be asked about here, at least one."""
    each = 2.0 * parameter_count(model_config(spec)) * spec.data.sequence_length
    return max(1, int(LARGEST_MEASURED / each))


def _halves_by_length(data: StudyData) -> tuple[HalfTarget, HalfTarget]:
    sizes = np.bincount(data.evaluated("approximate").target_document).astype(np.float64)
    chosen = balanced_halves(sizes, sizes)
    selection, reporting = (
        HalfTarget(half, math.nan, documents=int(own.sum()), tokens=int(sizes[own].sum()))
        for half, own in zip(HALVES, (chosen, ~chosen), strict=True)
    )
    return selection, reporting


def _sampled(data: StudyData, count: int) -> StudyData:
    """So many sequences of each evaluated set, evenly spread."""
    splits = dict(data.splits)
    for split in EVALUATED.values():
        whole = splits[split]
        chosen = np.unique(np.linspace(0, len(whole) - 1, count).round().astype(np.int64))
        splits[split] = _part(whole, chosen)
    return replace(data, splits=splits)


def _part(tokens: TokenSet, chosen: NDArray[np.int64]) -> TokenSet:
    """Some sequences, with their documents numbered anew."""
    document = tokens.document[chosen]
    kept, numbers = np.unique(document[document >= 0], return_inverse=True)
    again = np.full_like(document, -1)
    again[document >= 0] = numbers
    return TokenSet(
        tokens.input_ids[chosen],
        again,
        tokens.compressed_bytes[kept],
        tokens.selection[kept],
        None if tokens.prompt is None else tokens.prompt[chosen],
    )

"""What an architecture allows, tried on a small model of it before any weights are loaded."""

from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.finding import Finding
from ray_unlearn.unlearn.layout import Layout, choose_layout
from ray_unlearn.unlearn.logit_map import LogitMap, measured_logit_map
from ray_unlearn.unlearn.memory import on_meta, parameter_count
from ray_unlearn.unlearn.model import (
    body_states,
    check_attention,
    config_of,
    load_tokenizer,
)
from ray_unlearn.unlearn.model_files import check_tokenizer_files, check_vocabulary

LARGEST_TRIED = 3e8
"""Parameters of a model that is built with random weights for a plan: some seconds."""
KINDS_OF_LAYERS = (
    "layer_types", "layers_block_type", "attn_layer_indices", "attn_layer_period", "full_attn_idxs",
)  # fmt: skip
"""Config fields of architectures whose layers differ."""


def model_config(spec: StudySpec) -> Any:
    """The transformers config of a study's model.

    Raises:
        UserError: as `causal_config`.
    """
    return causal_config(spec.model)


def causal_config(model: ModelSpec) -> Any:
    """The transformers config of a model; for the demo, that of its recipe.

    Raises:
        UserError: it cannot be read, or is that of no causal language model.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, LlamaConfig

    from ray_unlearn.demo import Recipe

    if model.source.startswith("demo:"):
        recipe = Recipe()
        return LlamaConfig(
            vocab_size=recipe.vocabulary, hidden_size=recipe.hidden,
            intermediate_size=recipe.intermediate, num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads, tie_word_embeddings=True,
        )  # fmt: skip
    config = config_of(model)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"model.source: {model.source!r} is a {config.model_type} model, for which there "
            "is no causal language model; use one that predicts the next token"
        )
    return config


def check_tokenizer(spec: StudySpec, vocabulary: int) -> int:
    """The largest id of a token that is not special.

    Args:
        spec: the study.
        vocabulary: rows of the model's embedding.

    Raises:
        UserError: there is no tokenizer, or the embedding has no such row.
    """
    if not spec.model.gguf_file:
        check_tokenizer_files(spec.model.source)
    tokenizer = load_tokenizer(spec.model)
    special = set(tokenizer.all_special_ids)
    largest = max(i for i in range(len(tokenizer)) if i not in special)
    check_vocabulary(largest, vocabulary)
    return largest


def check_retrained(spec: StudySpec, config: Any) -> None:
    """Refuse an exactly retrained model of another shape; no weights are loaded.

    Args:
        spec: the study.
        config: of the vanilla model.

    Raises:
        UserError: its key, and what to do.
    """
    given = [("exact_retrain", spec.model.exact_retrain)]
    given += [("exact_retrain_seeds", source) for source in spec.model.exact_retrain_seeds]
    shapes = [p.shape for p in on_meta(config).parameters()]
    for field, source in given:
        if source is None or source.startswith("demo:"):
            continue
        if [p.shape for p in on_meta(config_of(spec.model, source)).parameters()] != shapes:
            raise UserError(
                f"model.{field}: {source} has other weight shapes than {spec.model.source}; use "
                "the same config"
            )


def check_flash_attention(spec: StudySpec) -> list[Finding]:
    """What speaks against FlashAttention: no GPUs, or none of its package on this machine.

    Raises:
        UserError: the study uses no GPUs.
    """
    if not spec.operations.gpus_per_worker:
        raise UserError(
            "model.attention: `flash_attention_2` needs GPUs; use `sdpa`, or set "
            "`operations.gpus_per_worker`"
        )
    if find_spec("flash_attn") is None:
        missing = "model.attention: flash-attn is not installed here, and each lane needs it"
        return [Finding("FlashAttention", "warning", missing, "install it, or use `sdpa`")]
    return []


@dataclass(frozen=True)
class TriedArchitecture:
    """What was found on a small model of an architecture."""

    kind: str
    """Its class."""
    layout: Layout
    logit_map: LogitMap


def tried_architecture(
    config: Any, attention: str, packed: bool, source: str = "this model"
) -> TriedArchitecture | None:
    """Layout and logits of random weights of an architecture, without loading any.

    Args:
        config: a transformers config; a few layers and tokens of it are built, in float32.
        attention: `model.attention`.
        packed: whether documents share stored sequences.
        source: what people call the model.

    Returns:
        None where the model is too large to be tried, or cannot be built small.

    Raises:
        UserError: it has no such attention; as `choose_layout` and `measured_logit_map`.
    """
    from transformers import AutoModelForCausalLM

    check_attention(config, attention)
    small = _small(config)
    try:
        if parameter_count(small) > LARGEST_TRIED:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(
                small, attn_implementation=attention, dtype=torch.float32
            ).eval()
        model.logit_map = measured_logit_map(model, source, body_states)
        layout = choose_layout(model, packed)
        return TriedArchitecture(type(model).__name__, layout, model.logit_map)
    except UserError:
        raise
    # Configs are checked by their classes, each in its own way; the lane tries the real model.
    except Exception:
        return None


def _small(config: Any) -> Any:
    """Fewer tokens, and one layer where all layers are of one kind."""
    small = deepcopy(config)
    small.vocab_size = min(512, small.vocab_size)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(small, name, None)
    if not any(getattr(small, name, None) for name in KINDS_OF_LAYERS):
        small.num_hidden_layers = 1
    return small

"""What an architecture allows, tried on a small model of it before any weights are loaded."""

from copy import deepcopy
from typing import Any

import torch

from ray_unlearn.spec.errors import UserError
from ray_unlearn.unlearn.layout import Layout, choose_layout
from ray_unlearn.unlearn.logit_map import measured_logit_map
from ray_unlearn.unlearn.memory import parameter_count
from ray_unlearn.unlearn.model import body_states, check_attention

LARGEST_TRIED = 3e8
"""Parameters of a model that is built with random weights for a plan: some seconds."""
KINDS_OF_LAYERS = (
    "layer_types", "layers_block_type", "attn_layer_indices", "attn_layer_period", "full_attn_idxs",
)  # fmt: skip
"""Config fields of architectures whose layers differ."""


def layout_of_architecture(
    config: Any, attention: str, packed: bool, source: str = "this model"
) -> Layout | None:
    """The result of `choose_layout` for random weights of an architecture, without loading any.

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
        return choose_layout(model, packed)
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

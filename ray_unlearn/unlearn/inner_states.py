"""Hidden states inside a model: those of one decoder layer, and what adapters add to each layer.

Layers are named by their depth, a fraction of the model's layers, so that a value means the same
for models of 12 and of 80 layers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from ray_unlearn.spec.errors import UserError


def decoder_layers(model: Any) -> nn.ModuleList:
    """The decoder layers of a causal LM, in order.

    Raises:
        UserError: the architecture has no list of as many layers as its config says.
    """
    count = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UserError(
        f"model.source: {type(model).__name__} has no list of {count} decoder layers, which "
        "methods on hidden states need; use another method"
    )


def layer_at(depth: float, count: int) -> int:
    """Number, from 1 on, of the layer at a depth in (0, 1] of a model of `count` layers."""
    return max(1, round(depth * count))


class _Reached(Exception):
    """The forward pass has what was asked for."""


def layer_states(model: Any, layer: int, call: Callable[[], Any]) -> Tensor:
    """Output [B, T, H] of a decoder layer; the layers above it are not computed.

    Args:
        model: a causal LM.
        layer: its number, from 1 on.
        call: a forward pass of the model.
    """
    found: list[Tensor] = []

    def stop(module: nn.Module, arguments: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)
        raise _Reached

    hook = decoder_layers(model)[layer - 1].register_forward_hook(stop)
    try:
        call()
    except _Reached:
        pass
    finally:
        hook.remove()
    return found.pop()


@contextmanager
def adapter_outputs(model: Any) -> Iterator[list[Tensor]]:
    """A list that a forward pass in this context fills with what each adapter adds, alpha/r B A x.

    They are in the order in which the layers are called, each [B, T, width of its layer].
    """
    from peft.tuners.lora import LoraLayer

    found: list[Tensor] = []
    hooks = []
    for module in model.modules():
        if not isinstance(module, LoraLayer):
            continue
        for name, second in module.lora_B.items():
            hooks.append(second.register_forward_hook(_scaled(found, module.scaling[name])))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _scaled(found: list[Tensor], scale: float) -> Callable[[nn.Module, Any, Tensor], None]:
    def keep(module: nn.Module, arguments: Any, output: Tensor) -> None:
        found.append(output * scale)

    return keep


def direction(seed: int, number: int, width: int) -> Tensor:
    """A fixed random unit vector [width] of a trial, with entries uniform in [0, 1) before.

    The entries are those of Li et al. 2024 (arXiv 2403.03218): all of one sign.

    Args:
        seed: the trial's seed.
        number: of the layer, where there are several.
        width: of the layer.
    """
    key = [0, 0, number, crc32(b"direction")]
    generator = np.random.Generator(np.random.Philox(key=seed, counter=key))
    drawn = torch.from_numpy(generator.random(width))
    return (drawn / drawn.norm()).float()

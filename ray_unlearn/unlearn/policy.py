"""The policy that a trial trains: the whole model, or low-rank adapters on it.

Both can also run P_0 at any time.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import LoraSpec, ModelSpec
from ray_unlearn.unlearn.model import DTYPES
from ray_unlearn.unlearn.scored import Scored
from ray_unlearn.unlearn.strength import interpolate

SECOND_FACTOR = re.compile(r"\blora_(embedding_)?B\b")
"""Name of B in PEFT's adapters: the change of a weight is B A."""


class Policy(Protocol):
    """The policy and the vanilla model behind it."""

    model: Any
    """The causal LM with its current weights."""
    scored: Scored
    """The policy, as it is called."""
    parameters: list[nn.Parameter]
    """What the optimizer changes; tied ones once."""

    def reset(self, seed: int) -> None:
        """Make the policy the vanilla model again, in place, whatever state it is in (NaN too)."""

    def reference(self) -> Any:
        """A context manager with P_0 as a `Scored`, in which the policy must not be called."""

    def weights(self) -> dict[str, torch.Tensor]:
        """The tensors in which this policy differs from the vanilla model, by name.

        Changing them changes the policy.
        """

    def mix(self, trained: Sequence[torch.Tensor], strength: float) -> None:
        """Set the policy to W_0 + strength (W_t - W_0), in place.

        Args:
            trained: W_t, as `strength.trained_weights` gave it for `parameters`.
            strength: 0 is the vanilla model, 1 the trained one.
        """


class WholeModel:
    """A policy of which all weights are trained.

    The frozen vanilla model is the only other copy; `reset` copies it in place.
    """

    def __init__(self, vanilla: Any, autocast: torch.dtype | None) -> None:
        self.model = deepcopy(vanilla).requires_grad_(True)
        self.vanilla = vanilla.requires_grad_(False)
        self.scored = Scored(self.model, autocast)
        self._reference = Scored(self.vanilla, autocast)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    @torch.no_grad()
    def reset(self, seed: int) -> None:
        """Copy weights and buffers; gradients are dropped."""
        self.model.zero_grad(set_to_none=True)
        for mine, theirs in zip(self.model.parameters(), self.vanilla.parameters(), strict=True):
            mine.copy_(theirs)
        for mine, theirs in zip(self.model.buffers(), self.vanilla.buffers(), strict=True):
            mine.copy_(theirs)

    @contextmanager
    def reference(self) -> Iterator[Scored]:
        """The frozen copy."""
        yield self._reference

    def release(self) -> None:
        """Free the trained weights; P_0 stays, and nothing else can be asked any more."""
        self.parameters.clear()
        self.model.to("meta")

    def merged(self) -> Any:
        """It is plain already."""
        return self.model

    def weights(self) -> dict[str, torch.Tensor]:
        """Every parameter."""
        return {name: p.detach() for name, p in self.model.named_parameters()}

    def mix(self, trained: Sequence[torch.Tensor], strength: float) -> None:
        """Of every weight."""
        interpolate(self.parameters, trained, list(self.vanilla.parameters()), strength)


class Adapters:
    """A policy of which only LoRA adapters are trained, through PEFT.

    They are float32 even on bfloat16 weights. P_0 is the model with its adapters off, so there is
    one copy of the weights.

    Raises:
        UserError: no layer has one of the names in `targets`.
    """

    def __init__(self, vanilla: Any, spec: LoraSpec, autocast: torch.dtype | None) -> None:
        from peft import LoraConfig, get_peft_model

        targets = spec.targets if isinstance(spec.targets, str) else list(spec.targets)
        config = LoraConfig(
            r=spec.rank,
            lora_alpha=spec.alpha,
            lora_dropout=0.0,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        try:
            with warnings.catch_warnings():  # PEFT asks transformers by a name that will go
                warnings.filterwarnings(
                    "ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning
                )
                self._peft = get_peft_model(vanilla, config)
        except ValueError as error:
            raise UserError(f"model.lora.targets: {str(error).splitlines()[0]}") from None
        self._peft.eval()
        self.model = self._peft.get_base_model()
        self.scored = Scored(self.model, autocast)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    def reset(self, seed: int) -> None:
        """Draw A anew from `seed`, set B to zero: the model is P_0 again."""
        from peft.tuners.lora import LoraLayer

        self.model.zero_grad(set_to_none=True)
        torch.manual_seed(seed)
        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                module.reset_lora_parameters(self._peft.active_adapter, True)

    @contextmanager
    def reference(self) -> Iterator[Scored]:
        """The same model, adapters off."""
        with self._peft.disable_adapter():
            yield self.scored

    def merged(self) -> Any:
        """A copy with the adapters added to the weights."""
        return deepcopy(self._peft).merge_and_unload()

    def save_adapters(self, folder: Path, base: str, revision: str | None) -> None:
        """Write the adapters alone, in PEFT's format.

        Args:
            folder: where.
            base: folder or hub id of the model that they belong on.
            revision: of it.

        Raises:
            OSError: the folder cannot be written.
        """
        config = self._peft.peft_config[self._peft.active_adapter]
        config.base_model_name_or_path, config.revision = base, revision
        self._peft.save_pretrained(folder, safe_serialization=True)

    def weights(self) -> dict[str, torch.Tensor]:
        """The adapters."""
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def mix(self, trained: Sequence[torch.Tensor], strength: float) -> None:
        """W_0 + strength B A: the second factor of each product is scaled."""
        names = (name for name, p in self.model.named_parameters() if p.requires_grad)
        for name, p, kept in zip(names, self.parameters, trained, strict=True):
            p.copy_(kept * strength if SECOND_FACTOR.search(name) else kept)


def make_policy(vanilla: Any, spec: ModelSpec) -> WholeModel | Adapters:
    """The policy that the spec asks for.

    It takes over the vanilla model, which must not be used otherwise from then on.
    """
    autocast = None if spec.autocast is None else DTYPES[spec.autocast]
    return (
        WholeModel(vanilla, autocast)
        if spec.lora is None
        else Adapters(vanilla, spec.lora, autocast)
    )


def load_policy(policy: Policy, path: Path) -> None:
    """Make the policy the one whose `weights` are in this safetensors file.

    Raises:
        UserError: the file is of another model, or of other adapters.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found, own = load_file(path), policy.weights()
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if own.keys() != found.keys() or any(own[name].shape != found[name].shape for name in own):
        raise UserError(
            f"{path}: its tensors are not those of this study's model; was `model.lora` changed?"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(found[name])


def checkpoint_layers(policy: Any) -> Callable[[], None]:
    """Switch on activation checkpointing (Chen et al. 2016, arXiv 1604.06174).

    Each decoder layer stores its input and is computed again in the backward pass. The switch of
    transformers works in training mode only, and a policy is always in eval mode.

    Returns:
        A function that switches it off again.

    Raises:
        UserError: the architecture marks no layers.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [
        module for module in policy.modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    if not layers:
        raise UserError(
            f"operations.activation_checkpointing: {type(policy).__name__} marks no layers for "
            "it; set it to false"
        )
    for layer in layers:
        layer.forward = _checkpointed(layer.forward)

    def undo() -> None:
        for layer in layers:
            del layer.forward

    return undo


def _checkpointed(forward: Any) -> Any:
    def twice(*arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **named)
        return checkpoint(
            forward, *arguments, use_reentrant=False, preserve_rng_state=False, **named
        )

    return twice

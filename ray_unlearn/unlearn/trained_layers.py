"""Which parameters a method trains: all of the policy, or those of a few layers.

RMU (Li et al. 2024, arXiv 2403.03218) trains the last matrix of the MLP in the layer that it looks
at and in those just below, and nothing else.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import nn

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.method_registry import method_named
from ray_unlearn.spec.model_spec import LoraSpec
from ray_unlearn.spec.own_hyperparameters import LAYER_DEPTH, TRAINED_LAYERS
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.unlearn.architecture import model_config
from ray_unlearn.unlearn.inner_states import decoder_layers, layer_at
from ray_unlearn.unlearn.memory import on_meta
from ray_unlearn.unlearn.workspace import Workspace

DOWN_PROJECTION = re.compile(
    r"^(?!.*(attn|attention)).*\b"
    r"(down_proj|fc2|fc_out|dense_4h_to_h|w2|output_linear|c_proj)\b(?!.*\bbias$)"
)
"""What architectures call the last matrix of an MLP, in the names of a layer's parameters."""


def trained_parameters(workspace: Workspace, config: TrialConfig) -> list[nn.Parameter]:
    """What a trial's optimizer changes, in the order of `Workspace.parameters`.

    Raises:
        UserError: the layers have no parameters that the method trains.
    """
    if TRAINED_LAYERS not in config.definition.own:
        return workspace.parameters
    layers = decoder_layers(workspace.policy.model)
    chosen = {
        id(p)
        for layer in _trained_layers(layers, config)
        for name, p in layer.named_parameters()
        if DOWN_PROJECTION.search(name)
    }
    found = [p for p in workspace.parameters if id(p) in chosen]
    if not found:
        raise _nothing_to_train(config.method, workspace.policy.model, None)
    return found


def _trained_layers(layers: nn.ModuleList, config: TrialConfig) -> nn.ModuleList:
    depth, many = (getattr(config, one.name) for one in (LAYER_DEPTH, TRAINED_LAYERS))
    top = layer_at(depth, len(layers))
    return layers[max(0, top - many) : top]


@contextmanager
def training_only(workspace: Workspace, trained: Collection[nn.Parameter]) -> Iterator[None]:
    """Backward passes in this context leave gradients in these parameters of the policy alone.

    No others are computed, except in a sharded model, which fixes what has a gradient when it is
    first called; there they are dropped.
    """
    wanted = {id(p) for p in trained}
    others = [p for p in workspace.parameters if id(p) not in wanted]
    for p in others:
        p.requires_grad_(workspace.sharded)
    try:
        yield
    finally:
        for p in others:
            p.requires_grad_(True)
            p.grad = None


def check_trained_layers(spec: StudySpec) -> str:
    """Refuse methods that find nothing to train in the study's model; no weights are loaded.

    Returns:
        What is trained, in words.

    Raises:
        UserError: its layers have no parameters of a known name, or no adapters there.
    """
    names = [name for name in spec.methods if TRAINED_LAYERS in method_named(name).own]
    if not names:
        return "all that the policy trains"
    model = on_meta(model_config(spec))
    for layer in decoder_layers(model):
        adapted = [
            name
            for name, _ in layer.named_parameters()
            if DOWN_PROJECTION.search(name) and _is_trained(layer, name, spec.model.lora)
        ]
        if not adapted:
            raise _nothing_to_train(names[0], model, spec.model.lora)
    return f"{', '.join(names)}: the last matrix of the MLP in some layers"


def _is_trained(layer: nn.Module, name: str, lora: LoraSpec | None) -> bool:
    if lora is None:
        return True
    path = name.rpartition(".")[0]
    linear = isinstance(layer.get_submodule(path), nn.Linear)
    return linear and (lora.targets == "all-linear" or path.split(".")[-1] in lora.targets)


def _nothing_to_train(method: str, model: nn.Module, lora: LoraSpec | None) -> UserError:
    name = type(model).__name__
    if lora is not None:
        return UserError(
            f"model.lora.targets: {method} trains the adapters of the last matrix of each MLP, and "
            f"{name} gets none there; add that layer's name, or take the method out of `methods`"
        )
    return UserError(
        f"methods: {method} trains the last matrix of each MLP, and {name} has none by a known "
        "name in each of its layers; take the method out"
    )

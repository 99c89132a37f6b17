"""Terms of hidden states: RMU and residual alignment, against plain PyTorch and by hand."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from test_alternatives import run
from test_checkpoint import it_goes_on
from torch import nn

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import LoraSpec
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.schema import COLUMNS
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.data_order import batch
from ray_unlearn.unlearn.inner_states import (
    adapter_outputs,
    decoder_layers,
    direction,
    layer_at,
    layer_states,
)
from ray_unlearn.unlearn.loop import unlearn
from ray_unlearn.unlearn.methods.losses import (
    GivenStates,
    shifted_residuals,
    steered,
    unmoved,
    zero_residuals,
)
from ray_unlearn.unlearn.model import load_model
from ray_unlearn.unlearn.policy import WholeModel
from ray_unlearn.unlearn.strength import put_back, trained_weights
from ray_unlearn.unlearn.trained_layers import DOWN_PROJECTION, check_trained_layers
from ray_unlearn.unlearn.workspace import Workspace

REPEATABLE = [name for name, column in COLUMNS.items() if column.repeatable]
CHOSEN = SimpleNamespace(steering=2.0, shift=2.0)
LORA = LoraSpec(rank=4, alpha=8)


def opened(spec: StudySpec, lora: LoraSpec | None = None, **operated: object) -> Workspace:
    model = spec.model.model_copy(update={"lora": lora})
    operations = spec.operations.model_copy(update=operated)
    data = prepare(spec.data, spec.model)
    return Workspace.open(model, data, spec.evaluation, operations, Comm.single())


def config(method: str, **values: object) -> TrialConfig:
    least: dict = {
        "learning_rate": 3e-3, "steps": 3, "batch_size": 4, "evaluate_at": (1, 3), "seed": 5
    }  # fmt: skip
    return TrialConfig(method=method, **(least | values))


def moved(workspace: Workspace) -> set[str]:
    """Names of the parameters that are not those of the vanilla model."""
    assert isinstance(workspace.policy, WholeModel)
    vanilla = dict(workspace.policy.vanilla.named_parameters())
    now = workspace.policy.model.named_parameters()
    return {name for name, p in now if not torch.equal(p, vanilla[name])}


def test_losses_of_states_by_hand() -> None:
    """Two targets of width 2, of a batch of four."""
    states, unit = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0.6, 0.8])
    given = GivenStates([states], 4, [unit], [torch.tensor([[1.0, 1.0], [3.0, 2.0]])])
    to_target = (0.2**2 + 0.4**2 + 1.8**2 + 2.4**2) / 2 / 4
    assert steered(given, CHOSEN).item() == pytest.approx(to_target)
    assert unmoved(given, CHOSEN).item() == pytest.approx((0 + 1 + 0 + 4) / 2 / 4)


def test_losses_of_residuals_by_hand() -> None:
    """Layers of width 2 and 1 count alike."""
    states = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])]
    given = GivenStates(states, 1, [torch.tensor([0.6, 0.8]), torch.tensor([1.0])], [])
    assert zero_residuals(given, CHOSEN).item() == pytest.approx((2.5 + 9) / 2)
    assert shifted_residuals(given, CHOSEN).item() == pytest.approx(((0.04 + 0.16) / 2 + 1) / 2)


def test_directions_are_of_length_one_and_the_trials_own() -> None:
    one = direction(3, 0, 500)
    assert one.norm().item() == pytest.approx(1)
    assert torch.equal(one, direction(3, 0, 500))
    for other in (direction(4, 0, 500), direction(3, 1, 500)):
        assert not torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize(
    ("depth", "count", "layer"), [(0.25, 32, 8), (1.0, 32, 32), (0.01, 32, 1), (0.5, 3, 2)]
)
def test_a_depth_is_a_layer_of_every_model(depth: float, count: int, layer: int) -> None:
    assert layer_at(depth, count) == layer


def test_states_of_a_layer_are_those_that_transformers_reports(tiny_study: StudySpec) -> None:
    """The layers above are not called; the last one's are those before the last norm."""
    model = load_model(tiny_study.model)
    ids = torch.arange(12)[None]
    expected = model(ids, output_hidden_states=True).hidden_states
    called = []
    hook = decoder_layers(model)[1].register_forward_hook(lambda *_: called.append(2))
    first = layer_states(model, 1, lambda: model(ids))
    assert (torch.equal(first, expected[1]), called) == (True, [])
    last = layer_states(model, 2, lambda: model(ids))
    assert torch.equal(model.model.norm(last), expected[2])
    hook.remove()
    assert torch.equal(model(ids, output_hidden_states=True).hidden_states[2], expected[2])


def _plain_states(model: nn.Module, ids: torch.Tensor, layer: int) -> torch.Tensor:
    found: list[torch.Tensor] = []
    hook = decoder_layers(model)[layer - 1].register_forward_hook(lambda *a: found.append(a[2]))
    model(ids)
    hook.remove()
    return found[0][:, :-1]


@pytest.mark.parametrize(("depth", "layers"), [(0.5, 1), (1.0, 1), (1.0, 2)])
def test_trajectory_of_rmu_equals_plain_pytorch(
    tiny_study: StudySpec, depth: float, layers: int
) -> None:
    workspace = opened(tiny_study)
    trial = config("rmu", layer_depth=depth, trained_layers=layers, steering=3.0, w_r=2.0)
    rows = run(workspace, trial)
    top = round(2 * depth)
    model, vanilla = load_model(tiny_study.model), load_model(tiny_study.model)
    names = [f"model.layers.{i}.mlp.down_proj.weight" for i in range(top - layers, top)]
    assert moved(workspace) == set(names)
    weights = [model.get_parameter(name) for name in names]
    optimizer = torch.optim.AdamW(weights, lr=3e-3, weight_decay=0.0)
    unit = direction(5, 0, 32)
    for update in (1, 2, 3):
        losses = []
        for split in ("forget", "retain"):
            tokens = workspace.data.splits[split]
            indices, _ = batch(5, split, update, 4, len(tokens))
            ids = torch.from_numpy(tokens.input_ids[indices]).long()
            real = torch.from_numpy(tokens.target_mask[indices])
            wanted = 3.0 * unit
            if split == "retain":
                with torch.no_grad():
                    wanted = _plain_states(vanilla, ids, top)[real]
            losses.append((_plain_states(model, ids, top)[real] - wanted).square().mean())
        optimizer.zero_grad()
        (losses[0] + 2 * losses[1]).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if update in (1, 3):
            row = next(row for row in rows if row["update"] == update)
            assert row["forget_loss"] == pytest.approx(losses[0].item(), rel=1e-4)
            assert row["retain_loss"] == pytest.approx(losses[1].item(), rel=1e-3, abs=1e-7)
    for name, weight in zip(names, weights, strict=True):
        mine, start = (m.get_parameter(name) for m in (workspace.policy.model, vanilla))
        assert (mine - weight).norm() < 5e-3 * (weight - start).norm()


@pytest.mark.parametrize("changes", [{"micro_batch_size": 3}, {"activation_checkpointing": True}])
@pytest.mark.parametrize(("method", "lora"), [("rmu", None), ("residual_alignment", LORA)])
def test_micro_batches_and_checkpointing_give_the_same_trajectory(
    tiny_study: StudySpec, method: str, lora: LoraSpec | None, changes: dict
) -> None:
    whole, parts = (run(opened(tiny_study, lora, **ops), config(method)) for ops in ({}, changes))
    for a, b in zip(whole, parts, strict=True):
        assert a == pytest.approx(b, rel=2e-3, abs=2e-4)


@pytest.mark.parametrize(
    ("method", "lora"), [("rmu", None), ("rmu", LORA), ("residual_alignment", LORA)]
)
def test_used_workspace_equals_fresh_one_bit_for_bit(
    tiny_study: StudySpec, method: str, lora: LoraSpec | None
) -> None:
    """After methods that train other parameters, and before one: nothing is left frozen."""
    fresh, used = opened(tiny_study, lora), opened(tiny_study, lora)
    expected, after = run(fresh, config(method)), run(opened(tiny_study, lora), config("npo"))
    run(used, config("gradient_ascent", seed=1))
    next(unlearn(used, config("rmu", layer_depth=1.0)))
    for _ in range(2):
        assert run(used, config(method)) == expected
    assert run(used, config("npo")) == after
    assert all(p.requires_grad for p in used.parameters)


@pytest.mark.parametrize(("method", "lora"), [("rmu", LORA), ("residual_alignment", LORA)])
def test_it_goes_on_from_a_checkpoint_bit_for_bit(
    tiny_study: StudySpec, tmp_path: Path, method: str, lora: LoraSpec
) -> None:
    it_goes_on(lambda: opened(tiny_study, lora), method, tmp_path, 3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_strength_moves_what_rmu_trained_alone(tiny_study: StudySpec, dtype: str) -> None:
    spec = tiny_study.model_copy(
        update={"model": tiny_study.model.model_copy(update={"dtype": dtype})}
    )
    workspace = opened(spec)
    run(workspace, config("rmu"))
    own = ("model.layers.0.mlp.down_proj.weight",)
    trained = trained_weights(workspace.parameters)
    assert moved(workspace) == set(own)
    workspace.policy.mix(trained, 0.5)
    assert moved(workspace) == set(own)
    put_back(workspace.parameters, trained)
    again = trained_weights(workspace.parameters)
    assert all(torch.equal(a, b) for a, b in zip(again, trained, strict=True))


def test_rmu_trains_adapters_of_its_layers_alone(tiny_study: StudySpec) -> None:
    workspace = opened(tiny_study, LORA)
    run(workspace, config("rmu", layer_depth=0.5))
    second = {n: p for n, p in workspace.policy.weights().items() if "lora_B" in n}
    assert {n for n, p in second.items() if p.any()} == {
        "model.layers.0.mlp.down_proj.lora_B.default.weight"
    }


def test_residuals_are_what_adapters_add(tiny_study: StudySpec) -> None:
    """With their sum over layers written out: outputs with adapters less those without."""
    workspace = opened(tiny_study, LORA)
    trial = config("residual_alignment", shift=1.0)
    rows = run(workspace, trial)
    model = workspace.policy.model
    wrapped = [m for m in model.modules() if hasattr(m, "lora_B")]
    kept: list[torch.Tensor] = []
    hooks = [
        m.register_forward_hook(lambda m, x, out: kept.append(out - m.base_layer(x[0])))
        for m in wrapped
    ]
    ids = torch.arange(10)[None]
    with torch.no_grad(), adapter_outputs(model) as found:
        model(ids)
    for hook in hooks:
        hook.remove()
    assert len(found) == len(wrapped) == 14
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, kept, strict=True))
    assert any(a.abs().max() > 1e-3 for a in found)
    # Adapters add nothing at first, so the first retain loss is 0, and the forget loss is that of
    # the target alone: mean over layers of 1 / width.
    widths = [m.base_layer.out_features for m in wrapped]
    assert rows[0]["retain_loss"] == 0
    assert rows[0]["forget_loss"] == pytest.approx(np.mean([1 / w for w in widths]), rel=1e-5)
    assert rows[1]["forget_loss"] < rows[0]["forget_loss"]


def test_residual_alignment_without_adapters_is_refused(tiny_study: StudySpec) -> None:
    content = tiny_study.model_dump(mode="json")
    content["methods"] = ["residual_alignment"]
    content["spaces"] = {
        "residual_alignment": content["spaces"]["gradient_ascent"]
        | {"method": "residual_alignment"}
    }
    with pytest.raises(ValidationError, match=r"residual_alignment .*model\.lora"):
        StudySpec.model_validate(content)
    content["model"]["lora"] = {"rank": 4}
    assert StudySpec.model_validate(content).methods == ("residual_alignment",)


NAMES = {
    "mlp.down_proj.weight": True,  # Llama
    "mlp.experts.down_proj": True,  # Mixtral
    "mlp.c_proj.weight": True,  # GPT-2
    "mlp.c_proj.bias": False,
    "attn.c_proj.weight": False,
    "fc2.weight": True,  # OPT
    "mlp.dense_4h_to_h.weight": True,  # Falcon, BLOOM, GPT-NeoX
    "attention.dense.weight": False,
    "feed_forward.w2.weight": True,  # LFM 2
    "self_attention.experts.output_linear.weight": False,  # JetMoE
    "mlp.output_linear.weight": True,
    "mlp.experts.down_proj_bias": False,  # GPT-OSS
    "mlp.down_proj.lora_A.default.weight": True,
    "mixer.out_proj.weight": False,  # Mamba
}


def test_rmu_finds_the_last_matrix_of_an_mlp_by_its_name() -> None:
    assert {name: bool(DOWN_PROJECTION.search(name)) for name in NAMES} == NAMES


def test_rmu_without_adapters_where_it_trains_is_refused(tiny_study: StudySpec) -> None:
    """In a plan and before lanes start; and in a lane, for who comes another way."""
    lora = LoraSpec(rank=4, targets=("q_proj",))
    spec = tiny_study.model_copy(
        update={
            "methods": ("rmu",),
            "model": tiny_study.model.model_copy(update={"lora": lora}),
        }
    )
    with pytest.raises(UserError, match=r"model\.lora\.targets: rmu trains"):
        check_trained_layers(spec)
    check_trained_layers(spec.model_copy(update={"methods": ("npo",)}))
    check_trained_layers(spec.model_copy(update={"model": tiny_study.model}))
    with pytest.raises(UserError, match="rmu trains"):
        run(opened(tiny_study, lora), config("rmu"))


def test_flops_of_rmu_are_those_of_its_layers(tiny_study: StudySpec) -> None:
    """One of two layers: half a forward pass on U, twice that on R, and the backward pass of it."""
    workspace = opened(tiny_study)
    low, high = (
        run(workspace, config("rmu", layer_depth=depth))[-1]["flops"] for depth in (0.5, 1.0)
    )
    assert high == pytest.approx(2 * low)
    assert high < run(workspace, config("ascent_kl_in_distribution"))[-1]["flops"]
    assert not math.isnan(low)

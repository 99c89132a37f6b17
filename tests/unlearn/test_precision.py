"""Precision, activation checkpointing, adapters: what each promises, on real trials of the tiny
model."""

import json
from pathlib import Path

import pytest
import torch
from test_loop import config, fresh, run, weights

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import LoraSpec, ModelSpec
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.batch import ATTENTION, Batch
from ray_unlearn.unlearn.checkpoint import save_weights
from ray_unlearn.unlearn.evaluate import evaluate
from ray_unlearn.unlearn.model_files import check_source
from ray_unlearn.unlearn.policy import Adapters, WholeModel, load_policy
from ray_unlearn.unlearn.workspace import context_digest

METHODS = [
    "gradient_ascent",
    "adversarial_samples",
    "ascent_descent_in_distribution",
    "ascent_kl_in_distribution",
    "npo_descent_in_distribution",
]


def with_model(spec: StudySpec, **values: object) -> StudySpec:
    return spec.model_copy(
        update={"model": ModelSpec.model_validate(spec.model.model_dump() | values)}
    )


def all_of(ids: torch.Tensor) -> Batch:
    """One document, of which every hidden state is wanted."""
    everywhere = torch.arange(len(ids))
    return Batch(ids[None], everywhere[None], (len(ids),), everywhere, ids)


def moved(workspace) -> torch.Tensor:
    """How far the policy is from P_0, all weights in one vector."""
    now = torch.cat([p.detach().float().flatten() for p in weights(workspace)])
    workspace.reset(5)
    return now - torch.cat([p.detach().float().flatten() for p in weights(workspace)])


@pytest.mark.parametrize("method", METHODS)
def test_the_fused_head_gives_the_plain_trajectory(tiny_study: StudySpec, method: str) -> None:
    """Sums in another order: equal to rounding, where AdamW makes whole steps of near-zero
    gradients as a vector."""
    plain, fused = fresh(tiny_study, head="plain"), fresh(tiny_study, head="fused")
    expected, _ = run(plain, config(method))
    found, _ = run(fused, config(method))
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b, rel=2e-3, abs=2e-4)
    theirs = moved(plain)
    assert (moved(fused) - theirs).norm() < 5e-3 * theirs.norm()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lora", [False, True])
def test_activation_checkpointing_changes_no_bit(
    tiny_study: StudySpec, method: str, lora: bool
) -> None:
    spec = with_model(tiny_study, lora={"rank": 4}) if lora else tiny_study
    plain, checkpointed = fresh(spec), fresh(spec, activation_checkpointing=True)
    calls: list[int] = []
    layer = checkpointed.policy.model.model.layers[0]
    layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    assert run(plain, config(method)) == run(checkpointed, config(method))
    assert all(
        torch.equal(a, b) for a, b in zip(weights(plain), weights(checkpointed), strict=True)
    )
    calls.clear()
    checkpointed.policy.scored(
        all_of(torch.arange(8)), lambda hidden, head: hidden.sum()
    ).backward()
    assert len(calls) == 2, "once forward, once again in the backward pass"


@pytest.mark.parametrize(
    "method",
    [
        "gradient_ascent",
        "ascent_kl_in_distribution",
        pytest.param("adversarial_samples", marks=pytest.mark.slow),
        pytest.param("ascent_descent_in_distribution", marks=pytest.mark.slow),
    ],
)
def test_bfloat16_weights_follow_float32_where_steps_are_not_lost(
    tiny_study: StudySpec, method: str
) -> None:
    """At a learning rate whose steps plain bfloat16 weights cannot show: a step is a hundredth of
    their spacing."""
    rate = {"learning_rate": 1e-5, "steps": 40, "evaluate_at": (40,)}

    def change(**values: object) -> tuple[float, float]:
        workspace = fresh(with_model(tiny_study, **values))
        workspace.reset()
        before = evaluate(workspace)["forget_nll"]
        (row,), _ = run(workspace, config(method, **rate))
        return row["forget_nll"] - before, moved(workspace).ne(0).float().mean().item()

    expected, _ = change()
    found = {
        name: change(dtype="bfloat16", rounding=name) for name in ("stochastic", "exact", "nearest")
    }
    assert found["stochastic"][0] == pytest.approx(expected, rel=0.35)
    assert found["nearest"][1] < 0.5 * found["exact"][1], "weights that have moved"
    assert found["exact"][1] < found["stochastic"][1], (
        "what is kept beside does not show before it adds up"
    )


def test_counting_flops_leaves_the_attention_kernel_alone(tiny_study: StudySpec) -> None:
    """The count is made with eager attention; it once wrote that into the living policy's config:
    every trial then ran on a slower kernel than P_0."""
    workspace = fresh(tiny_study)
    run(workspace, config("gradient_ascent"))
    assert isinstance(workspace.policy, WholeModel)
    kernels = {
        m.config._attn_implementation for m in (workspace.policy.model, workspace.policy.vanilla)
    }
    assert kernels == {ATTENTION}


def test_autocast_computes_in_bfloat16_on_float32_weights(tiny_study: StudySpec) -> None:
    plain, cast = fresh(tiny_study), fresh(with_model(tiny_study, autocast="bfloat16"))
    seen = set()
    cast.policy.model.model.layers[0].mlp.down_proj.register_forward_hook(
        lambda m, i, output: seen.add(output.dtype)
    )
    expected, _ = run(plain, config("ascent_kl_in_distribution"))
    found, _ = run(cast, config("ascent_kl_in_distribution"))
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in cast.parameters} == {torch.float32}
    assert found != expected
    assert found[-1]["forget_nll"] == pytest.approx(expected[-1]["forget_nll"], rel=0.02)


def test_autocast_and_bfloat16_weights_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="remove one of the two"):
        ModelSpec(source="x", dtype="bfloat16", autocast="bfloat16")


def test_kernels_for_gpus_are_refused_without_any(tiny_study: StudySpec) -> None:
    content = tiny_study.model_dump(mode="json")
    content["operations"] |= {"head": "liger"}
    with pytest.raises(ValueError, match=r"operations\.head: the kernels of `liger` need GPUs"):
        StudySpec.model_validate(content)


def test_what_changes_results_changes_the_context(tiny_study: StudySpec) -> None:
    from ray_unlearn.unlearn.data import prepare

    data = prepare(tiny_study.data, tiny_study.model)
    variants = [
        {}, {"autocast": "bfloat16"}, {"dtype": "bfloat16"},
        {"dtype": "bfloat16", "rounding": "exact"}, {"lora": {"rank": 4}}, {"lora": {"rank": 8}},
    ]  # fmt: skip
    digests = [context_digest(with_model(tiny_study, **values), data) for values in variants]
    assert len(set(digests)) == len(variants)
    assert context_digest(with_model(tiny_study, rounding="exact"), data) == digests[0], (
        "float32 is not rounded"
    )


class TestLora:
    @pytest.fixture
    def spec(self, tiny_study: StudySpec) -> StudySpec:
        return with_model(tiny_study, lora={"rank": 4, "alpha": 8})

    def test_the_base_is_its_own_reference(self, spec: StudySpec) -> None:
        """One copy of the weights, P_0 to the bit while the adapters are anywhere."""
        workspace = fresh(spec)
        assert isinstance(workspace.policy, Adapters)
        assert len(workspace.parameters) == 2 * 2 * 7, (
            "A and B of seven layers in each of two blocks"
        )
        before = {
            name: p.clone()
            for name, p in workspace.policy.model.named_parameters()
            if not p.requires_grad
        }
        vanilla = fresh(with_model(spec, lora=None))
        ids = torch.arange(40)
        rows, _ = run(workspace, config("ascent_kl_in_distribution"))
        assert rows[-1]["forget_kl"] > 1e-3, "the policy has moved"
        with torch.no_grad(), workspace.policy.reference() as reference:
            mine = reference(all_of(ids), lambda hidden, head: head(hidden))
            with vanilla.policy.reference() as plain:
                theirs = plain(all_of(ids), lambda hidden, head: head(hidden))
        assert torch.equal(mine, theirs), (mine - theirs).abs().max()
        after = {
            name: p for name, p in workspace.policy.model.named_parameters() if not p.requires_grad
        }
        assert all(torch.equal(before[name], after[name]) for name in before)

    @pytest.mark.parametrize("method", METHODS)
    def test_a_used_lane_equals_a_fresh_one(self, spec: StudySpec, method: str) -> None:
        used = fresh(spec)
        run(used, config("random_labels", learning_rate=0.3))
        assert run(used, config(method)) == run(fresh(spec), config(method))

    def test_zero_updates_are_the_vanilla_model(self, spec: StudySpec) -> None:
        workspace = fresh(spec)
        workspace.reset(3)
        assert moved_outputs(workspace) == 0

    def test_the_merged_model_is_the_policy(self, spec: StudySpec, tmp_path: Path) -> None:
        from transformers import AutoModelForCausalLM

        workspace = fresh(spec)
        run(workspace, config("gradient_ascent"))
        assert isinstance(workspace.policy, Adapters)
        workspace.policy.merged().save_pretrained(tmp_path / "merged")
        assert "peft" not in json.dumps(
            sorted(path.name for path in (tmp_path / "merged").iterdir())
        )
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
        ids = torch.arange(40)
        expected = workspace.policy.scored(all_of(ids), lambda hidden, head: head(hidden))
        assert torch.allclose(merged(ids[None]).logits[0], expected, atol=1e-4)
        assert len(workspace.parameters) == 28, "merging works on a copy"

    def test_kept_adapters_load_and_are_small(self, spec: StudySpec, tmp_path: Path) -> None:
        workspace = fresh(spec)
        run(workspace, config("gradient_ascent"))
        about = save_weights(workspace.policy.weights(), tmp_path / "best.safetensors")
        expected = [p.detach().clone() for p in workspace.parameters]
        assert about["bytes"] < 4 * sum(p.numel() for p in expected) + 8192
        workspace.reset(0)
        load_policy(workspace.policy, tmp_path / "best.safetensors")
        assert all(torch.equal(a, b) for a, b in zip(workspace.parameters, expected, strict=True))
        with pytest.raises(UserError, match=r"model\.lora"):
            load_policy(fresh(with_model(spec, lora=None)).policy, tmp_path / "best.safetensors")

    def test_bfloat16_weights_have_float32_adapters(self, spec: StudySpec) -> None:
        workspace = fresh(with_model(spec, dtype="bfloat16"))
        assert {p.dtype for p in workspace.parameters} == {torch.float32}
        rows, ended = run(workspace, config("ascent_kl_in_distribution"))
        assert ended.status == "complete"
        assert rows[-1]["forget_kl"] > 1e-3

    def test_without_peft_nothing_starts(
        self, spec: StudySpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ray_unlearn.unlearn.model_files.find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"pip install 'ray-unlearn\[lora\]'"):
            check_source(spec.model)

    def test_named_targets(self, spec: StudySpec) -> None:
        workspace = fresh(with_model(spec, lora={"targets": ["q_proj"]}))
        assert len(workspace.parameters) == 4
        with pytest.raises(UserError, match=r"model\.lora\.targets: .*no_such"):
            fresh(with_model(spec, lora={"targets": ["no_such"]}))
        assert LoraSpec().targets == "all-linear"


def moved_outputs(workspace) -> float:
    """Largest difference of the policy's hidden states from P_0's."""
    ids = torch.arange(40)
    with torch.no_grad():
        now = workspace.policy.scored(all_of(ids), lambda hidden, head: hidden)
        with workspace.policy.reference() as reference:
            then = reference(all_of(ids), lambda hidden, head: hidden)
    return float((now - then).abs().max())

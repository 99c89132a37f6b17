"""Documents in one batch never see each other or padding, whatever the architecture."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_layers import GradientCheckpointingLayer

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.admission import admission
from ray_unlearn.unlearn.architecture import tried_architecture
from ray_unlearn.unlearn.batch import ATTENTION
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.context_length import check_positions
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.evaluate import evaluate
from ray_unlearn.unlearn.layout import (
    Layout,
    Probe,
    check_checkpointing,
    choose_layout,
    states_of,
)
from ray_unlearn.unlearn.memory import on_meta
from ray_unlearn.unlearn.model import load_model
from ray_unlearn.unlearn.policy import checkpoint_layers
from ray_unlearn.unlearn.scored import Scored
from ray_unlearn.unlearn.workspace import Workspace

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300}
GROUPED = SHAPE | {"intermediate_size": 48, "num_key_value_heads": 2}
MIXED = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "attn_layer_indices": [1]}
KINDS: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "opt": SHAPE | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 300},
    "falcon": SHAPE,
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 300},
    "lfm2": GROUPED | {"layer_types": ["conv", "full_attention"]},
    "bamba": GROUPED | MIXED,
}
LAYOUTS: dict[str, tuple[Layout, Layout]] = {
    "llama": ("by_document", "by_document"),
    "opt": ("by_document", "by_document"),
    "bloom": ("stored", "apart"),
    "falcon": ("stored", "apart"),
    "mpt": ("stored", "apart"),
    "lfm2": ("stored", "apart"),
    "bamba": ("stored", "apart"),
}
"""Layouts of padded and of packed data, with SDPA where the architecture has it."""


def config_of(kind: str) -> Any:
    config = AutoConfig.for_model(kind, **KINDS[kind])
    config.initializer_range = 0.2
    return config


def attention_of(kind: str) -> str:
    return "eager" if kind in ("bloom", "mpt") else "sdpa"


def built(kind: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        config_of(kind), attn_implementation=attention_of(kind), dtype=torch.float32
    ).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_the_chosen_layout_gives_what_documents_alone_give(kind: str) -> None:
    for packed in (False, True):
        model = built(kind)
        truth = Probe(model).alone(states_of(Scored(model)))
        layout = choose_layout(model, packed)
        assert layout == LAYOUTS[kind][packed]
        tried = tried_architecture(config_of(kind), attention_of(kind), packed)
        assert tried is not None
        assert tried.layout == layout
        probe, states = Probe(model), states_of(Scored(model))
        assert probe.differs(states, layout, truth, packed) is None
        by_document = model.config._attn_implementation == ATTENTION
        assert by_document == (layout == "by_document"), "otherwise attention is as it was"


@pytest.mark.parametrize("kind", ["falcon", "mpt", "lfm2", "bamba"])
def test_architectures_that_leak_between_packed_documents_are_caught(kind: str) -> None:
    model = built(kind)
    probe, states = Probe(model), states_of(Scored(model))
    assert probe.differs(states, "stored", probe.alone(states)) is not None


def test_attention_that_keeps_documents_apart_in_one_row_only_is_not_believed() -> None:
    """As transformers' FlashAttention does: of a batch of several rows, it mixes the documents."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def one_row(module: Any, q: Any, k: Any, v: Any, mask: Any, **named: Any) -> Any:
        positions = named["position_ids"]
        named = {"scaling": named["scaling"], "is_causal": True}
        if len(q) > 1 or positions is None:
            return sdpa_attention_forward(module, q, k, v, None, **named)
        ends = [*(positions[0] == 0).nonzero()[1:, 0].tolist(), q.shape[2]]
        sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        parts = [
            sdpa_attention_forward(module, *columns, None, **named)[0]
            for columns in zip(*(c.split(sizes, dim=2) for c in (q, k, v)), strict=True)
        ]
        return torch.cat(parts, dim=1), None

    AttentionInterface.register("one_row", one_row)
    model = built("llama")
    model.set_attn_implementation("one_row")
    assert choose_layout(model, packed=True) == "apart"


def test_a_model_that_sees_what_follows_is_refused() -> None:
    """BERT as a language model is not causal: it passed the plan, and trained on padding."""
    config = AutoConfig.for_model("bert", **SHAPE, intermediate_size=48)
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UserError, match=r"BertLMHeadModel gives other .* causal model\?"):
        choose_layout(model, packed=False)
    with pytest.raises(UserError, match=r"BertLMHeadModel.* no causal language model"):
        tried_architecture(config, "sdpa", packed=False)


@pytest.fixture
def packed_falcon(tiny_study: StudySpec, tmp_path: Path) -> StudySpec:
    folder = tmp_path / "falcon"
    built("falcon").save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_study.model.source).save_pretrained(folder)
    model = ModelSpec(source=str(folder))
    data = tiny_study.data.model_copy(update={"layout": "pack", "sequence_length": 320})
    return tiny_study.model_copy(update={"model": model, "data": data})


def opened(spec: StudySpec, **operated: object) -> Workspace:
    operations = spec.operations.model_copy(update=operated)
    data = prepare(spec.data, spec.model)
    return Workspace.open(spec.model, data, spec.evaluation, operations, Comm.single())


def test_packed_and_padded_data_measure_the_same_on_falcon(packed_falcon: StudySpec) -> None:
    """A Falcon trained for a minute had forget perplexity 9.47 padded and 10.06 packed."""
    packed = opened(packed_falcon)
    padded = opened(
        packed_falcon.model_copy(
            update={"data": packed_falcon.data.model_copy(update={"layout": "pad"})}
        )
    )
    assert packed.layout == "apart"
    assert any("does not keep packed documents apart" in note for note in packed.notes)
    assert padded.notes == []
    assert evaluate(packed) == pytest.approx(evaluate(padded), rel=1e-4, abs=1e-5)
    lengths = packed.document_lengths("retain", [0, 1])  # type: ignore[arg-type]
    assert len(set(lengths)) == 1, "padded to the longest"


def test_the_plan_says_what_a_lane_will_do(packed_falcon: StudySpec) -> None:
    (note,) = admission(packed_falcon, looks_at_data=False).states("note")
    assert note.found.startswith(
        "data.layout: FalconForCausalLM does not keep packed documents apart"
    )


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_sequences_beyond_the_models_positions_are_refused_or_said(kind: str) -> None:
    """GPT-2 has a table of 64 positions; a Llama computes them, and is only worse beyond."""
    shape = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64}
    if kind == "llama":
        shape = GROUPED | {"max_position_embeddings": 64}
    model = on_meta(AutoConfig.for_model(kind, **shape))
    assert check_positions(model, 64) is None
    if kind == "llama":
        assert "256 tokens are more than the 64 positions" in str(check_positions(model, 256))
    else:
        with pytest.raises(UserError, match=r"sequence_length: 256, but .* has 64 positions"):
            check_positions(model, 256)


def test_adapters_autocast_and_checkpointing_are_tried_as_they_are_called(
    packed_falcon: StudySpec,
) -> None:
    for values in ({"lora": {"rank": 2}}, {"autocast": "bfloat16"}):
        model = ModelSpec.model_validate(packed_falcon.model.model_dump() | values)
        spec = packed_falcon.model_copy(update={"model": model})
        assert opened(spec, activation_checkpointing=True).layout == "apart"


def test_a_retrained_model_with_another_attention_is_refused(
    tiny_study: StudySpec, tmp_path: Path
) -> None:
    """Its weights have the same shapes, but it would read the policy's batches another way."""
    workspace = opened(tiny_study)
    assert workspace.layout == "by_document"
    other = load_model(tiny_study.model)
    other.config._attn_implementation = "eager"
    with pytest.raises(UserError, match=r"model\.exact_retrain: .*document by document"):
        workspace.scored(other)


class _Counting(GradientCheckpointingLayer):
    """A layer that keeps a state: the second call is not the first."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return hidden * torch.tensor(float(self.calls), requires_grad=True) * hidden


def test_checkpointing_a_layer_that_keeps_a_state_is_refused() -> None:
    model = built("llama")
    check_checkpointing(model, checkpoint_layers)
    assert all("forward" not in vars(module) for module in model.modules()), "left as it was"
    state = _Counting()
    norm = model.model.norm
    model.model.norm = torch.nn.Sequential(norm, state)
    with pytest.raises(UserError, match=r"operations\.activation_checkpointing"):
        check_checkpointing(model, checkpoint_layers)

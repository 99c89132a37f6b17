"""FLOPs are counted, and the count is the one known by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.unlearn.admission import admission
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.cost import count_update
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.loop import Ended, backward, unlearn
from ray_unlearn.unlearn.memory import active_parameter_count, parameter_count
from ray_unlearn.unlearn.meter import Meter
from ray_unlearn.unlearn.methods import terms
from ray_unlearn.unlearn.plan import plan
from ray_unlearn.unlearn.workspace import Workspace


def test_count_by_hand(tiny_model: Path) -> None:
    """2 layers, H = 32, I = 48, T = 48, V = 300: matrices 4 H^2 + 3 H I per layer, attention 2 T^2
    H, backward twice."""
    cost = count_update(AutoConfig.from_pretrained(tiny_model), 48)
    matrices = 2 * (4 * 32 * 32 + 3 * 32 * 48)
    attention = 2 * 2 * 48 * 48 * 32
    assert cost.body(np.array([48])) == pytest.approx(
        3 * (2 * 48 * matrices + 2 * attention), rel=0.02
    )
    assert cost.logprob_per_target == 2 * 32 * 300 * 3  # forward, and two gradients
    assert cost.kl_per_target == 2 * 32 * 300 * 4  # and the reference's head


KINDS = {
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mixtral": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "intermediate_size": 64,
        "num_key_value_heads": 4,
    },
}


def config_of(kind: str, **values: object) -> PreTrainedConfig:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return AutoConfig.for_model(kind, **(shape | {"vocab_size": 300} | values))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_is_counted_by_its_weights_and_dtype_does_not_matter(
    kind: str, dtype: str
) -> None:
    """By hand: 6 FLOPs a weight and token. Of Mixtral's 4 experts a token uses 2."""
    cost = count_update(config_of(kind, dtype=dtype, **KINDS[kind]), 48)
    layer = {
        "opt": 4 * 32 * 32 + 2 * 32 * 64,
        "bloom": 4 * 32 * 32 + 2 * 32 * 128,
        "mixtral": 4 * 32 * 32 + 32 * 4 + 2 * 3 * 32 * 64,
    }[kind]
    assert cost.estimated == ""
    assert cost.body_per_token == pytest.approx(6 * 2 * layer, rel=0.02)
    assert cost.body_per_square == pytest.approx(2 * 12 * 32)


MIXTURES: dict[str, dict[str, object]] = {
    "qwen3_moe": {"num_experts": 4, "num_key_value_heads": 2, "head_dim": 8},
    "olmoe": {"num_experts": 4, "intermediate_size": 48},
    "gpt_oss": {"num_local_experts": 4, "num_key_value_heads": 2, "intermediate_size": 48},
    "granitemoe": {"num_local_experts": 4, "num_key_value_heads": 2, "intermediate_size": 48},
}


@pytest.mark.parametrize("kind", MIXTURES)
def test_a_token_costs_the_experts_it_is_sent_to_in_every_dtype(kind: str) -> None:
    chosen = {"num_experts_per_tok": 1, "moe_intermediate_size": 48}

    def per_token(dtype: str, experts: int) -> float:
        values = MIXTURES[kind] | chosen | {"num_experts_per_tok": experts, "dtype": dtype}
        cost = count_update(config_of(kind, **values), 48)
        assert cost.estimated == ""
        return cost.body_per_token

    one, two = per_token("float32", 1), per_token("float32", 2)
    assert two - one == pytest.approx(6 * 2 * 3 * 32 * 48, rel=0.02), "of 4 experts, one more"
    assert (per_token("bfloat16", 1), per_token("bfloat16", 2)) == (one, two)


def test_a_cost_that_cannot_be_counted_is_estimated_and_says_so() -> None:
    """JetMoE copies numbers off the device, which the meta device does not have."""
    config = config_of("jetmoe", num_local_experts=4, num_experts_per_tok=2)
    cost = count_update(config, 48)
    assert "active weights x tokens" in cost.estimated
    assert "counting failed with NotImplementedError" in cost.estimated
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    weights = sum(p.numel() for p in model.model.layers.parameters() if p.ndim > 1)
    assert 0.3 * 6 * weights < cost.body_per_token <= 6 * weights
    assert cost.logprob_per_target == 6 * 32 * 300


def test_only_the_chosen_experts_count(tiny_model: Path) -> None:
    dense = AutoConfig.from_pretrained(tiny_model)
    assert active_parameter_count(dense) == parameter_count(dense)
    mixture = config_of("mixtral", **KINDS["mixtral"])
    experts = 2 * 4 * 3 * 32 * 64
    assert parameter_count(mixture) - active_parameter_count(mixture) == experts / 2


@pytest.mark.parametrize("kind", KINDS)
def test_architectures_that_make_their_own_mask_run_a_trial(
    tiny_study: StudySpec, tmp_path: Path, kind: str
) -> None:
    """Counting FLOPs is a convenience: it must not stop a study."""
    source = tiny_study.model.source
    model = AutoModelForCausalLM.from_config(config_of(kind, **KINDS[kind]))
    model.save_pretrained(tmp_path / kind)
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / kind)
    attention = "eager" if kind == "bloom" else "sdpa"
    spec = ModelSpec(source=str(tmp_path / kind), attention=attention)
    workspace = Workspace.open(
        spec,
        prepare(tiny_study.data, spec),
        tiny_study.evaluation,
        tiny_study.operations,
        Comm.single(),
    )
    config = TrialConfig(
        learning_rate=1e-3, steps=1, method="gradient_ascent", batch_size=4, evaluate_at=(1,)
    )
    row, ended = unlearn(workspace, config)
    assert ended == Ended("complete")
    assert isinstance(row, dict)
    assert row["flops"] > 0


def test_the_body_is_counted_by_document(tiny_model: Path) -> None:
    """Two documents of 24 tokens cost what two sequences of 24 cost: less attention than one of
    48."""
    config = AutoConfig.from_pretrained(tiny_model)
    cost, short = count_update(config, 48), count_update(config, 24)
    assert cost.body(np.array([24, 24])) == pytest.approx(2 * short.body(np.array([24])))
    assert cost.body(np.array([24, 24])) < cost.body(np.array([48]))
    assert cost.body(np.array([7])) == pytest.approx(short.body(np.array([7])))


def test_padding_is_not_counted(tiny_study: StudySpec) -> None:
    """Packed documents: the lengths are those of `document`, whatever shares a sequence."""
    data = prepare(tiny_study.data.model_copy(update={"layout": "pack"}), tiny_study.model)
    workspace = Workspace.open(
        tiny_study.model, data, tiny_study.evaluation, tiny_study.operations, Comm.single()
    )
    indices = np.arange(4)
    lengths = workspace.document_lengths("retain", indices)
    document = data.splits["retain"].document[indices]
    expected = [
        int((row == which).sum()) for row in document for which in dict.fromkeys(row) if which >= 0
    ]
    assert lengths.tolist() == expected


@pytest.mark.parametrize(
    "method", ["gradient_ascent", "ascent_descent_general", "ascent_kl_in_distribution"]
)
def test_counted_cost_is_what_a_real_update_executes(tiny_study: StudySpec, method: str) -> None:
    model = tiny_study.model.model_copy(update={"attention": "eager"})
    data = prepare(tiny_study.data, model)
    workspace = Workspace.open(
        model, data, tiny_study.evaluation, tiny_study.operations, Comm.single()
    )
    config = TrialConfig(learning_rate=1e-3, steps=1, method=method, batch_size=4, evaluate_at=(1,))
    workspace.reset()
    for term in terms(config):
        # The one-off cache of P_0 is not in the cost.
        workspace.reference.hidden(term.split, torch.arange(1).numpy())
    meter = Meter(workspace, config)
    with FlopCounterMode(display=False) as counter:
        for term in terms(config):
            backward(workspace, config, term, 1, meter)
    assert meter._flops == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_plan_counts_the_evaluations_at_other_strengths(tiny_study: StudySpec) -> None:
    """At most three a trial, and they are rows on the disk too."""
    plain = plan(tiny_study)
    evaluation = tiny_study.evaluation.model_copy(update={"strength": "both"})
    calibrated = tiny_study.model_copy(update={"evaluation": evaluation})
    both = plan(calibrated)
    assert (plain.calibrations, both.calibrations) == (0, 4 * 3)
    assert (both.evaluations, both.tokens) == (plain.evaluations, plain.tokens)
    assert both.disk_gib > plain.disk_gib
    (said,) = admission(calibrated, looks_at_data=False).states("note")
    assert "3 passes over the forget set" in said.found


def test_plan_counts_without_loading_anything(tiny_study: StudySpec, tiny_model: Path) -> None:
    found = plan(tiny_study)
    assert (found.trials, found.updates, found.evaluations) == (4, 16, 12)
    assert found.tokens == 2 * 4 * 4 * 48 + 2 * 4 * 8 * 48
    config = AutoConfig.from_pretrained(tiny_model)
    assert parameter_count(config) == found.parameters
    cost = count_update(config, 48)
    ascent = 4 * cost.body(np.array([48])) + 4 * 47 * cost.logprob_per_target
    kl = 4 * cost.body(np.array([48])) + 4 * 47 * cost.kl_per_target
    assert found.update_flops == pytest.approx(2 * 4 * ascent + 2 * 4 * (ascent + kl))

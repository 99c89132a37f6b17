"""Models: loaded alike, refused early, and refused when the chunked head would be wrong."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.unlearn.architecture import tried_architecture
from ray_unlearn.unlearn.head import logprob_sum
from ray_unlearn.unlearn.logit_map import LogitMap, measured_logit_map
from ray_unlearn.unlearn.model import (
    body_states,
    exact_retrain_sources,
    head_of,
    hidden_states,
    load_model,
    model_digest,
)
from ray_unlearn.unlearn.model_files import check_source
from ray_unlearn.unlearn.weight_sharing import SharedModel

TINY: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1,
}  # fmt: skip


def test_head_of_hidden_states_gives_the_models_own_logits(tiny_model: Path) -> None:
    model = load_model(ModelSpec(source=str(tiny_model)))
    ids = torch.randint(0, 300, (3, 20))
    assert torch.allclose(head_of(model)(hidden_states(model, ids)), model(ids).logits, atol=1e-6)
    assert not model.training


def test_right_padding_changes_nothing_before_it(tiny_model: Path) -> None:
    model = load_model(ModelSpec(source=str(tiny_model)))
    ids = torch.randint(0, 300, (1, 12))
    padded = torch.nn.functional.pad(ids, (0, 8), value=1)
    assert torch.allclose(
        hidden_states(model, ids), hidden_states(model, padded)[:, :12], atol=1e-5
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype_is_the_specs(tiny_model: Path, dtype: str) -> None:
    model = load_model(ModelSpec(source=str(tiny_model), dtype=dtype))
    assert {str(p.dtype) for p in model.parameters()} == {f"torch.{dtype}"}


def test_digest_follows_the_weights(tiny_model: Path, tmp_path: Path) -> None:
    spec = ModelSpec(source=str(tiny_model))
    model = load_model(spec)
    model.save_pretrained(tmp_path / "same")
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    model.save_pretrained(tmp_path / "other")
    assert model_digest(spec) == model_digest(spec)
    assert model_digest(ModelSpec(source=str(tmp_path / "same"))) != model_digest(
        ModelSpec(source=str(tmp_path / "other"))
    )


def test_bad_models_are_refused_with_a_remedy(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        check_source(ModelSpec(source=str(tmp_path / "none")))
    with pytest.raises(UserError, match=r"no config\.json"):
        check_source(ModelSpec(source=str(tmp_path)))
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"no weights \(\*\.safetensors\)"):
        check_source(ModelSpec(source=str(tmp_path)))
    with pytest.raises(
        UserError, match="unknown demo domain 'shakespere'; did you mean 'shakespeare'"
    ):
        check_source(ModelSpec(source="demo:shakespere"))
    with pytest.raises(UserError, match="gguf_file: no such file"):
        check_source(ModelSpec(source=str(tiny_model), gguf_file="x.gguf"))


LOGITS: dict[str, tuple[dict[str, Any], LogitMap]] = {
    "gemma2": ({"head_dim": 16, "final_logit_softcapping": 3.0}, LogitMap(1.0, 3.0)),
    "gemma3_text": ({"head_dim": 16}, LogitMap()),
    "nanochat": ({"final_logit_softcapping": 2.0}, LogitMap(1.0, 2.0)),
    "cohere": ({"logit_scale": 0.0625}, LogitMap(0.0625)),
    "granite": ({"logits_scaling": 8.0}, LogitMap(0.125)),
    "hyperclovax": ({"logits_scaling": 8.0}, LogitMap(8.0)),
}
"""The last two have one config field with two meanings."""


@pytest.mark.parametrize("kind", LOGITS)
def test_logits_are_scaled_and_capped_as_the_model_does_it(kind: str, tmp_path: Path) -> None:
    """Gemma 2 was trained without its cap of 30 wherever its logits were small at the start."""
    config = AutoConfig.for_model(
        kind, vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, initializer_range=1.0, **LOGITS[kind][0],
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = load_model(ModelSpec(source=str(tmp_path), attention="eager"))
    assert model.logit_map == LOGITS[kind][1]
    ids = torch.randint(0, 300, (3, 20))
    hidden, expected = hidden_states(model, ids), model(ids).logits
    assert torch.allclose(head_of(model)(hidden), expected, atol=1e-4)
    targets = torch.randint(0, 300, (60,))
    found = logprob_sum(hidden.flatten(0, 1), head_of(model), targets)
    logp = expected.log_softmax(-1).flatten(0, 1).gather(-1, targets[:, None])
    assert found.item() == pytest.approx(logp.sum().item(), rel=1e-5)
    again = SharedModel.of(model).model()
    assert torch.equal(head_of(again)(hidden_states(again, ids)), head_of(model)(hidden))


def test_logits_that_are_made_in_another_way_are_refused(tmp_path: Path) -> None:
    """A cap that is not tanh's, in logits too large for any probe of real tokens."""
    model = LlamaForCausalLM(LlamaConfig(**TINY))

    class Clipped(LlamaForCausalLM):  # type: ignore[misc]
        def forward(self, *arguments: Any, **named: Any) -> Any:
            found = super().forward(*arguments, **named)
            found.logits = found.logits.clamp(-50, 50)
            return found

    assert measured_logit_map(model, "plain", body_states) == LogitMap()
    model.__class__ = Clipped
    with pytest.raises(UserError, match="scaled or soft-capped; this architecture is not"):
        measured_logit_map(model, "clipped", body_states)


def test_an_attention_that_a_model_does_not_have_is_said_in_the_words_of_the_study_file(
    tmp_path: Path,
) -> None:
    config = AutoConfig.for_model("gemma2", **TINY, head_dim=16)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"^model\.attention: .* set `model\.attention: eager`$"):
        load_model(ModelSpec(source=str(tmp_path)))
    with pytest.raises(UserError, match=r"set `model\.attention: eager`"):
        tried_architecture(config, "sdpa", packed=False)


def test_retrained_models_of_several_seeds_are_baselines_with_names_of_their_own() -> None:
    spec = ModelSpec(source="/m", exact_retrain="/r1", exact_retrain_seeds=("/r2", "/r3"))
    assert exact_retrain_sources(spec) == {
        "exact_retrain": "/r1",
        "exact_retrain_2": "/r2",
        "exact_retrain_3": "/r3",
    }
    assert exact_retrain_sources(ModelSpec(source="/m")) == {}


@pytest.mark.parametrize(
    "source",
    [
        "demo:latex#0",
        "demo:latex#",
        "demo:latex#x",
        "demo:latex#-1",
        "demo:latex#01",
        "demo:latex#²",
    ],
)
def test_a_model_seed_that_is_none_is_refused_with_what_to_write(source: str) -> None:
    """`#0` too: one model under two names would count as two."""
    with pytest.raises(UserError, match="is no model seed; write `demo:latex#1`"):
        check_source(ModelSpec(source=source))
    with pytest.raises(UserError, match="unknown demo domain 'latx'; did you mean 'latex'"):
        check_source(ModelSpec(source="demo:latx#1"))


def test_a_models_own_retrained_model_is_not_counted_as_another_seed() -> None:
    """Twice the same retrained model would halve the tolerance."""
    for vanilla, own, other in (("demo:latex", 0, 1), ("demo:latex#1", 1, 0)):
        with pytest.raises(UserError, match=f"'demo:latex@{own}' is the retrained model that"):
            check_source(ModelSpec(source=vanilla, exact_retrain_seeds=(f"demo:latex@{own}",)))
        check_source(ModelSpec(source=vanilla, exact_retrain_seeds=(f"demo:latex@{other}",)))


@pytest.mark.parametrize(
    "source", ["demo:latex", "demo:latex@", "demo:latex@0", "demo:latex@x", "demo:novels@1"]
)
def test_a_seed_of_the_demo_that_is_none_is_refused(source: str) -> None:
    with pytest.raises(UserError, match=r"demo:<domain>@<seed>|unknown demo domain"):
        check_source(ModelSpec(source="demo:latex", exact_retrain_seeds=(source,)))

"""Models: loaded alike, refused early, and refused when the chunked head would be wrong."""

from pathlib import Path

import pytest
import torch

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.unlearn.model import (
    check_source,
    exact_retrain_sources,
    head_of,
    hidden_states,
    load_model,
    model_digest,
)


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


def test_an_architecture_with_soft_capped_logits_is_refused(
    tmp_path: Path, tiny_model: Path
) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        final_logit_softcapping=1.0, initializer_range=1.0,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="soft-capping"):
        load_model(ModelSpec(source=str(tmp_path), attention="eager"))


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

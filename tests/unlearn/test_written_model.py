"""What an exported folder holds: weights or adapters, and the vanilla model's own config."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tiny import study_file

import ray_unlearn as ru
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.strict import yaml_text
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event import (
    BaselineMeasured,
    HalvesDealt,
    Header,
    RowMeasured,
    TrialAsked,
    TrialEnded,
)
from ray_unlearn.store.schema import Row
from ray_unlearn.unlearn.model import load_model
from ray_unlearn.unlearn.policy import WholeModel
from ray_unlearn.unlearn.single_trial import Single
from ray_unlearn.unlearn.written_model import config_differences, write_model

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))
from planted import quick_ledger

LORA = {"rank": 4, "alpha": 8, "targets": "all-linear"}


def study_of_one_trial(folder: Path, spec: StudySpec, learning_rate: float) -> Path:
    """A finished study, its one trial run in this process."""
    said: list[str] = []
    single, rows = Single(spec, said.append), list[Row]()
    baselines = single.baselines()
    space = spec.spaces["gradient_ascent"]
    chosen = {"learning_rate": learning_rate, "steps": 4}
    values = space.resolve({n: chosen[n] for n in space.sampled() if n in chosen})
    config = spec.trial_config(values, "gradient_ascent", 0, single.context)
    assert single.run(config, baselines, rows.append).status == "complete"
    header = Header(spec=spec.model_dump(mode="json"), context=single.context, dealing="balanced")
    named: dict[str, Any] = {"number": 0, "trial_id": config.id}
    with quick_ledger(folder, spec, header) as ledger:
        ledger.append(HalvesDealt(splits=single.workspace.data.halves))
        ledger.append(BaselineMeasured(name="vanilla", metrics=baselines.vanilla))
        ledger.append(TrialAsked(**named, config=config.model_dump(mode="json")))
        for row in rows:
            ledger.append(RowMeasured(**named, attempt=0, update=row["update"], metrics=row))
        ledger.append(TrialEnded(**named, attempt=0, status="complete", reason=""))
    (folder / "study.yaml").write_text(yaml_text(spec.model_dump(mode="json")))
    return folder


def with_adapters(folder: Path, text_files: Path, model: Path, **more: Any) -> StudySpec:
    spec = load_study(
        study_file(folder, text_files, model, model={"source": str(model), "lora": LORA, **more})
    )
    return spec.model_copy(update={"methods": ("gradient_ascent",)})


def test_adapters_and_the_merged_model_are_one_model(
    tmp_path: Path, text_files: Path, tiny_model: Path
) -> None:
    """Loaded by plain transformers, both give the same logits, and not the vanilla model's."""
    from transformers import AutoModelForCausalLM

    spec = with_adapters(tmp_path, text_files, tiny_model)
    study = ru.open(study_of_one_trial(tmp_path / "study", spec, 1e-2))
    logits = {}
    for form in ("merged", "adapter"):
        study.export(tmp_path / form, "best", form=form, anyway=True, say=lambda text: None)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / form)
        logits[form] = model(torch.arange(20)[None]).logits
        card = ModelCard.load(tmp_path / form / "README.md")
        assert card.data.library_name == {"merged": "transformers", "adapter": "peft"}[form]
    assert torch.allclose(logits["merged"], logits["adapter"], atol=1e-4)
    vanilla = AutoModelForCausalLM.from_pretrained(tiny_model)(torch.arange(20)[None]).logits
    assert not torch.allclose(logits["merged"], vanilla, atol=1e-2)
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert not {"config.json", "model.safetensors"} & names
    assert not any("lora" in name for name in load_file(tmp_path / "merged/model.safetensors"))


def test_the_config_is_the_vanilla_models_whatever_memory_has(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Its config said `use_cache: false`, and generation was slow for whoever loaded it."""
    base = shutil.copytree(tiny_model, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    del config["dtype"]
    config |= {"use_cache": True, "torch_dtype": "float32", "written_by": "somebody"}
    (base / "config.json").write_text(json.dumps(config))
    (base / "generation_config.json").unlink()
    spec = ModelSpec(source=str(base), dtype="bfloat16", attention="eager")
    model = load_model(spec)
    model.config.use_cache = False
    write_model(WholeModel(model, None), spec, tmp_path / "out")
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert written == config | {"torch_dtype": "bfloat16"}
    assert config_differences(tmp_path / "out", spec) == ["torch_dtype"]
    assert not (tmp_path / "out/generation_config.json").exists(), "the base has none"
    assert load_model(ModelSpec(source=str(tmp_path / "out"))).config.use_cache


def test_weights_that_a_merge_rounds_away_are_refused_with_the_form_that_keeps_them(
    tmp_path: Path, text_files: Path, tiny_model: Path
) -> None:
    """Small adapters on bfloat16 weights are lost when they are added: the text would be back."""
    from ray_unlearn.unlearn.same_model import SAME_NLL

    spec = with_adapters(tmp_path, text_files, tiny_model, dtype="bfloat16")
    study = study_of_one_trial(tmp_path / "study", spec, 1e-2)
    usual = SAME_NLL["bfloat16"]
    SAME_NLL["bfloat16"] = 1e-6  # a tiny model does not round as much as a real one
    try:
        with pytest.raises(UserError, match="use `--form adapter`"):
            ru.open(study).export(tmp_path / "merged", "best", anyway=True, say=lambda text: None)
        ru.open(study).export(
            tmp_path / "adapter", "best", form="adapter", anyway=True, say=lambda text: None
        )
    finally:
        SAME_NLL["bfloat16"] = usual
    assert not (tmp_path / "merged").exists()
    assert (tmp_path / "adapter/adapter_model.safetensors").is_file()

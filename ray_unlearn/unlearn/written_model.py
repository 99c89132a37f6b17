"""An unlearned model as a Hugging Face folder: written, and loaded again as a stranger would.

The folder has what the vanilla model's has: its `config.json` as it is, with the dtype of the
weights written, its generation config where it has one, a tokenizer, and safetensors. Of a study
with adapters it holds the adapters alone, or the weights with the adapters added.
"""

import json
from pathlib import Path
from typing import Any, Literal

from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.spec.given_file import given_bytes, json_value
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.unlearn.model import load_model, load_tokenizer, local_source, reason_of
from ray_unlearn.unlearn.policy import Adapters, WholeModel

Form = Literal["merged", "adapter"]
"""`merged`: whole weights. `adapter`: LoRA adapters, to be loaded on the vanilla model by PEFT."""
CONFIG, GENERATION = "config.json", "generation_config.json"
CONFIG_OF: dict[Form, str] = {"merged": CONFIG, "adapter": "adapter_config.json"}
DTYPE_KEYS = ("dtype", "torch_dtype")
"""What transformers calls the dtype of the weights, today and before version 5."""


def checked_form(form: str, spec: ModelSpec) -> Form:
    """The form as it is named, if a study's models have it.

    Raises:
        UserError: `form` is unknown, or the study trains no adapters.
    """
    if form == "merged":
        return "merged"
    if form != "adapter":
        raise UserError(f"--form {form!r}: must be `merged` (whole weights) or `adapter`")
    if spec.lora is None:
        raise UserError(
            "--form adapter: this study trains whole models (no `model.lora`); leave it out"
        )
    return "adapter"


def write_model(
    policy: WholeModel | Adapters, spec: ModelSpec, folder: Path, form: Form = "merged"
) -> None:
    """Write a policy as it is now, with its tokenizer.

    Args:
        policy: the model.
        spec: the vanilla model behind it.
        folder: made if it is missing.
        form: see `Form`.

    Raises:
        StorageError: the folder cannot be written.
    """
    from safetensors import SafetensorError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        if form == "adapter":
            assert isinstance(policy, Adapters), "`checked_form` comes first"
            policy.save_adapters(folder, local_source(spec.source), spec.revision)
        else:
            policy.merged().save_pretrained(folder)
            _use_config_of_base(folder, spec)
        load_tokenizer(spec).save_pretrained(folder)
        for path in folder.glob("*.safetensors"):  # which only their owner could read
            path.chmod((folder / CONFIG_OF[form]).stat().st_mode)
    except (OSError, SafetensorError) as error:  # the latter where the disk is full
        raise StorageError(f"{folder}: the model cannot be written: {error}") from None


def load_written(folder: Path, spec: ModelSpec, form: Form = "merged") -> Any:
    """The model in a folder, read from its files alone, in the study's dtype and attention.

    Raises:
        UserError: it cannot be loaded.
    """
    if form == "merged":
        return load_model(spec, str(folder))
    from peft import PeftModel

    return PeftModel.from_pretrained(load_model(spec), folder).eval().get_base_model()


def check_written_tokenizer(folder: Path, spec: ModelSpec, texts: list[str]) -> None:
    """Refuse a tokenizer that reads texts in another way than the vanilla model's.

    Args:
        folder: with the tokenizer.
        spec: the vanilla model.
        texts: to be read by both.

    Raises:
        UserError: it cannot be loaded, or makes other tokens.
    """
    from transformers import AutoTokenizer

    try:
        written = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise UserError(
            f"the tokenizer that was written loads no more: {reason_of(error)}"
        ) from None
    own = load_tokenizer(spec)
    if own(texts, verbose=False)["input_ids"] != written(texts, verbose=False)["input_ids"]:
        raise UserError(
            "the tokenizer that was written makes other tokens of the forget set than the vanilla "
            "model's; update transformers, or copy the vanilla model's tokenizer files by hand"
        )


def config_differences(folder: Path, spec: ModelSpec) -> list[str]:
    """Fields of a written config that the vanilla model's has not, or has with another value."""
    base, own = base_file(spec, CONFIG), values_in(folder / CONFIG)
    if base is None or own is None:
        return []
    theirs = values_in(base) or {}
    names = sorted({*own, *theirs})
    return [name for name in names if own.get(name) != theirs.get(name)]


def base_file(spec: ModelSpec, name: str) -> Path | None:
    """A file of the vanilla model on this machine; None where it has none of that name."""
    source = local_source(spec.source)
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download

    # Its config is in the cache, as the model was loaded. Whatever keeps another file from being
    # had (none of that name, no network) is no reason to fail.
    try:
        return Path(hf_hub_download(source, name, revision=spec.revision))
    except Exception:
        return None


def _use_config_of_base(folder: Path, spec: ModelSpec) -> None:
    """Replace what transformers wrote of the model in memory by the files of the vanilla model.

    In memory it was given our attention, and whatever a version of transformers adds. A GGUF model
    has no config; one that is loaded as a part of another kind has its own.
    """
    written = values_in(folder / CONFIG) or {}
    found = base_file(spec, CONFIG)
    base = None if found is None or spec.gguf_file else values_in(found)
    if base is not None and base.get("architectures") == written.get("architectures"):
        key = next((name for name in DTYPE_KEYS if name in base), DTYPE_KEYS[0])
        dtype = next((written[name] for name in DTYPE_KEYS if name in written), spec.dtype)
        base.pop("quantization_config", None)
        _write(folder / CONFIG, base | {key: dtype})
    generation = base_file(spec, GENERATION)
    values = None if generation is None else values_in(generation)
    if values is not None:
        _write(folder / GENERATION, values)
    elif not spec.gguf_file:
        (folder / GENERATION).unlink(missing_ok=True)


def values_in(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file; None where it cannot be read, or is no mapping."""
    try:
        found = json_value(given_bytes(path))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

"""Causal language models from the hub, a local folder or the demo.

The rest of the package calls them through `hidden_states` and `head_of`.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ray_unlearn.demo import DemoModels, build, build_retrained, demo_model, demo_retrained
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.strict import digest
from ray_unlearn.unlearn.former_digests import former_folder_digest
from ray_unlearn.unlearn.logit_map import CappedHead, logit_map_of, measured_logit_map
from ray_unlearn.unlearn.model_files import check_source, check_tokenizer_files

_log = logging.getLogger(__name__)
WEIGHT_MAPS = ("model.safetensors.index.json", "adapter_config.json")
"""Files beside a model's config that decide how its weight files become a model.

They say which file a tensor is read from, and how adapters are applied. `generation_config.json` is
not one of them: nothing is generated.
"""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@cache
def demo_models(source: str) -> DemoModels:
    """The models of `demo:<domain>` or `demo:<domain>#<model seed>`.

    The first call on a machine trains them.
    """
    domain, seed = demo_model(source)
    return build(domain, seed=seed)


def make_ready(spec: ModelSpec, progress: Callable[[str, float], None] | None = None) -> None:
    """Check the model, and train the demo models that the spec names and the cache lacks.

    Training takes about 90 s.

    Raises:
        UserError: as in `check_source`.
    """
    check_source(spec)
    if spec.source.startswith("demo:"):
        domain, seed = demo_model(spec.source)
        build(domain, progress=progress, seed=seed)
    again = [demo_retrained(one) for one in spec.exact_retrain_seeds if one.startswith("demo:")]
    if again:  # each trains in a process of one thread; this only waits for them
        with ThreadPoolExecutor(min(len(again), os.cpu_count() or 1)) as pool:
            built = [pool.submit(build_retrained, *which, progress=progress) for which in again]
            for one in built:
                one.result()


def local_source(source: str) -> str:
    """The source for transformers: the vanilla folder for a demo model, else `source` itself."""
    return str(demo_models(source).vanilla) if source.startswith("demo:") else source


def exact_retrain_sources(spec: ModelSpec) -> dict[str, str]:
    """Sources of the models retrained without the forget set, by the name of their baseline.

    The names are `exact_retrain` and, for other seeds, `exact_retrain_2`, `exact_retrain_3` ...
    """
    first = spec.exact_retrain
    if first is None and spec.source.startswith("demo:"):
        first = str(demo_models(spec.source).retrained)
    again = [
        str(_retrained_again(source)) if source.startswith("demo:") else source
        for source in spec.exact_retrain_seeds
    ]
    found = [*([first] if first is not None else []), *again]
    return {
        "exact_retrain" if i == 1 else f"exact_retrain_{i}": source
        for i, source in enumerate(found, start=1)
    }


@cache
def _retrained_again(source: str) -> Path:
    """The folder of `demo:<domain>@<seed>`; the first call on a machine trains it (about 65 s)."""
    return build_retrained(*demo_retrained(source))


def config_of(spec: ModelSpec, source: str | None = None) -> Any:
    """The transformers config of a model.

    Args:
        spec: names the model.
        source: another model than `spec.source`.

    Raises:
        UserError: it cannot be read, or needs code of its own.
    """
    from transformers import AutoConfig

    gguf = {"gguf_file": spec.gguf_file} if spec.gguf_file and source is None else {}
    try:
        return AutoConfig.from_pretrained(
            source or local_source(spec.source),
            revision=spec.revision if source is None else None,
            trust_remote_code=False,
            **gguf,
        )
    except Exception as error:
        raise UserError(
            f"model.source: no config for {source or spec.source!r}: {reason_of(error)}"
        ) from None


def load_tokenizer(spec: ModelSpec) -> Any:
    """The model's tokenizer.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    check_source(spec)
    source = local_source(spec.source)
    if not spec.gguf_file:
        check_tokenizer_files(source)
    arguments = {"gguf_file": spec.gguf_file} if spec.gguf_file else {}
    try:
        return AutoTokenizer.from_pretrained(
            source, revision=spec.revision, trust_remote_code=False, **arguments
        )
    except Exception as error:
        raise UserError(
            f"model.source: no tokenizer for {spec.source!r}: {reason_of(error)}"
        ) from None


def load_model(spec: ModelSpec, source: str | None = None) -> Any:
    """The causal LM on the CPU in the spec's dtype and attention, in eval mode (without dropout).

    Args:
        spec: its dtype and attention apply to policy, reference and exactly retrained model alike.
        source: another model than `spec.source`, loaded the same way.

    Raises:
        UserError: the model is missing, lacks weights, or does something to its logits that is
            not reproduced here (`logit_map`).
    """

    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    check_source(spec)
    _log.info("load the model %s", source or spec.source)
    arguments: dict[str, Any] = (
        {"gguf_file": spec.gguf_file}
        if spec.gguf_file and source is None
        else {"use_safetensors": True}
    )
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            source or local_source(spec.source),
            revision=spec.revision if source is None else None,
            dtype=DTYPES[spec.dtype],
            attn_implementation=spec.attention,
            trust_remote_code=False,
            output_loading_info=True,
            **arguments,
        )
    except Exception as error:
        _say_attention(spec, source)
        raise UserError(
            f"model.source: cannot load {source or spec.source!r}: {reason_of(error)}"
        ) from None
    if missing := sorted(loaded["missing_keys"]):
        raise UserError(
            f"model.source: {source or spec.source!r} lacks {len(missing)} tensor(s), {missing[0]} "
            "among them, which would be random; save the whole model with `save_pretrained`"
        )
    if getattr(model.config, "quantization_config", None) is not None:
        model = _as_plain_weights(model)
    model.eval()
    try:
        model.logit_map = measured_logit_map(model, source or spec.source, body_states)
    except UserError:
        _say_not_finite(model, source or spec.source)
        raise
    return model


def _say_not_finite(model: nn.Module, source: str) -> None:
    """Raise what is wrong with weights that are no numbers; nothing if they are.

    Their results look like those of a model that sees the tokens that it is to predict.
    """
    for name, weights in model.named_parameters():
        if not bool(weights.isfinite().all()):
            raise UserError(
                f"model.source: {source}: {name} has values that are not finite; download it again"
            )


def hidden_states(
    model: Any,
    input_ids: Tensor,
    position_ids: Tensor | None = None,
    document_lengths: tuple[int, ...] | None = None,
) -> Tensor:
    """Final hidden states [B, T, H] after the last norm, which the head turns into logits.

    There is no attention mask: attention is causal and padding is on the right, so no real token
    ever attends to it. Packed sequences have `position_ids` that restart at each document, which
    separates the documents; or they are one row of documents with their lengths, for a model that
    attends by document (`batch`). Where the model scales its logits, they are scaled instead.
    """
    also = {"position_ids": position_ids, "document_lengths": document_lengths}
    # Left out where there are none: not every architecture accepts them.
    named = {name: value for name, value in also.items() if value is not None}
    hidden, scale = body_states(model, input_ids, **named), logit_map_of(model).scale
    return hidden if scale == 1 else hidden * scale


def check_attention(config: Any, attention: str) -> None:
    """Refuse an attention that an architecture does not have, without loading anything.

    FlashAttention is only known where it runs.

    Raises:
        UserError: there is none of that name for this architecture.
    """
    from transformers import AutoModelForCausalLM

    def builds(name: str) -> bool:
        try:
            with torch.device("meta"):
                AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation=name)
        # Whatever else is wrong with the config is said by who reads it.
        except Exception:
            return False
        return True

    if attention == "sdpa" and not builds(attention) and builds("eager"):
        kind = (getattr(config, "architectures", None) or [config.model_type])[0]
        raise UserError(
            f"model.attention: {kind} has no `{attention}`; set `model.attention: eager`"
        )


def _say_attention(spec: ModelSpec, source: str | None) -> None:
    """Raise what is wrong with the attention of a model that could not be loaded, if it is that."""
    try:
        config = config_of(spec, source)
    except UserError:
        return
    check_attention(config, spec.attention)


def body_states(model: Any, input_ids: Tensor, **named: Any) -> Tensor:
    """The last hidden states of a causal LM's body, [B, T, H]."""
    body = model.base_model
    if body is model:  # Llama 4 gives its body a name that only its multimodal form has
        body = model.model
    found: Tensor = body(input_ids=input_ids, use_cache=False, **named).last_hidden_state
    return found


def head_of(model: Any) -> nn.Linear:
    """The output embedding [V, H], which caps its logits where the model does."""
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    cap = logit_map_of(model).cap
    return head if cap is None else CappedHead(head, cap)


def model_digest(spec: ModelSpec, *, former: bool = False) -> str:
    """Digest of the vanilla weights: file contents for a folder, the commit for a hub id.

    Args:
        spec: names the model.
        former: the digest in ledgers that were begun before it covered a sharded model's index.
    """
    source = local_source(spec.source)
    folder = Path(source)
    if not folder.is_dir():
        config = config_of(spec)
        return digest([source, getattr(config, "_commit_hash", None) or spec.revision])
    also = [path for name in WEIGHT_MAPS if (path := folder / name).is_file()]
    if former or spec.gguf_file or not also:
        return former_folder_digest(folder, spec)
    content = [former_folder_digest(folder, spec)]
    content += [hashlib.sha256(path.read_bytes()).hexdigest() for path in also]
    return digest(content)


def _as_plain_weights(model: Any) -> Any:
    """The weights of a dequantised GGUF model in a plain model.

    Its own config still says that it is quantised, so it could not be saved.
    """
    del model.config.quantization_config
    plain = type(model)(model.config).to(model.dtype)
    plain.load_state_dict(model.state_dict())
    return plain


def reason_of(error: Exception) -> str:
    """Why a file of a model could not be read, in one line.

    transformers, tokenizers and safetensors have no common error: a value of another kind than
    they take for granted fails wherever it is first used, as any kind of exception.
    """
    if "trust_remote_code" in str(error):
        return "it needs code of its own, which is never run; use an architecture of transformers"
    said = " ".join(line.strip() for line in str(error).strip().splitlines()[:1])
    return said if isinstance(error, OSError) and said else f"{said} ({type(error).__name__})"

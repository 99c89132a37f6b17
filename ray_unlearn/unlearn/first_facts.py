"""What a first study file rests on: the model's size and the lengths of the documents."""

from typing import Any

import torch

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.study_spec import is_local
from ray_unlearn.unlearn.architecture import causal_config
from ray_unlearn.unlearn.first_study import FirstFacts, FirstStudy
from ray_unlearn.unlearn.memory import parameter_count
from ray_unlearn.unlearn.model import load_tokenizer
from ray_unlearn.unlearn.model_files import check_tokenizer_files
from ray_unlearn.unlearn.sources import read_source
from ray_unlearn.unlearn.tried_model import model_is_here

HALF_PRECISION = 5e8
"""Parameters from which weights that are stored in bfloat16 stay so on a GPU."""


def first_facts(wanted: FirstStudy) -> FirstFacts:
    """Read the model's config and tokenizer, also from the hub, and local documents.

    Raises:
        UserError: what `read_source` finds; no document; a config or tokenizer that cannot be read.
    """
    texts = _texts(wanted)
    config = causal_config(wanted.model)
    parameters = parameter_count(config)
    has_gpu = torch.cuda.is_available()
    stored = str(getattr(config, "dtype", None) or "").removeprefix("torch.")
    half = has_gpu and parameters >= HALF_PRECISION and stored == "bfloat16"
    tokenizer = _tokenizer(wanted.model)
    lengths = [] if tokenizer is None else [len(tokenizer(text)["input_ids"]) for text in texts]
    return FirstFacts(
        parameters,
        "bfloat16" if half else "float32",
        has_gpu,
        tuple(lengths),
        getattr(config, "max_position_embeddings", None),
        getattr(tokenizer, "chat_template", None) is not None,
    )


def _tokenizer(model: ModelSpec) -> Any | None:
    """A model's tokenizer; None for a demo model that was not trained yet."""
    if model.source.startswith("demo:") and not model_is_here(model):
        return None
    if is_local(model.source):
        check_tokenizer_files(model.source)
    return load_tokenizer(model)


def _texts(wanted: FirstStudy) -> list[str]:
    """The forget documents; none where they are on the hub, which is not asked here."""
    if wanted.forget.hub is not None:
        return []
    texts = [document.text for document in read_source(wanted.forget, "--forget")]
    if not texts:
        raise UserError(f"--forget: no documents in {wanted.forget.path}; give at least two")
    return texts

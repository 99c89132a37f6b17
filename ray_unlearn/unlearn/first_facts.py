"""What a first study file rests on: the model's size and the lengths of the documents."""

import torch

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.study_spec import is_local
from ray_unlearn.unlearn.architecture import causal_config
from ray_unlearn.unlearn.first_study import FirstFacts, FirstStudy
from ray_unlearn.unlearn.memory import parameter_count
from ray_unlearn.unlearn.model import load_tokenizer
from ray_unlearn.unlearn.model_files import check_tokenizer_files
from ray_unlearn.unlearn.planned_halves import model_is_here
from ray_unlearn.unlearn.sources import read_source

HALF_PRECISION = 5e8
"""Parameters from which weights that are stored in bfloat16 stay so on a GPU."""


def first_facts(wanted: FirstStudy) -> FirstFacts:
    """Read the model's config, its tokenizer if it is here, and the documents.

    Raises:
        UserError: what `read_source` finds; no document; a config or tokenizer that cannot be read.
    """
    texts = _texts(wanted)
    config = causal_config(wanted.model)
    parameters = parameter_count(config)
    has_gpu = torch.cuda.is_available()
    stored = str(getattr(config, "dtype", None) or "").removeprefix("torch.")
    half = has_gpu and parameters >= HALF_PRECISION and stored == "bfloat16"
    tokenizer = None
    if model_is_here(wanted.model):
        if is_local(wanted.model.source):
            check_tokenizer_files(wanted.model.source)
        tokenizer = load_tokenizer(wanted.model)
    lengths = [] if tokenizer is None else [len(tokenizer(text)["input_ids"]) for text in texts]
    return FirstFacts(
        parameters,
        "bfloat16" if half else "float32",
        has_gpu,
        tuple(lengths),
        getattr(config, "max_position_embeddings", None),
        getattr(tokenizer, "chat_template", None) is not None,
    )


def _texts(wanted: FirstStudy) -> list[str]:
    """The forget documents; none where they are on the hub, which is not asked here."""
    if wanted.forget.hub is not None:
        return []
    texts = [document.text for document in read_source(wanted.forget, "--forget")]
    if not texts:
        raise UserError(f"--forget: no documents in {wanted.forget.path}; give at least two")
    return texts

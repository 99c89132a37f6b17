"""`memorise`: a world of any causal language model and any documents."""

import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ray_unlearn.spec.data_spec import DataSpec, SplitSource
from ray_unlearn.spec.document import Document
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.strict import validated, yaml_text
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.unlearn.conversations import written_out
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.injection import Learning, document_difficulty
from ray_unlearn.unlearn.memory import BYTES
from ray_unlearn.unlearn.metrics import Floats
from ray_unlearn.unlearn.model import load_tokenizer, model_digest
from ray_unlearn.unlearn.plan import plan
from ray_unlearn.unlearn.sequences import tokenised
from ray_unlearn.unlearn.world import (
    Say,
    World,
    check_space,
    made_once,
    make_models,
    remove_drafts,
)
from ray_unlearn.unlearn.world_documents import (
    Documents,
    dealt,
    documents_digest,
    read_given,
    split_sources,
    write_splits,
)

BOTH_LEARN = ("retain", "retain_heldout")
METHODS_TRIED = [
    "gradient_ascent", "ascent_descent_in_distribution", "ascent_kl_in_distribution",
]  # fmt: skip
MOST_STEPS = 200
SPARE_BYTES = 2**26


@dataclass(frozen=True)
class WorldPlan:
    """What a world is made of.

    Attributes:
        model: the original model.
        sources: of `forget`, `retain`, `general` and, where there is one, `approximate`.
        domain: name of the documents in tables.
        options: `sequence_length`, `chat_template`, `separator` of `DataSpec`.
        learning: how memory is injected.
    """

    model: ModelSpec
    sources: Mapping[str, SplitSource]
    domain: str
    options: Mapping[str, Any]
    learning: Learning


def make_world(wanted: WorldPlan, out: Path, say: Say) -> World:
    """Make a world, or go on with one; all checks that need no training are made first.

    Args:
        wanted: what it is made of.
        out: its folder.
        say: called with each line of progress.

    Raises:
        UserError: documents that are missing, too few or copies of each other; a model that cannot
            be used; a folder that holds another world, or that another process is filling.
        StorageError: `out` cannot be written, or lacks space.
    """
    given = read_given(wanted.sources)
    content = _study_content(wanted, given, out.name)
    parameters = plan(_as_original(content, wanted.model)).parameters
    missing = sum(not (out / role).is_dir() for role in ("vanilla", "retrained"))
    check_space(out, missing * parameters * BYTES[wanted.model.dtype] + SPARE_BYTES)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            return _made(wanted, given, content, out, say)
    except Timeout:
        raise UserError(f"{out}: another process is making it; wait for it to end") from None


def _made(
    wanted: WorldPlan, given: Documents, content: Mapping[str, Any], out: Path, say: Say
) -> World:
    remove_drafts(out)
    origin = {
        "documents": documents_digest(given),
        "seed": wanted.learning.seed,
        # Only a forget set that is dealt asks the model.
        "model": None if "approximate" in given else model_digest(wanted.model),
        "options": None if "approximate" in given else dict(wanted.options),
    }
    made_once(out / "data", origin, partial(_write_data, wanted, given), say)
    data = prepare(_data_spec(wanted, out), wanted.model, say=say)
    world = make_models(out, wanted.model, data, wanted.learning, BOTH_LEARN, say)
    path = out / "study.yaml"
    if not path.exists():  # it may have been edited
        write_whole(path, yaml_text(dict(content)).encode())
    load_study(path)
    return replace(world, study=path)


def _write_data(wanted: WorldPlan, given: Documents, folder: Path) -> None:
    splits = dealt(given, wanted.learning.seed, partial(_difficulty, wanted))
    write_splits(splits, wanted.sources, folder)


def _difficulty(wanted: WorldPlan, documents: list[Document]) -> tuple[Floats, Floats]:
    spec = _data_spec(wanted, Path())
    tokenizer = load_tokenizer(wanted.model)
    texts = written_out(documents, spec, tokenizer, "forget")
    tokens = tokenised(texts, tokenizer, spec, "forget")
    return document_difficulty(wanted.model, tokens, wanted.learning.batch_size)


def _data_section(wanted: WorldPlan, folder: str) -> dict[str, Any]:
    return {
        "domain": wanted.domain,
        **{name: value for name, value in wanted.options.items() if value is not None},
        "splits": split_sources(wanted.sources, folder),
    }


def _data_spec(wanted: WorldPlan, out: Path) -> DataSpec:
    return validated(DataSpec, _data_section(wanted, str(out / "data")), "memorise")


def _study_content(wanted: WorldPlan, given: Documents, name: str) -> dict[str, Any]:
    """A study file over the world, in which unlearning may take as long as learning took."""
    learning, forget = wanted.learning, len(given["forget"])
    learnt = forget if "approximate" in given else (forget + 1) // 2
    steps = math.ceil(learnt / learning.batch_size) * learning.epochs
    batch = min(learning.batch_size, learnt)
    return {
        "name": re.sub(r"[^A-Za-z0-9._-]|^[._-]+", "", name)[:64] or "world",
        "description": "made by `ray-unlearn memorise`: the memory of the forget set was injected",
        "model": {
            "source": "./vanilla",
            "exact_retrain": "./retrained",
            "dtype": wanted.model.dtype,
            "attention": wanted.model.attention,
        },
        "data": _data_section(wanted, "data"),
        "methods": METHODS_TRIED,
        "space_overrides": {
            "learning_rate": {
                "type": "float",
                "low": learning.learning_rate / 5,
                "high": learning.learning_rate * 4,
                "scale": "log",
                "role": "scientific",
            },
            "steps": {
                "type": "int",
                "low": 1,
                "high": max(4, min(MOST_STEPS, steps)),
                "free": True,
                "role": "scientific",
            },
            "batch_size": batch,
        },
        "search": {"sampler": "tpe", "trials_per_method": 4, "quasi_random_share": 0.5},
        "evaluation": {"count": 4},
        "operations": {"lanes": 1} | ({"gpus_per_worker": 1} if torch.cuda.is_available() else {}),
    }


def _as_original(content: Mapping[str, Any], model: ModelSpec) -> StudySpec:
    """The study with the original model, which exists already, to be checked as studies are."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.yaml"
        path.write_text(yaml_text(dict(content)), encoding="utf-8")
        return load_study(path).model_copy(update={"model": model})

"""`memorise`: a model that knows documents, and its twin that never saw some of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ray_unlearn.api.given import PathLike, Say, voice
from ray_unlearn.spec.data_spec import SplitSource
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.strict import validated
from ray_unlearn.spec.study_file import model_place

if TYPE_CHECKING:
    from ray_unlearn.unlearn.world import World

Given = PathLike | Mapping[str, Any]


def memorise(
    model: PathLike,
    *,
    forget: Given,
    retain: Given,
    general: Given,
    out: PathLike,
    approximate: Given | None = None,
    fields: Mapping[str, str] | None = None,
    domain: str | None = None,
    sequence_length: int = 128,
    chat_template: str | None = None,
    separator: str | None = None,
    epochs: int = 3,
    learning_rate: float = 5e-5,
    batch_size: int = 4,
    seed: int = 0,
    dtype: Literal["float32", "bfloat16"] = "float32",
    say: Say | None = None,
) -> "World":
    """Make a world: a model that learns documents, its exactly retrained twin, and a study file.

    `vanilla/` is the model trained further on the forget and retain sets, `retrained/` the same on
    the retain set alone. A stopped call goes on where it was when it is made again; so does one
    that asks for the same.

    Args:
        model: hub id, local folder, or `demo:<domain>`.
        forget: what is to be forgotten: a file or folder, or a mapping as under `data.splits` of a
            study file, such as `{"path": "f.jsonl", "prompt": "question", "answer": "answer"}`.
            Without `approximate` half of its documents are never learnt and stand for unseen ones.
        retain: what is learnt too and is to stay; a fifth of it is held out from descent.
        general: other text, learnt by neither; dealt to descent and evaluation.
        out: folder of the world.
        approximate: documents like those of `forget`, which no model learns.
        fields: fields of all sources that are given as paths: `text`, `prompt`, `answer`,
            `messages`, `id`.
        domain: name of the documents in tables; None: the name of `out`.
        sequence_length: tokens per sequence.
        chat_template: how prompts and answers are written, as `data.chat_template`.
        separator: as `data.separator`.
        epochs: passes over what is learnt.
        learning_rate: of AdamW, constant.
        batch_size: sequences per update.
        seed: of batches and dealing.
        dtype: of the weights.
        say: called with each line of progress; None: the lines go to stderr.

    Returns:
        The world: `vanilla`, `retrained` and `study` are paths, `metrics` has perplexities and the
        AUC of the loss attack by model, `notes` says what is wrong with it.

    Raises:
        UserError: documents that are missing, too few, or copies of each other; a model that cannot
            be trained; a folder that holds another world.
        StorageError: `out` cannot be written, or lacks space.

    Examples:
        >>> world = ru.memorise("gpt2", forget="f.jsonl", retain="r.jsonl", general="g.jsonl",
        ...                     out="my-world")
        >>> study = ru.run(world.study, "results/my-world")
    """
    from ray_unlearn.unlearn.injection import Learning
    from ray_unlearn.unlearn.memorise_documents import WorldPlan, make_world

    given = {"forget": forget, "approximate": approximate, "retain": retain, "general": general}
    place = Path(out).expanduser()
    if epochs < 1 or batch_size < 1 or not learning_rate > 0:
        raise UserError(
            "memorise: epochs and batch size must be at least 1 and the learning rate above 0, got "
            f"{epochs}, {batch_size} and {learning_rate}"
        )
    wanted = WorldPlan(
        validated(
            ModelSpec,
            {"source": model_place(Path.cwd(), str(model), None, "model"), "dtype": dtype},
            "memorise",
        ),
        {
            name: _source(name, source, fields or {})
            for name, source in given.items()
            if source is not None
        },
        domain or place.name,
        {
            "sequence_length": sequence_length,
            "chat_template": chat_template,
            "separator": separator,
        },
        Learning(epochs, learning_rate, batch_size, seed),
    )
    return make_world(wanted, place.resolve(), voice(say))


def _source(name: str, given: Given, fields: Mapping[str, str]) -> SplitSource:
    content = dict(given) if isinstance(given, Mapping) else {"path": str(given), **fields}
    if content.get("path") is not None:
        content["path"] = str(Path(content["path"]).expanduser().resolve())
    return validated(SplitSource, content, name)

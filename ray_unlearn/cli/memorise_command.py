"""`ray-unlearn memorise`: a world of any model and documents."""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from ray_unlearn.cli.show import Json, print_json, print_line, print_table, say
from ray_unlearn.spec.bounds import LARGEST_SEED
from ray_unlearn.spec.errors import UserError

if TYPE_CHECKING:
    from ray_unlearn.unlearn.world import World

SOURCE = "a file or folder, or '{path: f.jsonl, prompt: question, answer: answer}'"


def _set(text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(help=text, metavar="SOURCE", show_default=False)
    return option


def memorise_command(
    model: Annotated[
        str, typer.Argument(help="hub id, local folder, or demo:<domain>", show_default=False)
    ],
    forget: Annotated[str, _set(f"what is to be forgotten: {SOURCE}")],
    retain: Annotated[str, _set("what is learnt too and is to stay")],
    general: Annotated[str, _set("other text, which is not learnt")],
    out: Annotated[Path, typer.Option(help="folder of the world", show_default=False)],
    approximate: Annotated[
        str | None,
        _set("documents like those to be forgotten, never learnt; default: half of --forget"),
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option(
            "--field",
            help="field of all sources given as paths, such as prompt=question, several times",
            show_default=False,
        ),
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="name of the documents; default: that of the folder")
    ] = None,
    sequence_length: Annotated[int, typer.Option(min=2, help="tokens per sequence")] = 128,
    chat_template: Annotated[
        str | None, typer.Option(help="of prompts and answers: `tokenizer`, or a Jinja template")
    ] = None,
    separator: Annotated[
        str | None, typer.Option(help="between prompt and answer; default: a line break")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="passes over what is learnt")] = 3,
    learning_rate: Annotated[float, typer.Option(help="of AdamW, constant")] = 5e-5,
    batch_size: Annotated[int, typer.Option(min=1, help="sequences per update")] = 4,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED)] = 0,
    dtype: Annotated[str, typer.Option(help="of the weights: float32 or bfloat16")] = "float32",
    json: Json = False,
) -> None:
    """Make a model learn documents, and its twin without those to be forgotten: a ready study.

    Stopped, the same command goes on where it was."""
    from ray_unlearn.api import memorise

    world = memorise(
        model,
        forget=_source(forget, "--forget"),
        retain=_source(retain, "--retain"),
        general=_source(general, "--general"),
        approximate=None if approximate is None else _source(approximate, "--approximate"),
        out=out,
        fields=dict(map(_field, fields or [])),
        domain=domain,
        sequence_length=sequence_length,
        chat_template=chat_template,
        separator=separator,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        dtype=dtype,  # type: ignore[arg-type]  # checked as the study file's
        say=say,
    )
    if json:
        print_json({"study": str(world.study), "metrics": world.metrics, "notes": world.notes})
        return
    _show(world)


def _source(text: str, option: str) -> str | Mapping[str, Any]:
    """A path, or a mapping as in a study file."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(
            f"{option} {text!r}: is no mapping: {' '.join(str(error).split())}"
        ) from None
    return dict(content)


def _field(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise UserError(f"--field {text!r}: must be name=field, such as prompt=question")
    return name.strip(), value.strip()


def _show(world: "World") -> None:
    names = list(next(iter(world.metrics.values())))
    print_table(
        ["", *world.metrics],
        [(_words(name), *(row[name] for row in world.metrics.values())) for name in names],
        title="Perplexity per token, and the AUC of the loss attack (0.5: not remembered)",
    )
    for note in world.notes:
        print_line(f"note: {note}")
    print_line(f"a study of it: ray-unlearn run {quote(str(world.study))}")


def _words(name: str) -> str:
    return "AUC, loss attack" if name == "mia_loss_auc" else name.removesuffix("_ppl")

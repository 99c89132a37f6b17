"""`ray-unlearn memorise`: a world of any model and documents."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from ray_unlearn.cli.options import SOURCE, field_given, source_given
from ray_unlearn.cli.show import Json, print_json, print_line, print_table, say
from ray_unlearn.spec.bounds import LARGEST_SEED

if TYPE_CHECKING:
    from ray_unlearn.unlearn.world import World


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
        forget=source_given(forget, "--forget"),
        retain=source_given(retain, "--retain"),
        general=source_given(general, "--general"),
        approximate=None if approximate is None else source_given(approximate, "--approximate"),
        out=out,
        fields=dict(map(field_given, fields or [])),
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

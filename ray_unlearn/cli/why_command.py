"""The command `why`: what stands behind a sentence of a report."""

from typing import Annotated

import typer

from ray_unlearn.cli.show import Json, print_json, print_line
from ray_unlearn.spec.errors import EXIT_STORAGE


def why_command(
    where: Annotated[
        str,
        typer.Argument(
            metavar="REPORT",
            help="report folder, its guidelines.json, or a study with a report in it",
            show_default=False,
        ),
    ],
    claim: Annotated[
        str | None, typer.Argument(help="id of a sentence; without it all are listed")
    ] = None,
    json: Json = False,
) -> None:
    """Show what stands behind a sentence of a report, and compute it again.

    Ends with exit code 4 when it comes out otherwise, or when a source has changed."""
    from ray_unlearn.api import Guide

    guide = Guide.read(where)
    if claim is None:
        if json:
            print_json(guide.sentences)
        else:
            print_line("\n".join(f"{name}\n  {text}" for name, text in guide.sentences.items()))
        return
    found = guide.why(claim)
    if json:
        print_json(found.as_json())
    else:
        print_line(str(found))
    raise typer.Exit(0 if found.sound else EXIT_STORAGE)

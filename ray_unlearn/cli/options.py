"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

StudyFile = Annotated[Path, typer.Argument(help="study file", show_default=False)]
Location = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help="study directory, or address (s3://, gs://, abfss://)",
        show_default=False,
    ),
]


def number_of_lanes(text: str) -> int | str:
    """`auto` or a number from 1 on."""
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"must be a number from 1 on, or `auto`, got {text!r}")
    return int(text)


LanesOption = Annotated[
    Any,
    typer.Option(
        "--lanes",
        parser=number_of_lanes,
        metavar="N|auto",
        help="warm worker groups; auto: as many as fit; default: the study file's",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="workers per lane; default: the study file's")
]
Address = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_ADDRESS",
        help="address of a Ray cluster; default: RAY_ADDRESS, else Ray on this machine only",
    ),
]
SpaceFrom = Annotated[
    Path | None,
    typer.Option(
        "--space-from",
        help="guidelines.json of earlier studies: search where it claims good regions, a fifth in "
        "full",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress display")]

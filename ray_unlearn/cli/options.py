"""Arguments and options that several commands share."""

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ray_unlearn.cli.show import say
from ray_unlearn.spec.bounds import MOST_WORKERS
from ray_unlearn.spec.errors import UserError

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
    """`auto` or a number of lanes."""
    if text == "auto":
        return text
    number = int(text) if text.isdecimal() and len(text) < 10 else 0
    if not 1 <= number <= MOST_WORKERS:
        raise typer.BadParameter(
            f"must be a number from 1 to {MOST_WORKERS:,}, or `auto`, got {text!r}"
        )
    return number


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
    int | None,
    typer.Option(min=1, max=MOST_WORKERS, help="workers per lane; default: the study file's"),
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
Likely = Annotated[
    bool, typer.Option("--likely", help="with --space-from: search likely ranges too")
]
SOURCE = "a file or folder, or '{path: f.jsonl, prompt: question, answer: answer}'"
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress display")]


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with `--lanes`, `--workers`, `--address` and `--quiet`.

    Args:
        command: has a parameter `options`, whose place the options take. It receives their values
            by name, and `say`: what all calls of the API that run a study take.
    """
    own, shared = inspect.signature(command), inspect.signature(_run_options).parameters

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        options = _run_options(**{name: given.pop(name) for name in shared})
        command(**given, options=options)

    parameters = [
        parameter
        for name, one in own.parameters.items()
        for parameter in (shared.values() if name == "options" else [one])
    ]
    # Typer reads both.
    wrapped.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {one.name: one.annotation for one in parameters}
    return wrapped


def _run_options(
    lanes: LanesOption = None,
    workers: Workers = None,
    address: Address = None,
    quiet: Quiet = False,
) -> dict[str, Any]:
    return {"lanes": lanes, "workers": workers, "address": address, "quiet": quiet, "say": say}


def source_given(text: str, option: str) -> str | Mapping[str, Any]:
    """A path, or a mapping as in a study file.

    Raises:
        UserError: it begins like a mapping, and is none.
    """
    import yaml

    if not text.lstrip().startswith("{"):
        return text
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(
            f"{option} {text!r}: is no mapping: {' '.join(str(error).split())}"
        ) from None
    return dict(content)


def field_given(text: str) -> tuple[str, str]:
    """Name and field in `prompt=question`.

    Raises:
        UserError: another form.
    """
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise UserError(f"--field {text!r}: must be name=field, such as prompt=question")
    return name.strip(), value.strip()

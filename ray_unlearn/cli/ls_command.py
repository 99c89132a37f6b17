"""The command `ls`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ray_unlearn.cli.show import Json, four_digits, print_json, print_table
from ray_unlearn.spec.errors import EXIT_STORAGE

if TYPE_CHECKING:
    from ray_unlearn.store.listing import ListedStudy


def ls_command(
    place: Annotated[
        str, typer.Argument(help="folder, or address (s3://, gs://, abfss://)")
    ] = "results",
    json: Json = False,
) -> None:
    """List the studies below a folder or an address: state, trials, best score, size.

    The best score is the lowest of all methods, on the selection half; `status` has each method's.
    The exit code is 4 if one of the studies is broken."""
    from ray_unlearn.store.listing import listed

    found = listed(place)
    if json:
        print_json([asdict(study) for study in found])
    elif not found:
        print(f"no studies below {place}")
    else:
        print_table(
            ["study", "state", "trials", "best", "method", "last sign", "size"],
            [_line(study) for study in found],
        )
        for study in found:
            if study.problem:
                print(f"{study.name}: {study.problem}")
    if any(study.problem for study in found):
        raise typer.Exit(EXIT_STORAGE)


def _line(study: "ListedStudy") -> tuple[str, ...]:
    if study.problem:
        return (study.name, study.state, "", "", "", "", _size(study.size_bytes))
    asked = "?" if study.asked_for is None else str(study.asked_for)
    best = "" if study.best is None else four_digits(study.best)
    return (
        study.name,
        study.state,
        f"{study.finished} of {asked}",
        best,
        study.method,
        "" if study.age_s is None else f"{_ago(study.age_s)} ago",
        _size(study.size_bytes),
    )


def _ago(seconds: float) -> str:
    """The largest unit alone: `3 d`."""
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"

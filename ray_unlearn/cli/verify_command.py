"""The commands `verify`, which checks that a study is sound, and `migrate`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ray_unlearn.cli.options import Location
from ray_unlearn.cli.show import Json, print_json, print_line
from ray_unlearn.spec.errors import EXIT_STORAGE

if TYPE_CHECKING:
    from ray_unlearn.store.verify import Verification


def verify_command(
    location: Location,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="first set damaged parts of the ledger aside; their trials run again"
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Check that a study is whole: rows, outcomes, trials, best weights, leftovers.

    Ends with exit code 4 when it is not."""
    from ray_unlearn.api import Study

    study = Study(location)
    repaired = study.repair() if repair else []
    found = study.verify()
    if json:
        print_json(asdict(found) | {"repaired": repaired})
    else:
        for sentence in (*repaired, *found.problems):
            print_line(sentence)
        if not found.problems:
            print_line(_clean(found, location))
    raise typer.Exit(EXIT_STORAGE if found.problems else 0)


def migrate_command(location: Location) -> None:
    """Give a study in an object store, written by an older version, the form of this one."""
    from ray_unlearn.api import Study

    for sentence in Study(location).migrate():
        print_line(sentence)


def _clean(found: "Verification", location: str) -> str:
    counts, unfinished = f"{found.trials} trials, {found.rows} rows", len(found.unfinished)
    if found.running:
        return f"clean so far: {counts}, {unfinished} unfinished: {found.running} is at work"
    if not unfinished and (found.complete or found.asked_for is None):
        return f"clean: {counts}, all finished"
    if found.asked_for is not None:
        counts = f"{found.trials} of {found.asked_for} trials, {found.rows} rows"
    return (
        f"clean so far: {counts}, {unfinished} unfinished: resume with "
        f"ray-unlearn resume {location}"
    )

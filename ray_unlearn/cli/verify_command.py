"""Is a study sound? Command: verify."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ray_unlearn.cli.main import app
from ray_unlearn.cli.show import Json, print_json
from ray_unlearn.cli.study_commands import Location
from ray_unlearn.spec.errors import EXIT_STORAGE

if TYPE_CHECKING:
    from ray_unlearn.store.verify import Verification


@app.command()
def verify(
    location: Location,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="first set damaged parts of the ledger aside; their trials run again"
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Check that a study is whole: rows, outcomes, trials, best weights, leftovers. Ends with 4
    when it is not."""
    from ray_unlearn.store.location import fetched, opened
    from ray_unlearn.store.repair import mend_remote
    from ray_unlearn.store.repair import repair as mend
    from ray_unlearn.store.storage import is_remote, storage_at
    from ray_unlearn.store.verify import verify as check

    if repair and is_remote(location):
        with opened(location) as place:
            repaired = mend_remote(place)
    else:
        repaired = mend(Path(location)) if repair else []
    with fetched(location) as folder:
        found = check(folder, storage_at(location))
    if json:
        print_json(asdict(found) | {"repaired": repaired})
    else:
        for sentence in repaired:
            print(sentence)
        for problem in found.problems:
            print(problem)
        if not found.problems:
            print(_clean(found, location))
    raise typer.Exit(EXIT_STORAGE if found.problems else 0)


def _clean(found: "Verification", location: str) -> str:
    counts = f"{found.trials} trials, {found.rows} rows"
    if found.running:
        return f"clean so far: {counts}, {len(found.unfinished)} unfinished: {found.running} is at work"
    if not found.unfinished and (found.complete or found.asked_for is None):
        return f"clean: {counts}, all finished"
    if found.asked_for is not None:
        counts = f"{found.trials} of {found.asked_for} trials, {found.rows} rows"
    return f"clean so far: {counts}, {len(found.unfinished)} unfinished: resume with ray-unlearn resume {location}"

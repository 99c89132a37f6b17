"""Does the best hold up? Command: confirm."""

from typing import TYPE_CHECKING, Annotated

import typer

from ray_unlearn.cli.main import app
from ray_unlearn.cli.show import Json, number, print_json, print_table, say
from ray_unlearn.cli.study_commands import (
    Address,
    Lanes,
    Location,
    Quiet,
    Workers,
    given_operations,
)

if TYPE_CHECKING:
    from ray_unlearn.analysis.guidelines.confirmation import Confirmation, Confirmed

COLUMNS = (
    "method", "trial", "learning rate", "updates", "chosen by (selection)", "its reporting score", "new seeds: mean",
    "90 % interval", "SD", "n of seeds",
)  # fmt: skip


@app.command()
def confirm(
    location: Location,
    top: Annotated[
        int, typer.Option(min=1, help="how many of the best configurations (selection half)")
    ] = 1,
    seeds: Annotated[int, typer.Option(help="how many new seeds for each, at least 2")] = 5,
    per_method: Annotated[
        bool, typer.Option("--per-method", help="so many configurations of each method")
    ] = False,
    lanes: Lanes = None,
    workers: Workers = None,
    address: Address = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run the best configurations of a study again with new seeds: mean and 90 % interval on the
    reporting half, beside what the study had claimed. A study of its own in DIR/confirm; the same
    command goes on with it."""
    from ray_unlearn.analysis.guidelines.confirmation import confirmation, write_confirmation
    from ray_unlearn.execution.confirm import confirm_study
    from ray_unlearn.store.location import fetched, send

    operations = given_operations(lanes, workers)
    result = confirm_study(
        location,
        top,
        seeds,
        per_method=per_method,
        operations=operations,
        address=address,
        quiet=quiet,
    )
    with fetched(location) as study, fetched(result.location) as folder:
        found = confirmation(study, folder)
        send(result.location, write_confirmation(found, folder))
    if json:
        print_json(found.as_json())
    else:
        _show(found)
    if result.interrupted:
        say(f"stopped; the same command goes on, or: ray-unlearn resume {result.location}")
    raise typer.Exit(result.exit_code)


def _show(found: "Confirmation") -> None:
    title = f"{found.study}: the best configurations with new seeds (score on the reporting half; lower is better)"
    print_table(COLUMNS, [_line(c) for c in found.configurations], title=title)
    for note in found.notes:
        print(f"note: {note}")


def _line(c: "Confirmed") -> list[str]:
    values = c.hyperparameters
    ends = (
        ""
        if c.interval.low is None or c.interval.high is None
        else f"{c.interval.low:.4g} to {c.interval.high:.4g}"
    )
    claims = [_number(c.claimed_selection), _number(c.claimed_reporting)]
    measured = [
        _number(c.interval.mean),
        ends,
        _number(c.interval.sd),
        f"{c.interval.n} of {c.seeds}",
    ]
    return [
        c.method,
        c.trial_id,
        _number(values["learning_rate"]),
        str(values["steps"]),
        *claims,
        *measured,
    ]


def _number(value: float | None) -> str:
    return "" if value is None else number(float(value))

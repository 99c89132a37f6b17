"""The command `confirm`, which runs the best configurations again with new seeds."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_unlearn.cli.options import Location, with_run_options
from ray_unlearn.cli.show import (
    Json,
    failure_line,
    four_digits,
    print_json,
    print_table,
    print_without_result,
    say,
)
from ray_unlearn.spec.bounds import MOST_TRIALS
from ray_unlearn.store.schema import at_strength

if TYPE_CHECKING:
    from ray_unlearn.analysis.guidelines.confirmation import Confirmation, Confirmed

COLUMNS = (
    "method", "trial", "learning rate", "updates", "chosen by (selection)", "its reporting score",
    "new seeds: mean", "90 % interval", "SD", "n of seeds",
)  # fmt: skip


@with_run_options
def confirm_command(
    location: Location,
    top: Annotated[
        int,
        typer.Option(
            min=1, max=MOST_TRIALS, help="how many of the best configurations (selection half)"
        ),
    ] = 1,
    seeds: Annotated[
        int, typer.Option(max=MOST_TRIALS, help="how many new seeds for each, at least 2")
    ] = 5,
    per_method: Annotated[
        bool, typer.Option("--per-method", help="so many configurations of each method")
    ] = False,
    *,
    options: dict[str, Any],
    json: Json = False,
) -> None:
    """Run the best configurations of a study again with new seeds.

    Shows mean and 90 % interval on the reporting half, beside what the study had claimed. The
    confirmation is a study of its own in STUDY/confirm; the same command goes on with it."""
    from ray_unlearn.api import Study

    study = Study(location)
    found = study.confirm(top, seeds, per_method=per_method, **options)
    result = study.last_run
    assert result is not None
    if json:
        print_json(found.as_json())
    else:
        _show(found)
        print_without_result(result.counts, result.reasons)
    if result.interrupted:
        say(f"stopped; the same command goes on, or: ray-unlearn resume {result.location}")
    elif result.exit_code:
        say(failure_line(result))
    raise typer.Exit(result.exit_code)


def _show(found: "Confirmation") -> None:
    title = (
        f"{found.study}: the best configurations with new seeds (score on the reporting half; "
        "lower is better)"
    )
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
        f"{values['steps']}{at_strength({'strength': c.strength})}",
        *claims,
        *measured,
    ]


def _number(value: float | None) -> str:
    return "" if value is None else four_digits(float(value))

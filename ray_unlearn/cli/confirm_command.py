"""The command `confirm`, which runs the best configurations again with new seeds."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_unlearn.cli.attack_command import names_in, percent
from ray_unlearn.cli.options import Location, with_run_options
from ray_unlearn.cli.show import (
    Json,
    failure_line,
    four_digits,
    print_json,
    print_line,
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
    attacks: Annotated[
        str | None,
        typer.Option(help="relearn,quantise: attack each of the new models too, in this process"),
    ] = None,
    *,
    options: dict[str, Any],
    json: Json = False,
) -> None:
    """Run the best configurations of a study again with new seeds.

    Shows mean and 90 % interval on the reporting half, beside what the study had claimed. The
    confirmation is a study of its own in STUDY/confirm; the same command goes on with it."""
    from ray_unlearn.api import Study

    study = Study(location)
    names = names_in(attacks) or ()
    found = study.confirm(top, seeds, per_method=per_method, attacks=names, **options)
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
    attacks = hardest_attacks(found)
    columns = (*COLUMNS, *(f"undone by {setting}" for _, setting in attacks))
    lines = [[*_line(c), *_undone(c, attacks)] for c in found.configurations]
    print_table(columns, lines, title=title)
    for note in found.notes:
        print_line(f"note: {note}")


def hardest_attacks(found: "Confirmation") -> list[tuple[str, str]]:
    """The last setting of each attack that was made on the text itself: attack and setting."""
    names = dict.fromkeys(name for c in found.configurations for name in c.attacks)
    split = [(name.partition(": ")[0], name.partition(": ")[2]) for name in names]
    own = [(attack, s) for attack, s in split if attack != "relearn" or "forget set" in s]
    return list(dict(own).items())


def _undone(c: "Confirmed", attacks: list[tuple[str, str]]) -> list[str]:
    """Mean and interval of the share undone by each attack."""
    cells = []
    for attack, setting in attacks:
        one = c.attacks.get(f"{attack}: {setting}")
        if one is None or one.mean is None:
            cells.append("")
        elif one.low is None or one.high is None:
            cells.append(percent(one.mean))
        else:
            cells.append(f"{percent(one.mean)}, {percent(one.low)} to {percent(one.high)}")
    return cells


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

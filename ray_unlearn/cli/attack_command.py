"""The command `attack`, which tries to take back what the model of a trial has forgotten."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ray_unlearn.cli.options import Location
from ray_unlearn.cli.show import Json, print_json, print_table, say
from ray_unlearn.spec.errors import UserError
from ray_unlearn.store.attack_file import RETRAINED, TRIAL, VANILLA
from ray_unlearn.store.schema import at_strength

if TYPE_CHECKING:
    from ray_unlearn.store.attack_file import AttackedModel

COLUMNS = ("attack", "setting", "this model", "vanilla", "undone")
OF_RETRAINED = ("exactly retrained", "its undone")


def attack_command(
    location: Location,
    trial: Annotated[str, typer.Option(help="trial id, number, or `best`")] = "best",
    attacks: Annotated[
        str | None,
        typer.Option(
            help="relearn,quantise,prompts; default: the first two, and prompts where some are "
            "given"
        ),
    ] = None,
    update: Annotated[
        int | None, typer.Option(min=1, help="default: that of the row that scores the trial")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="default: that of the same row, or 1 with --update")
    ] = None,
    prefix: Annotated[
        list[str] | None,
        typer.Option(help="prompts: text before each forget document or prompt, several times"),
    ] = None,
    paraphrases: Annotated[
        Path | None, typer.Option(help="prompts: file with the forget set in other words")
    ] = None,
    updates: Annotated[
        str | None, typer.Option(help="relearn: updates after which to look; default 5,20,50")
    ] = None,
    learnt: Annotated[
        str | None,
        typer.Option(
            help="relearn: forget (a share of it), approximate, retain; default forget,approximate"
        ),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="relearn: default 1e-4")] = None,
    share: Annotated[
        float | None, typer.Option(help="relearn: fraction of the forget set; default 0.25")
    ] = None,
    bits: Annotated[str | None, typer.Option(help="quantise: default 8,4")] = None,
    group_size: Annotated[
        int | None, typer.Option(help="quantise: weights that share a scale; default 64")
    ] = None,
    json: Json = False,
) -> None:
    """Attack the model of a trial: relearning, rounded weights, prompts.

    The vanilla and the exactly retrained model are attacked alike. The results are added to the
    study's attacks.json, which `report` shows."""
    from ray_unlearn.api import Study

    found = Study(location).attack(
        trial,
        names_in(attacks),
        update=update,
        strength=strength,
        prefixes=prefix or (),
        paraphrases=paraphrases,
        say=say,
        updates=_numbers(updates, "--updates"),
        learnt=names_in(learnt),
        learning_rate=learning_rate,
        share=share,
        bits=_numbers(bits, "--bits"),
        group_size=group_size,
    )
    if json:
        print_json(found.lines)
    else:
        _show(found)


def names_in(text: str | None) -> list[str] | None:
    """The names of a comma-separated list; None where it is not given."""
    return None if text is None else [name.strip() for name in text.split(",")]


def _numbers(text: str | None, option: str) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} {text!r}: must be whole numbers, such as 5,20,50") from None


def _show(found: "AttackedModel") -> None:
    where = f"update {found.update}{at_strength({'strength': found.strength})}"
    title = (
        f"{found.method}, trial {found.trial_id}, {where}: forget NLL under attack, nats/token; "
        "undone: how much of what was forgotten comes back"
    )
    retrained = any(RETRAINED in one.nll for one in found.outcomes)
    columns = (*COLUMNS, *(OF_RETRAINED if retrained else ()))
    print_table(columns, [line[: len(columns)] for line in _lines(found)], title=title)


def _lines(found: "AttackedModel") -> Iterator[tuple[str, ...]]:
    """A line for each attack, below what its targets were before it."""
    shown: dict[str, float] = {}
    for one in found.outcomes:
        if one.before != shown:
            shown = one.before
            yield (one.attack, "before", *_nats(shown), "", _nat(shown, RETRAINED), "")
        undone, its = percent(one.undone()), percent(one.undone(RETRAINED))
        yield (one.attack, one.setting, *_nats(one.nll), undone, _nat(one.nll, RETRAINED), its)


def _nats(nll: dict[str, float]) -> tuple[str, str]:
    return _nat(nll, TRIAL), _nat(nll, VANILLA)


def _nat(nll: dict[str, float], name: str) -> str:
    return f"{nll[name]:.3f}" if name in nll else ""


def percent(share: float | None) -> str:
    """A share as a percentage; nothing where there is none."""
    return "" if share is None else f"{100 * (round(share, 2) + 0.0):.0f} %"

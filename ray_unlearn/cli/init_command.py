"""The command `init`, which writes a study file."""

import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_unlearn.cli.options import SOURCE, field_given, source_given
from ray_unlearn.cli.show import (
    Json,
    print_findings,
    print_json,
    print_line,
    print_verdict,
    say,
)
from ray_unlearn.spec.bounds import MOST_TRIALS
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.study_file import TRIALS

OR_OURS = "(file or folder; empty: ours)"
OR_DEALT = "(file or folder; empty: dealt from that)"

if TYPE_CHECKING:
    from ray_unlearn.unlearn.checked_draft import CheckedDraft
    from ray_unlearn.unlearn.first_study import FirstStudy


def init_command(
    study: Annotated[Path, typer.Argument(help="the file to write")] = Path("study.yaml"),
    model: Annotated[
        str | None,
        typer.Option(
            help="what is to forget: a model folder, a hub id, or demo:<domain>", show_default=False
        ),
    ] = None,
    forget: Annotated[
        str | None,
        typer.Option(
            help=f"documents to be forgotten: {SOURCE}", metavar="SOURCE", show_default=False
        ),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(
            help="text of the same kind that the model was not trained on, from which the sets to "
            "compare with and to keep are dealt; default: text that comes with the package",
            metavar="SOURCE",
            show_default=False,
        ),
    ] = None,
    retain: Annotated[
        str | None,
        typer.Option(
            help="documents of the same kind to be kept; default: dealt from --pool or from text "
            "that comes with the package",
            metavar="SOURCE",
            show_default=False,
        ),
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option(
            "--field",
            help="field of sources given as paths, such as prompt=question, several times; "
            "default: guessed from the first row",
            show_default=False,
        ),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="method to try, several times; default: ascent, and the two that did best in our "
            "campaign",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="of the study; default: the file's", show_default=False)
    ] = None,
    trials: Annotated[int, typer.Option(min=1, max=MOST_TRIALS, help="of each method")] = TRIALS,
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
    measure: Annotated[
        bool,
        typer.Option(help="load a small model, to see what it remembers and how long it takes"),
    ] = True,
    json: Json = False,
) -> None:
    """Write a short study file: from a model and documents to forget, with ranges for its size.

    Asks for what is not given, in a terminal. Says whether the model remembers the documents, and
    how long the study will take here. Starts nothing."""
    _check_place(study, force)
    from ray_unlearn.unlearn.first_study import first_study, first_study_text

    given_model = model or _asked("--model", "model (folder, hub id or demo:shakespeare)")
    given_forget = forget or _asked("--forget", "documents to forget (file or folder)")
    if not (model and forget) and sys.stdin.isatty():
        pool = pool or _answer(f"text of that kind that it never saw {OR_OURS}") or None
        retain = retain or _answer(f"text of that kind to be kept {OR_DEALT}") or None
    wanted = first_study(
        study,
        given_model,
        source_given(given_forget, "--forget"),
        None if pool is None else source_given(pool, "--pool"),
        retain=None if retain is None else source_given(retain, "--retain"),
        fields=dict(map(field_given, fields or [])),
        name=name,
        methods=tuple(methods or ()),
        trials=trials,
    )
    say("reading the documents and the model ...")
    from ray_unlearn.unlearn.checked_draft import written_study
    from ray_unlearn.unlearn.first_facts import first_facts

    text = first_study_text(wanted, first_facts(wanted))
    _show(wanted, written_study(study, text, measures=measure), json)


def _check_place(study: Path, force: bool) -> None:
    """Ask, or refuse, before a file of the user's is replaced.

    Raises:
        UserError: it is there, and nobody said that it may go; it is no name of a study file.
    """
    if study.is_dir():
        raise UserError(f"{study}: is a folder; name a file in it: {study / 'study.yaml'}")
    if study.suffix not in (".yaml", ".yml"):
        raise UserError(f"{study}: a study file ends with .yaml, such as {study}.yaml")
    if not study.exists() or force:
        return
    if sys.stdin.isatty() and typer.confirm(f"{study} is there. Replace it?", err=True):
        return
    raise UserError(f"{study}: is there already; choose another name, or replace it with --force")


def _asked(option: str, question: str) -> str:
    if not sys.stdin.isatty():
        raise UserError(f"{option}: is needed, and there is no terminal to ask at; give {option}")
    while not (answer := _answer(question)):
        say("it is needed; Ctrl-C ends")
    return answer


def _answer(question: str) -> str:
    answer: str = typer.prompt(question, default="", show_default=False, err=True)
    return answer.strip()


def _show(wanted: "FirstStudy", made: "CheckedDraft", json: bool) -> None:
    if json:
        print_json(_as_json(wanted, made))
        return
    print_findings(made.admitted.worth_saying)
    print_line(f"memory: {made.memory_words}")
    print_line(f"time: {made.time_words}")
    print_verdict(made.admitted.findings, "this machine")
    place = quote(str(wanted.place))
    print_line(
        f"Wrote {wanted.place}. Next:\n"
        f"  all that is checked, and what it can find out:  ray-unlearn plan {place}\n"
        f"  start it, into results/{wanted.name}:  ray-unlearn run {place}"
    )


def _as_json(wanted: "FirstStudy", made: "CheckedDraft") -> Mapping[str, Any]:
    tried = made.tried
    return {
        "study": str(wanted.place),
        "findings": [
            {"what": one.what, "state": one.state, "found": str(one)}
            for one in made.admitted.findings
        ],
        "memory": made.memory_words,
        "time": made.time_words,
        "seconds": made.seconds,
        "vanilla": None if tried is None else tried.vanilla,
    }

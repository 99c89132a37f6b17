"""Output: results on stdout, as tables or JSON, and everything else on stderr."""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ray_unlearn.spec.errors import EXIT_WRONG_INPUT
from ray_unlearn.spec.printable import printable
from ray_unlearn.store.failure_reasons import none_succeeded, reasons_in_words
from ray_unlearn.unlearn.finding import AGAINST, Finding, first_change

if TYPE_CHECKING:
    from ray_unlearn.execution.study import StudyResult

Json = Annotated[bool, typer.Option("--json", help="print JSON for scripts")]


def say(text: str) -> None:
    """Print one line for the operator on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(printable(text), markup=False)


def print_line(text: str) -> None:
    """Print text for people on stdout, without what a terminal would obey (see `printable`)."""
    print(printable(text))


def shown(cell: object, style: str = "") -> Text:
    """A value as rich may show it: neither its markup nor control characters do anything."""
    return Text(printable(str(cell)), style=style)


def print_json(content: Any) -> None:
    """Print JSON on stdout; what is not finite becomes null."""
    print(json.dumps(json_ready(content), indent=2, allow_nan=False))


def print_table(columns: Sequence[str], lines: Iterable[Sequence[Any]], title: str = "") -> None:
    """Print a table on stdout, with numbers right-aligned."""
    rows = [list(line) for line in lines]
    table = Table(title=shown(title) if title else None, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], (int, float)) for row in rows)
        table.add_column(shown(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(
            *(four_digits(cell) if isinstance(cell, (int, float)) else shown(cell) for cell in row)
        )
    wide = 120 if not sys.stdout.isatty() else None
    # Text in brackets is text: `pip install ray-unlearn[lm-eval]`.
    Console(highlight=False, width=wide, markup=False).print(table)


def print_findings(findings: Sequence[Finding]) -> None:
    """Print what the checks of a study or a machine found, as a table."""
    print_table(
        ["check", "", "found"],
        [(finding.what, finding.state, str(finding)) for finding in findings],
    )


def print_verdict(findings: Sequence[Finding], where: str) -> None:
    """Print yes or no, and the one thing to change, in two lines at most."""
    first = first_change(findings)
    state = "ok" if first is None else first.state
    line = VERDICTS.get(state, f"yes: it can run on {where}").format(where=where)
    print_line(line)
    if first is not None:
        again = "first change" if state in AGAINST else "but first look at"
        print_line(f"{again} ({first.what}): {first}")


VERDICTS: dict[str, str] = {
    "refused": "no: this study cannot run as it is",
    "no room": "no: it has no room on {where}",
    "pointless": "no: it could run on {where}, but there is nothing to forget",
}


def end_with_findings(findings: Sequence[Finding]) -> None:
    """End with the exit code of wrong input where something speaks against a study."""
    if any(finding.state in AGAINST for finding in findings):
        raise typer.Exit(EXIT_WRONG_INPUT)


def print_without_result(outcomes: Mapping[str, int], reasons: dict[str, int]) -> None:
    """How many trials have no result, and why; nothing where all have one."""
    if reasons:
        count = f"{sum(reasons.values())} of {sum(outcomes.values())}"
        print_line(f"without a result: {count} trials: {reasons_in_words(reasons)}")


def failure_line(result: "StudyResult") -> str:
    """The last word on a run with failed trials: how many, why, and what to do about it."""
    finished = sum(result.counts.values())
    if none_succeeded(result.counts):
        what = f"none of the {finished} trials has a result"
    else:
        what = f"{sum(result.reasons.values())} of {finished} trials have no result"
    again = f"ray-unlearn resume {result.location} --retry-failed"
    remedy = f"; once the cause is gone: {again}" if result.counts.get("failed") else ""
    return f"{what}: {reasons_in_words(result.reasons)}{remedy}"


def four_digits(value: float) -> str:
    """The number with four significant digits; an integer in full."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def json_ready(content: Any) -> Any:
    """The content as JSON can hold it: what is not finite becomes null, tuples become lists."""
    if isinstance(content, dict):
        return {str(key): json_ready(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [json_ready(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content

"""Output: results on stdout, as tables or JSON, and everything else on stderr."""

import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="print JSON for scripts")]


def say(text: str) -> None:
    """Print one line for the operator on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def print_json(content: Any) -> None:
    """Print JSON on stdout; NaN becomes null."""
    print(json.dumps(json_ready(content), indent=2, allow_nan=False))


def print_table(columns: Sequence[str], lines: Iterable[Sequence[Any]], title: str = "") -> None:
    """Print a table on stdout, with numbers right-aligned."""
    rows = [list(line) for line in lines]
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], (int, float)) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(
            *(four_digits(cell) if isinstance(cell, (int, float)) else str(cell) for cell in row)
        )
    wide = 120 if not sys.stdout.isatty() else None
    Console(highlight=False, width=wide).print(table)


def four_digits(value: float) -> str:
    """The number with four significant digits; an integer in full."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def json_ready(content: Any) -> Any:
    """The content as JSON can hold it: NaN becomes null, tuples become lists."""
    if isinstance(content, dict):
        return {str(key): json_ready(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [json_ready(value) for value in content]
    if isinstance(content, float) and math.isnan(content):
        return None
    return content

"""Runs what is printed for readers: scripts of examples/ and blocks of Markdown pages."""

import re
import runpy
import sys
from typing import Any

from tiny import REPOSITORY


def run_example(name: str, *arguments: object) -> None:
    """Run a script of examples/ as a reader would."""
    given = sys.argv
    sys.argv = [name, *map(str, arguments)]
    try:
        runpy.run_path(str(REPOSITORY / "examples" / name), run_name="__main__")
    finally:
        sys.argv = given


def blocks(page: str, section: str) -> list[str]:
    """Python blocks of a section of a Markdown page, as they are printed."""
    text = (REPOSITORY / page).read_text().split(f"\n## {section}\n", 1)[1]
    return re.findall(r"^```python\n(.*?)^```", text.split("\n## ", 1)[0], flags=re.M | re.S)


def run_blocks(pieces: list[str], names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run them one after another in the present folder; gives the names they define."""
    names = {} if names is None else names
    for piece in pieces:
        exec(compile(piece, "<block>", "exec"), names)
    return names

"""The command line of a benchmark that has parts."""

import argparse
import time
from collections.abc import Callable, Mapping


def run_parts(doc: str | None, parts: Mapping[str, Callable[[int], None]], repeats: int) -> None:
    """Measure all parts, or the one named by `--only`, with `--repeats` studies each."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--only", choices=list(parts))
    given = parser.parse_args()
    began = time.monotonic()
    for name, part in parts.items():
        if given.only in (None, name):
            part(given.repeats)
    print(f"{time.monotonic() - began:.0f} s")

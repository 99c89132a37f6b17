"""A demo, run to its end with a clock beside it: when its first row came, and when it was over."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

LOOK_EVERY_S = 0.2
SHOWN = 4_000
"""Characters of a failed command's output that are shown."""


class DemoTimes(NamedTuple):
    """Seconds since the command was typed."""

    first_row_s: float
    whole_s: float

    def __str__(self) -> str:
        return f"first row after {self.first_row_s:.0f} s, whole demo {self.whole_s:.0f} s"


def timed_demo(
    command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] = os.environ
) -> DemoTimes:
    """Run a demo whose study lies in `results/` of a folder that has none yet.

    Args:
        command: what is typed, such as `make demo`.
        folder: where.
        environment: of the command.

    Raises:
        RuntimeError: it failed, or ended without a row; with the end of what it printed.
    """
    output = folder / "demo.log"
    with output.open("w") as log:
        started = time.monotonic()
        process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdout=log, stderr=subprocess.STDOUT
        )
        first = None
        while process.poll() is None:
            if first is None and has_row(folder):
                first = time.monotonic() - started
            time.sleep(LOOK_EVERY_S)
        whole = time.monotonic() - started
    if process.returncode or not has_row(folder):
        said = output.read_text(errors="replace")[-SHOWN:]
        raise RuntimeError(f"{command}: exit code {process.returncode}\n{said}")
    return DemoTimes(whole if first is None else first, whole)


def has_row(folder: Path) -> bool:
    """Whether a study below `results/` has an evaluation row of a trial; baselines are none."""
    ledgers = folder.glob("results/*/ledger/events.jsonl")
    return any(b'"kind": "row"' in ledger.read_bytes() for ledger in ledgers)

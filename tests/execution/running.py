"""The command line in a process of its own, and waiting for what it writes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.location import fetched
from ray_unlearn.store.record import Record

PATIENCE_S = 240
STEPS = 240
"""Of a trial that is to be stopped: seconds of training follow its first evaluation, and a signal
arrives within them."""

StudyFile = Callable[..., Path]
"""Writes a study file: trials of each method, steps, operations."""


def cli(*arguments: str, setup: str = "", **environment: str) -> "subprocess.Popen[str]":
    """`ray-unlearn` with these arguments.

    Args:
        arguments: of the command line.
        setup: Python statements before it starts.
        environment: variables to set.
    """
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"{setup}\nfrom ray_unlearn.cli.main import main; main()",
            *arguments,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


def until(
    condition: Callable[[Record], object], location: Path | str, process: "subprocess.Popen[str]"
) -> Record:
    """The record of a running study as soon as the condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        try:
            with fetched(location) as folder:
                record = read_ledger(folder / "ledger")
        except StorageError:  # not there yet
            time.sleep(0.05)
            continue
        if condition(record):
            return record
        time.sleep(0.02)
    raise AssertionError("it never came to that")


def at_work(record: Record) -> list[int]:
    """Trials that have rows and no outcome."""
    return [
        number for number, trial in record.trials.items() if trial.rows and trial.status is None
    ]


def under_way(number: int) -> Callable[[Record], bool]:
    """The trial has a row and no outcome."""
    return lambda record: number in at_work(record)

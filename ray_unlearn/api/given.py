"""Types of what callers pass: paths, lanes, and the receiver of progress lines."""

import os
import sys
from collections.abc import Callable
from typing import Any, Literal

from ray_unlearn.spec.printable import printable

PathLike = str | os.PathLike[str]
Lanes = int | Literal["auto"] | None
Say = Callable[[str], None]


def voice(say: Say | None, quiet: bool = False) -> Say:
    """The receiver of progress lines: `say`, else stderr, or nobody when quiet."""
    if say is not None:
        return say
    return _to_nobody if quiet else _to_stderr


def operations_given(lanes: Lanes, workers: int | None) -> dict[str, Any]:
    """The operations that replace those of the study file."""
    given = {"lanes": lanes, "workers_per_lane": workers}
    return {name: value for name, value in given.items() if value is not None}


def _to_nobody(text: str) -> None:
    """Discard a line."""


def _to_stderr(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)

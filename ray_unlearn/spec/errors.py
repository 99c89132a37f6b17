"""Errors that a user can fix; each message names the value, the place and the remedy."""

import difflib
from collections.abc import Iterable

from ray_unlearn.spec.printable import printable

EXIT_WRONG_INPUT = 2
EXIT_FAILED_TRIALS = 3
EXIT_STORAGE = 4
EXIT_INTERRUPTED = 130


class UserError(ValueError):
    """Wrong usage or input, shown without a traceback; the process ends with `exit_code`.

    A message quotes what others have written, so it is made `printable` here, once for all.
    """

    exit_code = EXIT_WRONG_INPUT

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class StorageError(UserError):
    """The study's storage cannot be read or written (full disk, no permission, torn file)."""

    exit_code = EXIT_STORAGE


def nearest(value: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest known name, else the list of known names."""
    names = sorted(known)
    alike = {name.casefold(): name for name in reversed(names)}
    close = difflib.get_close_matches(value.casefold(), alike, n=1, cutoff=0.6)
    return f"; did you mean {alike[close[0]]!r}?" if close else f"; known: {', '.join(names)}"

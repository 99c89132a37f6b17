"""Text of others as it may be shown: in a message, on a terminal, on a page."""

import re
import unicodedata

MOST_CHARACTERS = 4_000
"""Of one line that is shown; a study file may hold a name of a million."""
_SUSPECT = re.compile(r"[^\t\n -~\u00a1-\u00ac\u00ae-\u02ff\u0370-\u03ff\u2010-\u2027]")
"""A quick look, which most text passes: characters of other blocks are asked for their category."""
_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of what a terminal obeys or what shows text in another order than it has."""


def printable(text: str) -> str:
    r"""The text without characters that do something: an escape becomes `\x1b`, long lines shorter.

    Colours, titles and cursor moves of terminals, text that runs from right to left without saying
    so, and halves of surrogate pairs, which cannot be encoded. Line ends and tabs stay.
    """
    escaped = _SUSPECT.sub(_escaped, text)
    if len(escaped) <= MOST_CHARACTERS:
        return escaped
    return "\n".join(clipped(line, MOST_CHARACTERS) for line in escaped.split("\n"))


def _escaped(found: re.Match[str]) -> str:
    one = found[0]
    if unicodedata.category(one) not in _OBEYED:
        return one
    return one.encode("unicode_escape").decode("ascii")


def clipped(line: str, most: int = 200) -> str:
    """A line with its middle left out where it has more than `most` characters."""
    left_out = len(line) - most
    if left_out <= 0:
        return line
    half = most // 2
    return f"{line[:half]} ... {left_out:,} characters left out ... {line[-half:]}"

"""Files of others: read whole, within bounds, and as values that no reader chokes on."""

import json
import stat
from pathlib import Path
from typing import Any

LARGEST_TEXT = 16 * 2**20
"""Bytes of a file that people write: a study file of 10,000 listed points has 2 MiB."""
LARGEST_RECORDS = 2**30
"""Bytes of a file that programs write and that is read whole."""
MOST_DIGITS = 20
"""Of an integer: those of 64 bits. Longer ones fit in no table, and are not even printed."""

MOST_LEVELS = 100
"""Of lists and mappings within each other."""


def given_bytes(path: Path, most: int = LARGEST_RECORDS) -> bytes:
    """The content of a file, which is looked at before it is read: a pipe or a device has no end.

    Raises:
        OSError: it cannot be read, is no file, or has more than `most` bytes.
    """
    about = path.stat()  # before it is opened, as a pipe would wait for a writer
    if not stat.S_ISREG(about.st_mode):
        raise OSError("it is no regular file")
    if about.st_size > most:
        raise OSError(f"it has {about.st_size:,} bytes, more than {most:,}")
    with path.open("rb") as file:
        return file.read(most)


def given_text(path: Path, most: int = LARGEST_TEXT) -> str:
    """The content of a file in UTF-8, without a byte order mark.

    Raises:
        OSError: as in `given_bytes`.
        ValueError: it is not UTF-8.
    """
    return given_bytes(path, most).decode("utf-8-sig")


def json_value(content: str | bytes) -> Any:
    """The value that a JSON text stands for.

    Raises:
        ValueError: it is no JSON in UTF-8, nests too deeply, or holds an integer of more than 64
            bits.
    """
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    try:
        found = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text.count("[") + text.count("{") > MOST_LEVELS:
        _check_depth(found)
    return found


def _check_depth(content: Any) -> None:
    """Refuse what readers that call themselves for each level cannot follow."""
    level = [content]
    for _ in range(MOST_LEVELS):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict | list):
                below += one.values() if isinstance(one, dict) else one
        if not below:
            return
        level = below
    raise ValueError(f"nested in more than {MOST_LEVELS} levels")


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"an integer of {len(text):,} digits")
    return int(text)


_DECODER = json.JSONDecoder(parse_int=_integer)

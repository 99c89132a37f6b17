"""Files of other programs that hold a record, or one value a line."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.given_file import LARGEST_RECORDS, given_text, json_value


def loaded(path: Path, read: Callable[[str], Any] = json_value) -> dict[str, Any]:
    """The record in a file.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        found = read(given_text(path, LARGEST_RECORDS))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds no record `{{...}}`")
    return found


def json_lines(path: Path) -> Iterator[Any]:
    """One value a line; a torn last line is left out.

    Raises:
        UserError: another line is no JSON.
    """
    if not path.is_file():
        return
    try:
        lines = given_text(path, LARGEST_RECORDS).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        try:
            yield json_value(line)
        except ValueError as error:
            if number < len(lines):
                raise UserError(f"{path}: line {number} is no JSON: {error}") from None

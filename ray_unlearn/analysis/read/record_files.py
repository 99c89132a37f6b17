"""Files of other programs that hold a record, or one value a line."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from ray_unlearn.spec.errors import UserError


def loaded(path: Path, read: Callable[[str], Any] = json.loads) -> dict[str, Any]:
    """The record in a file.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        found = read(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
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
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            if number < len(lines):
                raise UserError(f"{path}: line {number} is no JSON: {error}") from None

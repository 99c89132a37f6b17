"""Lines of a YAML file, for messages: looked for only once something is wrong."""

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import yaml

from ray_unlearn.spec.encodings import utf8_text
from ray_unlearn.spec.given_file import LARGEST_TEXT, given_bytes

Loc = tuple[str | int, ...]
"""Keys and positions that lead to a value."""
Where = Callable[[Loc, str], str]
"""The beginning of a message: file, line and key, from where a value is and what is wrong."""
_NAMED = re.compile(r"^`?([A-Za-z_][\w.]*)`?:")


class YamlPlaces:
    """Where the values of a YAML file are written.

    Args:
        path: the file.
        under: keys that lead to the part of it that is meant.
    """

    def __init__(self, path: Path, under: Loc = ()) -> None:
        self._path = path
        self._under = under

    def __str__(self) -> str:
        """The file, and the part of it."""
        return ": ".join([str(self._path), *([dotted(self._under)] if self._under else [])])

    def __call__(self, loc: Loc, message: str = "") -> str:
        """`study.yaml: line 12: model.dtype`; without the line where the file has no such key."""
        whole = (*self._under, *loc)
        named = _NAMED.match(message)
        line = self.line((*whole, *(named[1].split(".") if named else ())))
        place = f"{self._path}: line {line}" if line else str(self._path)
        return f"{place}: {dotted(whole)}" if whole else place

    def line(self, loc: Loc) -> int | None:
        """The line of a value, or of the last key on the way to it that the file has."""
        if loc[:1] == ("spaces",) and len(loc) > 2:
            written = self.line(("space_overrides", *loc[2:3]))
            if written is not None and written != self.line(("space_overrides",)):
                return written
        node, found = self._tree, None
        for part in loc:
            step = _step(node, part)
            if step is None:
                break
            found, node = step
        return found

    @cached_property
    def _tree(self) -> yaml.Node | None:
        try:
            node: yaml.Node | None = yaml.compose(
                utf8_text(given_bytes(self._path, LARGEST_TEXT)), Loader=yaml.SafeLoader
            )
        except (OSError, ValueError, yaml.YAMLError, RecursionError):
            return None
        return node


def dotted(loc: Sequence[str | int]) -> str:
    """`search.trial_seeds.0`."""
    return ".".join(map(str, loc))


def _step(node: yaml.Node | None, part: str | int) -> tuple[int, yaml.Node] | None:
    """Line and node of a key or an entry of a node."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == str(part):
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        entry = node.value[part]
        return entry.start_mark.line + 1, entry
    return None

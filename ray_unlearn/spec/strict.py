"""Strict, frozen models, and how a YAML file becomes one of them."""

import hashlib
import json
import logging
import math
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ray_unlearn.spec.encodings import utf8_text
from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.spec.given_file import LARGEST_TEXT, given_bytes
from ray_unlearn.spec.places import Where, dotted
from ray_unlearn.spec.problem_words import problem_lines


class Strict(BaseModel):
    """A frozen model that refuses unknown keys, NaN and infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


Model = TypeVar("Model", bound=Strict)


_log = logging.getLogger(__name__)
_FLOAT_TAG = "tag:yaml.org,2002:float"
_SCIENTIFIC = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
"""Numbers as people and YAML 1.2 write them. YAML 1.1, which PyYAML reads, has `1e-5` as text."""


class _Loader(yaml.SafeLoader):
    """Safe YAML with `1e-5` as a number, and without duplicate keys, aliases and tags.

    Plain YAML silently takes the last of duplicate keys. Ten nested aliases can expand to more
    values than fit in memory. A tag makes PyYAML take one kind of value for another, which fails
    in as many ways as there are kinds.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node of the document; refuses an alias and a tag."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise UserError(
                f"line {event.start_mark.line + 1}: alias *{event.anchor}: write the value out "
                "instead"
            )
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(
                problem=f"tag {event.tag}: write the value out instead",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(
                f"line {key_node.start_mark.line + 1}: a key must be a name, got a {key_node.id}; "
                "quote it"
            )
        key = loader.construct_object(key_node)
        if key in seen:
            raise UserError(
                f"line {key_node.start_mark.line + 1}: key {key!r} is given twice; keep one of them"
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    """An integer of 64 bits: one of 5,000 digits is not even printed, and fits into no table."""
    value = loader.construct_yaml_int(node)
    if abs(value) >= 2**64:
        raise ValueError(f"line {node.start_mark.line + 1}: an integer of more than 64 bits")
    return value


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def yaml_value(text: str) -> Any:
    """The value that a YAML text stands for, without aliases and tags.

    Raises:
        ValueError: it is none, has an alias or a tag, gives a key twice, nests too deeply, or holds
            a date or a number that cannot be.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(_broken(error)) from None
    except RecursionError:
        raise ValueError("not valid YAML: nested too deeply") from None
    except UserError:
        raise
    except ValueError as error:  # an impossible date, a number of thousands of digits
        raise ValueError(f"a value cannot be read: {error}") from None


class _Dumper(yaml.SafeDumper):
    """Safe YAML that is read as it was: text that `_Loader` would read as a number is quoted."""


def _text_node(dumper: _Dumper, text: str) -> yaml.Node:
    """Text; line breaks of Unicode are escaped, because PyYAML writes them bare and folds them."""
    style = '"' if _LINE_BREAKS.search(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_LINE_BREAKS = re.compile("[\x85\u2028\u2029\ufeff]")
_Dumper.add_representer(str, _text_node)
for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(_FLOAT_TAG, _SCIENTIFIC, [*"-+.0123456789"])


def yaml_text(content: dict[str, Any]) -> str:
    """The content as a YAML file that `read_yaml` reads as it was."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def yaml_line(content: dict[str, Any]) -> str:
    """The content as it stands in one line of a YAML file: `{path: f.jsonl, id: name}`."""
    text = yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True,
        width=math.inf,
    )  # fmt: skip
    return str(text).rstrip("\n")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: missing or unreadable file, YAML syntax, a key given twice, or not a mapping.
    """
    try:
        content = yaml_value(utf8_text(given_bytes(path, LARGEST_TEXT)))
    except FileNotFoundError:
        folder = path.parent if path.parent.is_dir() else None
        hint = nearest(path.name, (p.name for p in folder.glob("*.y*ml"))) if folder else ""
        raise UserError(f"{path}: no such file{hint}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise UserError(f"{path}: must hold a mapping of keys to values, got {found}")
    for key in content:
        if not isinstance(key, str):
            raise UserError(f"{path}: key {key!r} must be a name; quote it")
    _log.info("read %s", path)
    return content


def _broken(error: yaml.YAMLError) -> str:
    """What is wrong with a YAML file, with the line and what to do about it."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    if mark is None or problem is None:  # a character that YAML does not allow
        return f"not valid YAML: {error}"
    place = f"line {mark.line + 1}, column {mark.column + 1}"
    if "'\\t'" in problem:
        return f"{place}: not valid YAML: a tab; indent with spaces"
    return f"{place}: not valid YAML: {problem}"


def validated(model: type[Model], content: dict[str, Any], where: str | Where) -> Model:
    """Validate `content` as a `model`.

    Args:
        model: the class.
        content: plain values, as read from YAML or JSON.
        where: the file or option that `content` is from, for messages; a file's `YamlPlaces` add
            the line.

    Raises:
        UserError: one line per problem: place, value, remedy, nearest valid key.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        placed = _named(where) if isinstance(where, str) else where
        raise UserError("\n".join(problem_lines(error, model, content, placed))) from None


def _named(where: str) -> Where:
    """Places in what is no file, or whose lines nobody knows."""
    return lambda loc, _: f"{where}: {dotted(loc)}" if loc else where


def differences(before: Any, after: Any, place: str = "") -> list[str]:
    """Differences of two nested structures of plain values, a line each: `search.seed: 0 -> 1`."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = [*before, *(name for name in after if name not in before)]
        nested = (
            differences(
                before.get(name), after.get(name), f"{place}.{name}" if place else str(name)
            )
            for name in names
        )
        return [line for lines in nested for line in lines]
    return [] if before == after else [f"{place}: {json.dumps(before)} -> {json.dumps(after)}"]


def digest(content: Any, length: int = 12) -> str:
    """Hex digest of the canonical JSON of `content`.

    Args:
        content: plain values; equal content has an equal digest on any machine.
        length: of the digest, in hex digits.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]

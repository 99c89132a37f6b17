"""Strict, frozen models, and how a YAML file becomes one of them."""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.spec.given_file import given_text
from ray_unlearn.spec.printable import clipped


class Strict(BaseModel):
    """A frozen model that refuses unknown keys, NaN and infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


Model = TypeVar("Model", bound=Strict)


class _Loader(yaml.SafeLoader):
    """Safe YAML without duplicate keys, aliases and tags.

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
            raise UserError(f"line {key_node.start_mark.line + 1}: a key must be a name")
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
        raise ValueError(f"not valid YAML: {error}") from None
    except RecursionError:
        raise ValueError("not valid YAML: nested too deeply") from None
    except UserError:
        raise
    except ValueError as error:  # an impossible date, a number of thousands of digits
        raise ValueError(f"a value cannot be read: {error}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: missing or unreadable file, YAML syntax, a key given twice, or not a mapping.
    """
    try:
        content = yaml_value(given_text(path))
    except FileNotFoundError:
        folder = path.parent if path.parent.is_dir() else None
        hint = nearest(path.name, (p.name for p in folder.glob("*.y*ml"))) if folder else ""
        raise UserError(f"{path}: no such file{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: must hold a mapping of keys to values, got {type(content).__name__}"
        )
    return content


def validated(model: type[Model], content: dict[str, Any], where: str) -> Model:
    """Validate `content` as a `model`.

    Args:
        model: the class.
        content: plain values, as read from YAML or JSON.
        where: the file or option that `content` is from, for messages.

    Raises:
        UserError: one line per problem: place, value, remedy, nearest valid key.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(
            "\n".join(_sentence(model, dict(problem), where) for problem in error.errors())
        ) from None


def _sentence(model: type[Strict], problem: dict[str, Any], where: str) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    value = problem.get("input")
    if problem["type"] == "extra_forbidden":
        owner = _owner(model, problem["loc"][:-1])
        hint = nearest(str(problem["loc"][-1]), owner.model_fields) if owner else "; remove it"
        return f"{where}: {place}: unknown key{hint}"
    if problem["type"] == "missing":
        return f"{where}: {place}: this key is required"
    message = str(problem["msg"]).removeprefix("Value error, ")
    shown = (
        ""
        if isinstance(value, dict) or problem["type"] == "value_error"
        else f", got {clipped(repr(value))}"
    )
    return f"{where}: {place + ': ' if place else ''}{message}{shown}"


def _owner(model: type[Strict], path: tuple[Any, ...]) -> type[Strict] | None:
    """The nested model of a location in a validation error; None where it is ambiguous."""
    current: type[Strict] | None = model
    for part in path:
        field = current.model_fields.get(str(part)) if current else None
        if field is None:
            return None
        found = [
            t for t in _types_in(field.annotation) if isinstance(t, type) and issubclass(t, Strict)
        ]
        current = found[0] if len(found) == 1 else None
    return current


def _types_in(annotation: Any) -> list[Any]:
    arguments = getattr(annotation, "__args__", ())
    return [t for argument in arguments for t in _types_in(argument)] if arguments else [annotation]


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

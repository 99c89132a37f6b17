"""What is wrong with a file's values, in a person's words: pydantic's problems, a line each."""

import datetime
import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from ray_unlearn.spec.errors import nearest
from ray_unlearn.spec.known_elsewhere import KEYS, VALUES, elsewhere
from ray_unlearn.spec.places import Loc, Where
from ray_unlearn.spec.printable import clipped

PLAIN = (
    (re.compile(r"a valid dictionary.*"), "a mapping of keys to values"),
    (
        re.compile(r"a valid integer(, (unable to|got a number)[^,]*)?"),
        "a whole number",
    ),
    (re.compile(r"a valid number(, unable to[^,]*)?"), "a number"),
    (re.compile(r"a valid (tuple|list)"), "a list"),
    (re.compile(r"a valid string"), "text"),
    (re.compile(r"a valid boolean(, unable to[^,]*)?"), "true or false"),
)
"""Words of pydantic after `Input should be`, and ours."""
NAME_CHARACTERS = "A-Za-z0-9._-"


def problem_lines(
    error: ValidationError, model: type[BaseModel], content: Any, where: Where
) -> Iterator[str]:
    """A line for each value that is wrong: its place, what it must be, and what it is.

    Args:
        error: what pydantic found.
        model: what the content was to become.
        content: plain values.
        where: the beginning of each line.
    """
    found: dict[Loc, tuple[list[str], str]] = {}
    for problem in map(dict, error.errors()):
        loc = _written(problem, content)
        words, shown = found.setdefault(loc, ([], _shown(problem)))
        said = _words(model, problem, loc)
        if said not in words:
            words.append(said)
    for loc, (words, shown) in found.items():
        below = any(other[: len(loc)] == loc != other for other in found)
        if below and "must not be empty" in words:
            continue  # of the entries that were not wrong, too few are left
        said = ", or ".join(words)
        place = where(loc, said)
        named = re.match(r"`(\w+)`: ", said)
        if named and place.endswith(named[1]):
            said = said.removeprefix(named[0])
        yield f"{place}: {said}{shown}"


def _written(problem: Mapping[str, Any], content: Any) -> Loc:
    """The keys that are in the content; pydantic's also name what it tried, such as `float`."""
    value, kept = content, []
    parts: Loc = problem["loc"]
    for count, part in enumerate(parts, start=1):
        if isinstance(value, dict) and part in value:
            kept.append(part)
            value = value[part]
        elif isinstance(value, list | tuple) and isinstance(part, int):
            kept.append(part)
            value = value[part] if part < len(value) else None
        elif problem["type"] == "missing" and count == len(parts):
            kept.append(part)
    return tuple(kept)


def _shown(problem: Mapping[str, Any]) -> str:
    value = problem.get("input")
    unsaid = ("value_error", "extra_forbidden", "missing", "union_tag_invalid", "literal_error")
    if problem["type"] in unsaid or isinstance(value, dict):
        return ""
    return f", got {clipped(repr(value))}{elsewhere(VALUES, value)}"


def _words(model: type[BaseModel], problem: Mapping[str, Any], loc: Loc) -> str:
    value, kind, more = problem.get("input"), problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        if known := elsewhere(KEYS, loc[-1]):
            return f"unknown key{known}"
        owner = _owner(model, problem["loc"][:-1])
        return f"unknown key{nearest(str(loc[-1]), owner.model_fields) if owner else '; remove it'}"
    if kind == "missing":
        return "this key is required"
    if kind == "string_type" and isinstance(value, bool | int | float | datetime.date):
        return "must be text; put it in quotes"
    if kind == "string_pattern_mismatch" and NAME_CHARACTERS in more["pattern"]:
        return "letters, digits, `.`, `_` and `-` alone, up to 64 of them"
    if kind == "union_tag_not_found":
        return "a range needs its `type`: `float`, `int`, `choice` or `fixed`"
    if kind == "union_tag_invalid":
        got = f"{clipped(repr(more['tag']))}{elsewhere(VALUES, more['tag'])}"
        return f"`type` must be {more['expected_tags']}, got {got}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if kind == "literal_error":
        expected = str(more["expected"])
        return f"must be {expected}, got {clipped(repr(value))}{_close(value, expected)}"
    if kind == "too_short" and more["min_length"] == 1:
        return "must not be empty"
    for theirs, ours in PLAIN:
        message = theirs.sub(ours, message)
    return message.replace("Input should be", "must be")


def _close(value: Any, expected: str) -> str:
    """`; did you mean 'cosine'?`, where one of the expected texts is close, or known elsewhere."""
    if known := elsewhere(VALUES, value):
        return known
    close = difflib.get_close_matches(str(value), re.findall(r"'([^']*)'", expected), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _owner(model: type[BaseModel], path: Loc) -> type[BaseModel] | None:
    """The nested model of a location in a validation error; None where it is ambiguous."""
    current: type[BaseModel] | None = model
    for part in path:
        field = current.model_fields.get(str(part)) if current else None
        if field is None:
            return None
        found = [
            t
            for t in _types_in(field.annotation)
            if isinstance(t, type) and issubclass(t, BaseModel)
        ]
        current = found[0] if len(found) == 1 else None
    return current


def _types_in(annotation: Any) -> list[Any]:
    arguments = getattr(annotation, "__args__", ())
    return [t for argument in arguments for t in _types_in(argument)] if arguments else [annotation]

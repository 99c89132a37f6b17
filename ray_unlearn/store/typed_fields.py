"""Whether the values of a dataclass that was read from a file have the types that it says.

A dataclass takes anything. What a reader of the file takes for granted would then fail wherever it
is first used, in as many ways as there are uses.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LARGEST_INTEGER = 2**63 - 1
"""Of the columns of a table."""
Fits = Callable[[Any], bool]
_CHECKS: dict[type[Any], list[tuple[str, Fits]]] = {}


def has_its_types(instance: Any) -> bool:
    """Whether all fields of a dataclass have values of their types."""
    return all(check(getattr(instance, name)) for name, check in _checks_of(type(instance)))


def is_int(value: Any) -> bool:
    """Whether a value is an integer of 64 bits, and no bool."""
    return type(value) is int and abs(value) <= LARGEST_INTEGER


def is_number(value: Any) -> bool:
    """Whether a value is an integer of 64 bits or a float, and no bool."""
    return type(value) is float or is_int(value)


def _checks_of(kind: type[Any]) -> list[tuple[str, Fits]]:
    if kind not in _CHECKS:
        hints = get_type_hints(kind)
        _CHECKS[kind] = [(field.name, _check(hints[field.name])) for field in fields(kind)]
    return _CHECKS[kind]


def _check(hint: Any) -> Fits:
    """What tells values of a type hint from others."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        checks = [_check(one) for one in inner]
        return lambda value: any(check(value) for check in checks)
    if origin is Literal:
        return lambda value: isinstance(value, str) and value in inner
    if origin in (dict, Mapping):
        return _mapping(_check(inner[1]))
    if origin in (list, tuple):
        one = _check(inner[0])
        return lambda value: isinstance(value, list | tuple) and all(map(one, value))
    plain: dict[Any, Fits] = {
        Any: lambda value: True,
        int: is_int,
        float: is_number,
        NoneType: lambda value: value is None,
    }
    return plain.get(hint) or (lambda value: isinstance(value, hint))


def _mapping(check: Fits) -> Fits:
    if check(object()):  # anything goes: a row, of which nothing is read that need not be
        return lambda value: isinstance(value, Mapping)
    return lambda value: isinstance(value, Mapping) and all(map(check, value.values()))

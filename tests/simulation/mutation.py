"""Planted mistakes: text of a function replaced in the loaded module, for as long as a context."""

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any


@dataclass(frozen=True)
class Change:
    """A replaced piece of a function."""

    where: str
    """`module:name` or `module:Class.name`, below the package."""
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """A mistake in the protocol."""

    name: str
    world: str
    """The world that must notice."""
    changes: tuple[Change, ...]
    harmless: str = ""
    """Why no seed can notice, if none can."""

    @contextmanager
    def planted(self) -> Iterator[None]:
        """A context in which the code has this mistake."""
        real = []
        try:
            for where in dict.fromkeys(change.where for change in self.changes):
                function = _function(where)
                mistaken = _changed(function, [c for c in self.changes if c.where == where])
                real.append((function, function.__code__))
                function.__code__ = mistaken
            yield
        finally:
            for function, code in reversed(real):
                function.__code__ = code


def mutant(world: str, name: str, *changes: str, harmless: str = "") -> Mutant:
    """A mutant; `changes` are triples of place, old text and new text."""
    triples = zip(changes[::3], changes[1::3], changes[2::3], strict=True)
    return Mutant(name, world, tuple(Change(*triple) for triple in triples), harmless)


def _function(where: str) -> FunctionType:
    module, _, path = where.partition(":")
    found: Any = importlib.import_module(f"ray_unlearn.{module}")
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    if isinstance(found, property):
        found = found.fget
    found = getattr(found, "__func__", found)  # a class method
    found = inspect.unwrap(found)  # a context
    assert isinstance(found, FunctionType)
    return found


def _changed(function: FunctionType, changes: list[Change]) -> Any:
    source = textwrap.dedent(inspect.getsource(function))
    for change in changes:
        assert source.count(change.old) == 1, f"{change.where}: `{change.old}` is not there once"
        source = source.replace(change.old, change.new)
    names: dict[str, Any] = {}
    exec(compile(source, changes[0].where, "exec"), function.__globals__ | {}, names)
    (made,) = names.values()
    made = getattr(made, "fget", made)
    made = getattr(made, "__func__", made)
    return inspect.unwrap(made).__code__

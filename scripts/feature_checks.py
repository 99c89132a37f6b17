"""What decides our column of `docs/features.md`: checks of this package, by kind."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

import ray_unlearn
from ray_unlearn.cli import COMMANDS
from ray_unlearn.spec.hyperparameters import HYPERPARAMETERS
from ray_unlearn.spec.method_registry import METHODS
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.schema import COLUMNS

REPOSITORY = Path(__file__).parent.parent
SOURCES = ("*.py", "*.yaml", "*.sh")
"""Where a peer's feature is looked for, if its row does not say otherwise."""
NOT_THERE = ("no", "0")
"""Cells that need no test."""


@dataclass(frozen=True)
class Feature:
    """One row of the table."""

    section: str
    name: str
    ours: str
    """Checks, `KIND ARGUMENT` each, joined by `; `."""
    grep: str
    """Extended regular expression that a peer's code has where it has the feature."""
    test: str | None = None
    """`FILE::NAME` of the test that fails where ours is broken."""
    places: tuple[str, ...] = SOURCES
    unless: str | None = None
    """Expression that a peer's code must not have."""
    counted: bool = False
    """Whether a cell is a number: for peers, of files."""
    note: str = ""
    headline: bool = False
    """Whether the row stands at the top of the page too."""

    @property
    def commands(self) -> list[list[str]]:
        """The `git grep` of the row, and that of what must not be there."""
        return [
            ["git", "grep", "-c", "-i", "-E", "-e", expression, "HEAD", "--", *self.places]
            for expression in (self.grep, self.unless)
            if expression is not None
        ]


def ours(feature: Feature) -> str:
    """Our cell: `yes`, `no`, a number, or `untested` where the row names no test that exists."""
    checks = [check.split(" ", 1) for check in feature.ours.split("; ")]
    if feature.counted:
        found = str(_number(checks[0][1]))
    else:
        found = "yes" if all(CHECKS[kind](argument) for kind, argument in checks) else "no"
    return found if found in NOT_THERE or _is_tested(feature) else "untested"


def _is_tested(feature: Feature) -> bool:
    file, _, name = (feature.test or "").partition("::")
    path = REPOSITORY / file
    return path.is_file() and re.search(rf"\bdef {name}\(", _text(path)) is not None


@cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _method(name: str) -> bool:
    return name in METHODS and (REPOSITORY / "search_spaces" / f"{name}.yaml").is_file()


def _field(argument: str) -> bool:
    """Whether a study file has a field, `evaluation.strength`, and the value behind it, if any."""
    path, _, value = argument.partition(" ")
    found: list[Any] = [StudySpec]
    for part in path.split("."):
        found = [
            annotation.model_fields[part].annotation
            for annotation in _flat(found)
            if isinstance(annotation, type)
            and issubclass(annotation, BaseModel)
            and part in annotation.model_fields
        ]
    return bool(found) and (not value or value in _flat(found))


def _flat(annotations: list[Any]) -> Iterator[Any]:
    """All that annotations are made of: members of unions, of containers and of literals."""
    for annotation in annotations:
        yield annotation
        yield from _flat(list(get_args(annotation)))


def _module(name: str) -> bool:
    return any((REPOSITORY / "ray_unlearn").rglob(f"{name}.py"))


def _file(pattern: str) -> bool:
    return any(REPOSITORY.glob(pattern))


def _in_text(argument: str) -> bool:
    return _number(argument) > 0


def _number(argument: str) -> int:
    """How many different lines of some files an expression finds, `FILES EXPRESSION`."""
    pattern, _, expression = argument.partition(" ")
    lines = {line for path in REPOSITORY.glob(pattern) for line in _text(path).splitlines()}
    return sum(re.search(expression, line) is not None for line in lines)


CHECKS: dict[str, Callable[[str], bool]] = {
    "method": _method,
    "hyperparameter": HYPERPARAMETERS.__contains__,
    "command": COMMANDS.__contains__,
    "name": ray_unlearn.__all__.__contains__,
    "field": _field,
    "column": COLUMNS.__contains__,
    "module": _module,
    "file": _file,
    "text": _in_text,
}
"""A row that is counted has `number` instead."""

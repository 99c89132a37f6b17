"""Whether the values of an event have the types that its class says.

A checksum finds damage. It does not find what somebody has written on purpose, or with a program
of their own: an event of other types counts as damaged too, so that no reader meets it.
"""

from typing import Any

from ray_unlearn.store.event import Event, Header, TrialAsked
from ray_unlearn.store.typed_fields import has_its_types, is_int, is_number

SECTIONS = ("model", "data", "spaces", "search", "evaluation", "objective", "operations")
"""Of a header's spec: mappings, where they are there."""


def has_valid_fields(event: Event) -> bool:
    """Whether all fields of an event have their types; trials can be told by their configurations.

    What a whole configuration or spec says is checked where it is used.
    """
    if not has_its_types(event):
        return False
    if isinstance(event, TrialAsked):
        return _config_fits(event.config)
    if isinstance(event, Header):
        return all(isinstance(event.spec.get(name, {}), dict) for name in SECTIONS)
    return True


def is_row_number(value: Any) -> bool:
    """Whether a value is a number of a row; null stands for one that is not finite."""
    return value is None or is_number(value)


def _config_fits(config: dict[str, Any]) -> bool:
    """Of a trial, what readers take from its configuration without looking at the rest."""
    updates = config.get("evaluate_at", [])
    return (
        isinstance(config.get("method"), str)
        and is_number(config.get("learning_rate"))
        and is_int(config.get("steps"))
        and is_int(config.get("seed", 0))
        and isinstance(updates, list | tuple)
        and all(map(is_int, updates))
        and all(_is_plain(value) for name, value in config.items() if name != "evaluate_at")
    )


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | bool) or is_row_number(value)

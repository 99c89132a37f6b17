"""Whether the trackers that a study names are installed."""

from collections.abc import Sequence
from importlib.util import find_spec


def missing_trackers(names: Sequence[str], field: str) -> str:
    """Why trackers cannot be used, with the remedy; empty where all are installed."""
    missing = [name for name in names if find_spec(name) is None]
    if not missing:
        return ""
    return f"{field}: {missing[0]} is not installed: pip install 'ray-unlearn[{missing[0]}]'"

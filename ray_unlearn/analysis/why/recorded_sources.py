"""Where the sources are that a guidelines.json was made from.

A file names no path of a machine, so its sources are looked for near it and near the working
directory, and told from others by their digest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_unlearn.analysis.read.table_files import file_digest

LEDGER = "/ledger/events.jsonl"
LEVELS_UP = 3


@dataclass(frozen=True)
class FoundSources:
    """Paths of those that were found, and names of those that were not."""

    paths: tuple[Path, ...]
    missing: tuple[str, ...]


def recorded_sources(provenance: dict[str, Any], near: Sequence[Path]) -> FoundSources:
    """The sources of a guidelines.json.

    Args:
        provenance: of the file.
        near: folders or files near which they may be, beside the working directory.
    """
    bases = _bases(near)
    paths: list[Path] = []
    missing = []
    for source in provenance.get("sources", []):
        name, digest = source["name"], source["sha256_first_12"]
        there = [base / name for base in bases if (base / name).exists()]
        exact = (path for path in [*there, *_renamed(name, bases)] if _digest(path) == digest)
        if found := next(exact, None) or next(iter(there), None):
            paths.append(found.parents[1] if name.endswith(LEDGER) else found)
        else:
            missing.append(name)
    return FoundSources(tuple(dict.fromkeys(paths)), tuple(missing))


def _bases(near: Sequence[Path]) -> list[Path]:
    """Folders to look in, the nearest first."""
    places = [place.resolve() for place in near]
    here = Path.cwd()
    above = [parent for place in places for parent in list(place.parents)[:LEVELS_UP]]
    return list(dict.fromkeys([*places, *above, here, here.parent]))


def _renamed(name: str, bases: Sequence[Path]) -> Iterator[Path]:
    """Ledgers of studies whose folder has another name now."""
    if name.endswith(LEDGER):
        yield from (base / LEDGER[1:] for base in bases if (base / LEDGER[1:]).exists())


def _digest(path: Path) -> str:
    """The digest that a file has in a provenance; empty for a folder, which is read as a whole."""
    return file_digest(path) if path.is_file() else ""

"""Separation of two studies in one ledger.

Older versions began a study in an object store without asking the store whether there was one
already. So the second of two runs at one address could write its header and its events over the
first study. Nothing is lost by that: each event is an object of its own, under its writer's fence.
"""

from dataclasses import dataclass, field
from pathlib import Path

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.store.event import Header
from ray_unlearn.store.event_line import decoded
from ray_unlearn.store.scan import events_file, lines_of, write_acknowledged

SPEC_COPY = "study.yaml"


@dataclass
class _Study:
    """The lines from one header to the next."""

    lines: list[bytes] = field(default_factory=list)
    headed: bool = False
    """Whether its header is whole."""
    events: int = 0
    """Lines that are whole."""
    last: int = 0
    """Number of the last event."""


def separate_studies(folder: Path, environment: Environment = REAL) -> str:
    """Reduce a ledger that has the events of several studies to one study.

    The study with the most events, among those whose header is whole, stays; among equals, the
    first. Each other one is set aside whole, as a ledger of its own. `study.yaml` belongs to the
    last one, so it is removed; the next `resume` writes it from the header.

    Args:
        folder: the ledger's folder, whose lease the caller holds.
        environment: clock for the names of files.

    Returns:
        What was done, in words; empty if there is one study.

    Raises:
        StorageError: the disk is full; the ledger is unchanged.
    """
    path = events_file(folder)
    studies = _studies(path)
    if len(studies) < 2:
        return ""
    chosen = max(studies, key=lambda study: (study.headed, study.events))
    others = [study for study in studies if study is not chosen]
    stamp = f"{environment.now():%Y%m%dT%H%M%S%f}Z"
    names = [f"other-study-{stamp}-{index}.jsonl" for index, _ in enumerate(others, start=1)]
    try:
        for name, study in zip(names, others, strict=True):
            write_whole(folder / name, b"".join(study.lines), environment)
        write_whole(path, b"".join(chosen.lines), environment)
        write_acknowledged(folder, chosen.last)
        (folder.parent / SPEC_COPY).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{path}: not repaired: {error}; free some space, then try again"
        ) from None
    kept = ", ".join(
        f"{name} ({study.events} events)" for name, study in zip(names, others, strict=True)
    )
    position = "first" if chosen is studies[0] else f"{studies.index(chosen) + 1}."
    return (
        f"{len(studies)} studies were begun at this location, one over the other: the {position} "
        f"one, of {chosen.events} events, is the study; set aside whole: {kept}"
    )


def set_aside(folder: Path) -> list[Path]:
    """Files with what repairs have removed from a ledger."""
    return sorted([*folder.glob("damaged-*.jsonl"), *folder.glob("other-study-*.jsonl")])


def _studies(path: Path) -> list[_Study]:
    studies = [_Study()]
    for offset, line in lines_of(path):
        entry = decoded(line, path, offset)
        if entry is not None and isinstance(entry.event, Header) and studies[-1].events:
            studies.append(_Study())
        study = studies[-1]
        study.lines.append(line)
        if entry is not None:
            study.headed |= isinstance(entry.event, Header)
            study.events += 1
            study.last = max(study.last, entry.seq or 0)
    return studies

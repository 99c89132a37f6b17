"""Everything that a guidelines.json says in a sentence, by id."""

import difflib
from dataclasses import dataclass
from typing import Any

from ray_unlearn.analysis.report.recommended_section import recommendation_text
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.guideline_file import Guidelines

RECOMMENDED = "recommended"
NEAREST_IDS = 3


@dataclass(frozen=True)
class NamedRecord:
    """A record of a guidelines.json with its sentence.

    Attributes:
        id: of a guideline its own; of a recommendation `recommended/METHOD`.
        kind: of a guideline its own, else `recommended`.
        status: of a guideline its own, else `recommended`.
        methods: whose trials it rests on; empty: all of the table's.
        content: the record as in the file.
    """

    id: str
    kind: str
    status: str
    text: str
    methods: tuple[str, ...]
    content: dict[str, Any]


def records_of(found: Guidelines) -> dict[str, NamedRecord]:
    """By id: recommendations, then guidelines, each in the order of the file."""
    named = [*_recommended(found), *_claims(found)]
    return {record.id: record for record in named}


def record_of(found: Guidelines, name: str, place: str) -> NamedRecord:
    """The record of an id.

    Args:
        found: the file.
        name: the id.
        place: what the user gave for the file, for the error.

    Raises:
        UserError: no record has this id; the message names the nearest ones.
    """
    known = records_of(found)
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=NEAREST_IDS, cutoff=0.4)
    nearest = f"; nearest: {', '.join(close)}" if close else ""
    raise UserError(
        f"{place}: no claim {name!r}{nearest}; `ray-unlearn why {place}` lists all {len(known)}"
    )


def _recommended(found: Guidelines) -> list[NamedRecord]:
    return [
        NamedRecord(
            "/".join(part for part in (RECOMMENDED, one.method) if part),
            RECOMMENDED,
            RECOMMENDED,
            recommendation_text(one, found.score),
            (one.method,) if one.method else (),
            one.model_dump(mode="json"),
        )
        for one in found.recommendations
    ]


def _claims(found: Guidelines) -> list[NamedRecord]:
    return [
        NamedRecord(
            one.id,
            one.kind,
            one.status,
            one.text,
            _methods(one.scope.method, one.estimates),
            one.model_dump(mode="json"),
        )
        for one in found.guidelines
    ]


def _methods(method: str | None, estimates: dict[str, Any]) -> tuple[str, ...]:
    """The method of a claim, and the one that it is compared with."""
    if "differences" in estimates:  # a comparison of all methods
        return ()
    return tuple(name for name in (method, estimates.get("against")) if name)

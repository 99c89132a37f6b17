"""A document: the unit that is forgotten, kept, split into halves and scored by the attacks."""

from typing import NamedTuple


class Document(NamedTuple):
    """One text with an id that is unique within its split."""

    id: str
    text: str

"""A document: the unit that is forgotten or retained, split into halves and attacked."""

from typing import NamedTuple


class Document(NamedTuple):
    """One text with an id that is unique within its split."""

    id: str
    text: str

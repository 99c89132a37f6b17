"""A document: the unit that is forgotten or retained, split into halves and attacked."""

from typing import NamedTuple


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    content: str


class Document(NamedTuple):
    """One text with an id that is unique within its split."""

    id: str
    text: str
    turns: tuple[Turn, ...] = ()
    """The conversation that is still to be written as one text; its last turn is the answer, and
    `text` holds the contents alone, whatever the template."""
    prompt_length: int | None = None
    """Characters at the start of `text` that are context; None: all of the text counts."""
    alternatives: tuple[str, ...] = ()
    """Other answers than that of the last turn."""
    paraphrased: tuple[str, ...] = ()
    """The answer in other words."""
    perturbed: tuple[str, ...] = ()
    """Wrong answers."""

    def others(self, kind: str) -> tuple[str, ...]:
        """Other answers of a kind in `data_spec.OTHER_ANSWERS`."""
        kinds = (self.alternatives, self.paraphrased, self.perturbed)
        return dict(zip(("alternative", "paraphrased", "perturbed"), kinds, strict=True))[kind]

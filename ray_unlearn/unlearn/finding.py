"""A finding: what one check of a study found, before anything starts."""

from dataclasses import dataclass
from typing import Literal

FindingState = Literal["ok", "note", "warning", "no room", "refused"]
"""no room: right, but not on this machine. refused: it cannot be run anywhere as it is."""


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    what: str
    """What was checked, in a few words."""
    state: FindingState
    found: str
    """With the value and where it stands; the words of the error if it is refused."""
    remedy: str = ""
    """What to do; empty if nothing is to be done, or `found` says it."""

    def __str__(self) -> str:
        """What was found, and what to do."""
        return f"{self.found}; {self.remedy}" if self.remedy else self.found

"""A finding: what one check of a study found, before anything starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

FindingState = Literal["ok", "note", "warning", "pointless", "no room", "refused"]
"""pointless: it runs, but can show nothing. no room: right, but not on this machine. refused: it
cannot be run anywhere as it is."""
AGAINST: tuple[FindingState, ...] = ("refused", "no room", "pointless")
"""States for which a plan says no, the gravest first."""


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


def first_change(findings: Sequence[Finding]) -> Finding | None:
    """The one thing to change: what speaks most against a study, else its first warning."""
    for state in (*AGAINST, "warning"):
        for finding in findings:
            if finding.state == state:
                return finding
    return None

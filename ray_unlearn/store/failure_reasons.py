"""Why trials have no result, counted: a study whose trials all failed is not done."""

import re
from collections.abc import Iterable

WITHOUT_RESULT = ("failed", "out_of_memory", "diverged")
"""Outcomes that give a trial no score, whatever its rows say."""
MOST_REASONS = 3
MOST_CHARACTERS = 160


class FailureReasons:
    """Reasons of the trials without a result, counted as the trials end.

    Args:
        trials: status and reason of each trial; those with a result are passed over.
    """

    def __init__(self, trials: Iterable[tuple[str, str]] = ()) -> None:
        self._counts: dict[str, tuple[str, int]] = {}
        for status, reason in trials:
            self.add(status, reason)

    def add(self, status: str, reason: str) -> None:
        """Count a trial. Numbers do not set two reasons apart: `update 3` is as `update 5`."""
        if status not in WITHOUT_RESULT:
            return
        said = " ".join((reason or status.replace("_", " ")).split())
        kind = re.sub(r"\d+", "#", said)
        first, count = self._counts.get(kind, (said, 0))
        self._counts[kind] = (first, count + 1)

    @property
    def counts(self) -> dict[str, int]:
        """By reason as it was first given, the commonest first."""
        ranked = sorted(self._counts.values(), key=lambda found: -found[1])
        return dict(ranked)


def reasons_in_words(counts: dict[str, int]) -> str:
    """`device out of memory (12); non-finite loss (3); 2 more`."""
    shown = [f"{_short(reason)} ({count:,})" for reason, count in counts.items()]
    more = len(shown) - MOST_REASONS
    return "; ".join(shown[:MOST_REASONS] + ([f"{more} more"] if more > 0 else []))


def _short(reason: str) -> str:
    return reason if len(reason) <= MOST_CHARACTERS else reason[: MOST_CHARACTERS - 1] + "\u2026"

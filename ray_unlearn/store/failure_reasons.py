"""Counts of trials by outcome, and of the reasons why some have no result.

A study whose trials all failed is not done.
"""

import re
from collections.abc import Iterable, Mapping

from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import OUTCOMES

WITHOUT_RESULT = ("failed", "out_of_memory", "diverged")
"""Outcomes that give a trial no score, whatever its rows are."""
MOST_REASONS = 3
MOST_CHARACTERS = 160


class FailureReasons:
    """Reasons of the trials without a result, counted as the trials end.

    Args:
        trials: status and reason of each trial; those with a result are ignored.
    """

    def __init__(self, trials: Iterable[tuple[str, str]] = ()) -> None:
        self._counts: dict[str, tuple[str, int]] = {}
        for status, reason in trials:
            self.add(status, reason)

    def add(self, status: str, reason: str) -> None:
        """Count a trial; reasons that differ in numbers only, like `update 3`, are the same."""
        if status not in WITHOUT_RESULT:
            return
        said = " ".join((reason or status.replace("_", " ")).split())
        kind = re.sub(r"\d+", "#", said)
        first, count = self._counts.get(kind, (said, 0))
        self._counts[kind] = (first, count + 1)

    @property
    def counts(self) -> dict[str, int]:
        """Number of trials by reason, in the words first given, the commonest first."""
        ranked = sorted(self._counts.values(), key=lambda found: -found[1])
        return dict(ranked)


class OutcomeCounts:
    """Trials by outcome, and why those without a result have none; counted as the trials end.

    Args:
        trials: all have an outcome.
    """

    def __init__(self, trials: Iterable[Trial] = ()) -> None:
        self.by_outcome: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
        self.failures = FailureReasons()
        for trial in trials:
            self.add(trial)

    def add(self, trial: Trial) -> None:
        """Count a trial that has ended; once."""
        assert trial.status is not None
        self.by_outcome[trial.status] += 1
        self.failures.add(trial.status, trial.reason)


def none_succeeded(by_outcome: Mapping[str, int]) -> bool:
    """Whether trials have ended, and all of them without a result."""
    ended = sum(by_outcome.values())
    return ended == sum(by_outcome.get(outcome, 0) for outcome in WITHOUT_RESULT) > 0


def reasons_in_words(counts: dict[str, int]) -> str:
    """Counted reasons in words: `device out of memory (12); non-finite loss (3); 2 more`."""
    shown = [f"{_short(reason)} ({count:,})" for reason, count in counts.items()]
    more = len(shown) - MOST_REASONS
    return "; ".join(shown[:MOST_REASONS] + ([f"{more} more"] if more > 0 else []))


def _short(reason: str) -> str:
    return reason if len(reason) <= MOST_CHARACTERS else reason[: MOST_CHARACTERS - 1] + "\u2026"

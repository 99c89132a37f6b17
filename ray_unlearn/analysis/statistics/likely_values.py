"""What is likely where nothing is settled, and in which groups a value is good.

Both are read off P(good), the posterior probability that a value is within the tolerance of the
best (`good_regions`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

Array = NDArray[np.float64]

LIKELY = (0.8, 0.7, 0.6)
"""Probabilities that a likely range is looked for at; the first that can be had is taken."""
LEAST_P_GOOD = 0.5
"""A likely range has no value that is more likely bad than good."""
DECIDED = 0.9
MOST_TRIALS = 500


@dataclass(frozen=True)
class LikelyValues:
    """A run of values around the best, and how likely one of them is good.

    first, last: its indices on the grid.
    probability: mean P(good) over the run: the probability that a value drawn evenly from it, on
        the scale of the axis, is good. It is not the probability that all of them are.
    """

    first: int
    last: int
    probability: float


@dataclass(frozen=True)
class Agreement:
    """The run of values that is shown to be good in the most groups, by index of group.

    first, last: its indices on the grid.
    good: groups in which each of its values is good; bad: in which none is; the others are open.
    """

    first: int
    last: int
    good: tuple[int, ...]
    bad: tuple[int, ...]


def likely_values(p_good: Array, best: int) -> LikelyValues | None:
    """The widest run around `best` that is good with a probability worth saying.

    A run is {x: P(good) >= level} around `best`. The level goes from P(good) of `best` down to 0.5
    as long as the run's mean P(good) is at least 0.8; where none is, at least 0.7, then 0.6.
    Measured on planted truth in docs/analysis.md (`benchmarks/statements.py`).

    Args:
        p_good: probability [g] that a value of the grid is good.
        best: index on the grid.

    Returns:
        None where no run has a mean P(good) of 0.6 or more.
    """
    levels = np.unique(p_good[(p_good >= LEAST_P_GOOD) & (p_good <= p_good[best])])
    runs = [_run_around(p_good >= level, best) for level in levels]
    found = [LikelyValues(a, b, float(p_good[a : b + 1].mean())) for a, b in runs]
    for wanted in LIKELY:
        for run in found:
            if run.probability >= wanted:
                return run
    return None


def trials_to_settle(p_good: Array, trials_there: int) -> int | None:
    """More trials in a run until its values are good or bad with probability 0.9, on average.

    Assumes that uncertainty falls with the root of the number of trials there.

    Args:
        p_good: of the values [g] of the run.
        trials_there: number of trials that it holds already.

    Returns:
        None where it takes more than 500.
    """
    z = np.abs(norm.ppf(np.clip(p_good, 1e-6, 1 - 1e-6)))
    more = np.arange(1, MOST_TRIALS + 1)
    decided = norm.cdf(z[:, None] * np.sqrt(1 + more / max(1, trials_there))).mean(0)
    return int(more[np.argmax(decided >= DECIDED)]) if decided[-1] >= DECIDED else None


def most_agree(p_good: Array, sure: float, refuted: float) -> Agreement | None:
    """Where the most groups agree that a value is good, though not all do.

    Args:
        p_good: by group and value of the grid [G, g].
        sure: P(good) from which a value is good in a group.
        refuted: P(good) up to which it is bad there.

    Returns:
        None where all groups agree, fewer than two do, or nothing is known (an empty array).
    """
    if not p_good.size:
        return None
    good = p_good >= sure
    count = good.sum(0)
    best = int(np.lexsort((-p_good.mean(0), -count))[0])
    if not 2 <= count[best] < len(p_good):
        return None
    those = np.flatnonzero(good[:, best])
    first, last = _run_around(np.all(good[those], axis=0), best)
    bad = np.flatnonzero((p_good[:, first : last + 1] <= refuted).all(1))
    return Agreement(first, last, tuple(map(int, those)), tuple(map(int, bad)))


def _run_around(yes: NDArray[np.bool_], start: int) -> tuple[int, int]:
    """First and last index of the run of True that holds `start`."""
    no = np.flatnonzero(~yes)
    first, last = no[no < start], no[no > start]
    return (
        int(first[-1]) + 1 if len(first) else 0,
        int(last[0]) - 1 if len(last) else len(yes) - 1,
    )

"""How much of a search space is good, and how many random trials it takes to find some of that.

From joint draws of the response surface (`isolation_profile`), never from counts of measured
scores: with noise as large as the tolerance, the share of trials measured near the best one says
2 % where 19 % of the space is good, and more trials make it worse.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SURE = 0.9
"""Probability with which a budget finds a good configuration."""
INTERVAL = (0.025, 0.975)
MOST_BUDGET = 10_000


@dataclass(frozen=True)
class GoodShare:
    """Share of the space within the tolerance of the surface's best, a mean over the groups.

    share: posterior median; low, high: 95 % interval.
    budget: random trials of which one is good with probability 0.9, over all draws of the share;
        None where it takes more than 10,000. fewest, most: its 95 % interval, each draw with all
        groups: where they differ it takes more trials than their mean share says.
    """

    share: float
    low: float
    high: float
    budget: int | None
    fewest: int | None
    most: int | None


def share_over_groups(draws: Sequence[NDArray[np.float64]]) -> GoodShare | None:
    """The share from its draws in each group [G arrays]; None where a group has none."""
    if not draws or not all(len(own) for own in draws):
        return None
    shares = np.stack(draws)
    budget = _budget(shares)
    low, middle, high = np.quantile(shares.mean(0), [INTERVAL[0], 0.5, INTERVAL[1]])
    return GoodShare(
        float(middle),
        float(low),
        float(high),
        budget,
        *_interval(shares, budget),
    )


def _interval(shares: NDArray[np.float64], budget: int | None) -> tuple[int | None, int | None]:
    """95 % interval of the budget over the draws of shares [G, draws]; None: more than 10,000.

    The budget, which rests on all draws together, is never outside it.
    """
    beyond = MOST_BUDGET + 1
    each = [_budget(own) or beyond for own in shares.T]
    low, high = np.quantile(each, INTERVAL, method="nearest")
    middle = budget or beyond
    ends = min(int(low), middle), max(int(high), middle)
    fewest, most = (None if end > MOST_BUDGET else end for end in ends)
    return fewest, most


def _budget(shares: NDArray[np.float64]) -> int | None:
    """Least k for which one of k random points is good with probability `SURE`, mean over draws."""

    def found(k: int) -> float:
        return float(np.mean(1 - (1 - shares) ** k))

    if found(MOST_BUDGET) < SURE:
        return None
    low, high = 0, MOST_BUDGET
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) >= SURE else (middle, high)
    return max(1, high)

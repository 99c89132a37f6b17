"""Whether a fitted surface predicts trials that it has not seen.

A surface is tested on the table it is used on: trials are left out in folds, and what is predicted
for them is compared with what was measured. Nothing here knows what kind of surface it is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int_]

FOLDS = 5
INTERVAL = (0.05, 0.95)

Predict = Callable[[Indices], Array]
"""From the trials left out (indices) to draws [draws, left out] of what would be measured there,
noise included, by a surface fitted to the others."""


@dataclass(frozen=True)
class SurfaceCheck:
    """What a surface predicts of trials left out.

    n: trials, each left out once.
    held: of these, how many were measured inside their 90 % predictive intervals.
    squared_error: sum of squared errors of the predictive means.
    squares: the same when the mean of the trials kept is the prediction.
    """

    n: int
    held: int
    squared_error: float
    squares: float

    @property
    def coverage(self) -> float:
        """Share of trials left out that the 90 % intervals held; NaN without a trial."""
        return self.held / self.n if self.n else math.nan

    @property
    def explained(self) -> float:
        """Share of the variance of trials left out that is explained; negative: worse than none."""
        return 1 - self.squared_error / self.squares if self.squares > 0 else 0.0


def check_surface(measured: Array, predict: Predict, seed: int) -> SurfaceCheck:
    """Leave each trial out once, in folds, and predict it.

    Args:
        measured: [n], as the surface sees it (winsorised, transformed).
        predict: fits and predicts.
        seed: of the folds.
    """
    n = len(measured)
    fold = np.random.default_rng(seed).permutation(n) % FOLDS
    held, error, squares = 0, 0.0, 0.0
    for k in range(min(FOLDS, n)):
        kept, left = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        if not len(kept):
            continue
        draws, truth = predict(left), measured[left]
        low, high = np.quantile(draws, INTERVAL, axis=0)
        held += int(((low <= truth) & (truth <= high)).sum())
        error += float(((truth - draws.mean(0)) ** 2).sum())
        squares += float(((truth - measured[kept].mean()) ** 2).sum())
    return SurfaceCheck(n, held, error, squares)


def checks_together(checks: Sequence[SurfaceCheck]) -> SurfaceCheck:
    """The checks of a method's groups as one: each group's variance is its own."""
    return SurfaceCheck(
        sum(one.n for one in checks),
        sum(one.held for one in checks),
        sum(one.squared_error for one in checks),
        sum(one.squares for one in checks),
    )

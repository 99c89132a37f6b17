"""Two references for a statistic of trials: random halves of them, and trials that change places.

Random halves give its spread over trials, whatever their distribution. They do not repeat a trial,
as resampling with replacement does: that centres on the plug-in estimate of a minimum and not on
the unbiased one. The mean of a U-statistic over halves *is* the U-statistic, and the variance over
halves is that of the statistic wherever it is nearly a sum over trials (Shao and Wu, Annals of
Statistics 17, 1989). Of 20 trials it is not nearly one, and the halves say too little spread.

Trials that change places between two methods give the difference of two methods that do the same,
exactly, at any number of trials (Fisher's permutation test). Where the methods differ otherwise
than in the statistic, its spread under exchange may be too narrow.

A configuration that was tried several times is kept together in both: its trials are one draw from
the search space.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ray_unlearn.analysis.statistics.robustness import Floats, Measure, choice_order

Codes = NDArray[np.intp]

_CHUNK = 1_000_000
"""Numbers that are drawn at a time, so that memory stays small."""


@dataclass(frozen=True)
class Sample:
    """Trials of a method in a group, in order of choice.

    values: scores [n]; infeasible trials last, as +inf.
    selection: scores [n] that the order is by.
    configurations: [n], numbers from 0.
    """

    values: Floats
    selection: Floats
    configurations: Codes

    @classmethod
    def of(cls, trials: pd.DataFrame) -> "Sample":
        """Lines of `TrialTable.trials` `with_configurations`."""
        failed = trials["infeasible"].to_numpy(dtype=bool)
        scores, selection = (
            np.where(failed, np.inf, trials[name].to_numpy(dtype=float))
            for name in ("score", "score_selection")
        )
        return cls._ordered(scores, selection, pd.factorize(trials["configuration"])[0])

    def and_of(self, other: "Sample") -> "Sample":
        """The trials of both methods; no configuration of the one is one of the other."""
        apart = other.configurations + self.configurations.max() + 1
        return self._ordered(
            np.concatenate([self.values, other.values]),
            np.concatenate([self.selection, other.selection]),
            np.concatenate([self.configurations, apart]),
        )

    @classmethod
    def _ordered(cls, values: Floats, selection: Floats, configurations: Codes) -> "Sample":
        order = choice_order(values, np.isinf(values), selection)
        # Numbered anew: what is drawn does not depend on the order of lines.
        numbers = pd.factorize(configurations[order])[0].astype(np.intp)
        return cls(values[order], selection[order], numbers)


def halved(sample: Sample, measure: Measure, repeats: int, rng: np.random.Generator) -> Floats:
    """The measure on random halves of the trials, stretched to its spread on all: [repeats].

    A half keeps the order of choice, so that nothing is sorted again. The variance of a mean over m
    of n drawn without replacement is (n-m)/m times that over n; the stretch undoes it for odd n.
    """
    n = len(sample.values)
    assert n >= 2
    half = n // 2
    draws = [
        measure(_chosen(sample.values, mask))
        for mask in _dealt(sample.configurations, half, repeats, rng)
    ]
    estimate = measure(sample.values[None])
    return np.asarray(estimate + math.sqrt(half / (n - half)) * (np.concatenate(draws) - estimate))


def exchanged(
    a: Sample, b: Sample, measure: Measure, repeats: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """The measure on the trials of both methods, dealt to a and b at random: [repeats] each."""
    both = a.and_of(b)
    of_a, of_b = [], []
    for mask in _dealt(both.configurations, len(a.values), repeats, rng):
        of_a.append(measure(_chosen(both.values, mask)))
        of_b.append(measure(_chosen(both.values, ~mask)))
    return np.concatenate(of_a), np.concatenate(of_b)


def _chosen(values: Floats, mask: NDArray[np.bool_]) -> Floats:
    """The values [n] that a mask [repeats, n] of equal rows chooses: [repeats, chosen]."""
    return np.broadcast_to(values, mask.shape)[mask].reshape(len(mask), -1)


def _dealt(
    configurations: Codes, count: int, repeats: int, rng: np.random.Generator
) -> Iterator[NDArray[np.bool_]]:
    """Masks [repeats, n] of `count` random trials, whole configurations but for the last.

    In pieces that fit in memory.
    """
    n, kinds = len(configurations), int(configurations.max()) + 1
    step = max(1, _CHUNK // n)
    for start in range(0, repeats, step):
        rows = min(step, repeats - start)
        keys = rng.random((rows, kinds))
        if kinds < n:
            places = keys.argsort(axis=1).argsort(axis=1)
            keys = places[:, configurations] + rng.random((rows, n))
        # No two keys of a row are equal, but once in some 1e12 rows.
        yield keys <= np.partition(keys, count - 1, axis=1)[:, count - 1 : count]

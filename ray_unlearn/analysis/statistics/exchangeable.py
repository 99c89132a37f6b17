"""Which trials may be shuffled for a permutation null."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

SHUFFLES = 99
"""Shuffles that tell repeated configurations from coincidences."""

BLOCK = 2_000_000
"""Trials x permutations held at once: bounds memory to some tens of MiB."""


@dataclass(frozen=True)
class Trials:
    """Trials of a method.

    Points [n, d] in unit coordinates (NaN: absent), scores [n], groups [n] as 0, 1, ...

    Lower scores are better; an infeasible trial has an infinite one.
    """

    points: Floats
    scores: Floats
    groups: Ints

    def take(self, rows: Ints | Bools) -> "Trials":
        """A subset, or another order."""
        return Trials(self.points[rows], self.scores[rows], self.groups[rows])

    def top(self, fraction: float) -> Bools:
        """Trials at or below the quantile `fraction` of their group, ties included.

        Cut as Optuna cuts; an infeasible trial is never among them.
        """
        top = np.zeros(len(self.scores), dtype=bool)
        for group in np.unique(self.groups):
            members = np.flatnonzero(self.groups == group)
            scores = self.scores[members]
            cutoff = np.sort(scores)[int(np.ceil(fraction * len(scores))) - 1]
            top[members] = (scores <= cutoff) & np.isfinite(scores)
        return top

    def region(self, top: Bools, cells: NDArray[np.float32]) -> Floats:
        """All trials by cell [cells], each group weighted by its part of the top trials.

        Else a hyperparameter whose range differs between groups would differ between top and all
        for that alone.

        Args:
            top: trials in the best ones [n].
            cells: cell of each trial, one-hot [n, cells].
        """
        n = np.bincount(self.groups)
        weights = (np.bincount(self.groups, weights=top) / np.maximum(n, 1)) / (
            top.sum() / len(top)
        )
        members = (self.groups == np.arange(len(n))[:, None]).astype(np.float32)
        # Whole numbers first: their sums are exact in any order of the trials.
        return weights @ (members @ cells).astype(float)

    def informative(self, fraction: float) -> "Trials":
        """Without groups in which all trials or none are top; all trials, if every group is so."""
        n = np.maximum(np.bincount(self.groups), 1)
        fractions = np.bincount(self.groups, weights=self.top(fraction)) / n
        keep = ((fractions > 0) & (fractions < 1))[self.groups]
        return self.take(keep) if keep.any() else self

    def by_configuration(self) -> "Trials":
        """One line per configuration and group, with its median score.

        Of an even number the upper one: so ranks survive any monotone change of the score.
        """
        units = configurations(self.points)
        order = np.lexsort((self.scores, units, self.groups))
        pair = (self.groups * (units.max() + 1) + units)[order]
        starts = np.flatnonzero(np.diff(pair, prepend=-1))
        sizes = np.diff(np.append(starts, len(pair)))
        return self.take(order[starts + sizes // 2])


def configurations(points: Floats) -> Ints:
    """Number of the configuration of each trial [n]; equal points have equal ones."""
    filled = np.where(np.isnan(points), -1.0, points)
    return np.unique(filled, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def share_configurations(trials: Trials, rng: np.random.Generator) -> bool:
    """Whether trials share configurations by design.

    More do than when each hyperparameter is drawn per trial.

    Equal points among few choices, or in a full grid, are coincidences, and the trials remain the
    unit.
    """
    marks = np.stack([_marks(column, rng) for column in trials.points.T])
    equal = _equal_pairs(marks)
    # Trials are ordered by group.
    starts = np.flatnonzero(np.diff(trials.groups, prepend=-1))
    blocks = np.split(marks, starts[1:], axis=1)
    return equal > 0 and all(
        equal
        > _equal_pairs(np.concatenate([rng.permuted(block, axis=1) for block in blocks], axis=1))
        for _ in range(SHUFFLES)
    )


def _marks(column: Floats, rng: np.random.Generator) -> NDArray[np.uint64]:
    """A random 64-bit number per value; a point's sum of them (modulo 2^64) identifies it."""
    levels, level = np.unique(column, return_inverse=True)
    return rng.integers(0, 2**63, size=len(levels), dtype=np.uint64)[level]


def _equal_pairs(marks: NDArray[np.uint64]) -> int:
    counts = np.unique(marks.sum(axis=0, dtype=np.uint64), return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


@dataclass(frozen=True)
class Units:
    """What is shuffled.

    Points [units, d], top trials of each [units], stratum of each [units], ascending.
    """

    points: Floats
    tops: Ints
    strata: Ints

    def shuffles(
        self, permutations: int, rng: np.random.Generator
    ) -> Iterator[NDArray[np.float32]]:
        """Blocks [block, units] of shuffled `tops`."""
        size = max(1, BLOCK // len(self.tops))
        pieces = np.split(self.tops.astype(np.float32), np.flatnonzero(np.diff(self.strata)) + 1)
        for start in range(0, permutations, size):
            rows = min(size, permutations - start)
            shuffled = [
                rng.permuted(np.broadcast_to(piece, (rows, len(piece))), axis=1) for piece in pieces
            ]
            yield np.concatenate(shuffled, axis=1)


def units(trials: Trials, top: Bools, shared: bool) -> Units:
    """Trials of a group or, if `shared`, configurations tried in the same set of groups.

    They are exchangeable unless hyperparameters matter.
    """
    if not shared:
        return Units(trials.points, top.astype(np.int64), trials.groups)
    of_trial = configurations(trials.points)
    first = np.unique(of_trial, return_index=True)[1]
    seen = np.zeros((len(first), int(trials.groups.max()) + 1), dtype=bool)
    seen[of_trial, trials.groups] = True
    strata = np.unique(seen, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(strata, kind="stable")
    tops = np.bincount(of_trial, weights=top).astype(np.int64)
    return Units(trials.points[first][order], tops[order], strata[order].astype(np.int64))

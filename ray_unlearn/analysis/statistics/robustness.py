"""Robustness of a method as measured: the best of k random trials, and how many come near it.

Both describe only trials drawn at random (or quasi-randomly) from the search space, by their
measured scores, noise included: they compare methods, and are no estimate of how much of a space is
good (`good_share`). Scores: lower is better. An infeasible trial is a trial, and worse than all
others.

Every estimate here is a function of trials *in order of choice* (`in_choice_order`): best on the
selection half first, valued on the reporting half. So the best of k trials is valued on documents
that did not choose it.

The band of a curve is the jackknife's, in closed form; at k = n/2 it covers 77 to 84 % where 90 %
is wanted, at n/4 83 to 90 %, up to n/8 87 to 91 % (lognormal scores, 36 and 100 trials). Resampling
with replacement repeats the best trial: 65 to 77 % at n/2. Comparisons of methods use neither
(`resampling`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

from ray_unlearn.spec.errors import UserError

Floats = NDArray[np.float64]
Measure = Callable[[Floats], Floats]
"""A statistic of trials in order of choice: [repeats, trials] to [repeats]; the same whatever their
number."""

BAND = 0.90
ANCHORS = 64
_WORK = 100_000_000


@dataclass(frozen=True)
class TuningCurve:
    """Expected best score after k random trials, with a pointwise 90 % band over trials."""

    ks: tuple[int, ...]
    expected_best: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    fallback: float
    n: int
    n_infeasible: int


def expected_best(
    scores: ArrayLike,
    infeasible: ArrayLike,
    k: int,
    fallback: float,
    *,
    selection: ArrayLike | None = None,
) -> float:
    """Expected score of the best of `k` random trials, unbiased.

    The mean over all subsets of size k of the n trials.

    The plug-in estimate of Dodge et al. (2019, arXiv:1909.03004) lets a trial be drawn twice and is
    biased towards bad scores; Tang et al. (2020, arXiv:2004.03958) show it and propose this one.

    `fallback` is the score of doing nothing (that of the vanilla model), or where it is unknown the
    worst finite one of all methods compared. It is what one has after k trials that all diverged,
    and no one deploys a worse trial.

    Raises:
        UserError: k is not in 1 ... n.
    """
    values = np.minimum(in_choice_order(scores, infeasible, selection), fallback)
    return float(best_weights(len(values), [k])[0] @ values)


def tuning_curve(
    scores: ArrayLike,
    infeasible: ArrayLike,
    ks: Sequence[int],
    fallback: float,
    *,
    selection: ArrayLike | None = None,
) -> TuningCurve:
    """`expected_best` at each of `ks`, with its band.

    The trials are those of one group: k random trials of a mixture of domains is a budget that
    nobody has.

    Raises:
        UserError: a k is not in 1 ... n/2: beyond that the estimate hangs on the one or two best
        trials.
    """
    values = in_choice_order(scores, infeasible, selection)
    n, n_infeasible = len(values), int(np.isinf(values).sum())
    if not ks or min(ks) < 1 or max(ks) > n // 2:
        raise UserError(
            f"a tuning curve of {n} trials has k in 1 ... {n // 2} (half of them), got {list(ks)}"
        )
    values = np.minimum(values, fallback)
    curve = best_weights(n, ks) @ values
    margin = t.ppf((1 + BAND) / 2, n - 1) * np.array([_jackknife_error(values, k) for k in ks])
    return TuningCurve(
        ks=tuple(int(k) for k in ks),
        expected_best=tuple(curve.tolist()),
        low=tuple((curve - margin).tolist()),
        high=tuple((curve + margin).tolist()),
        fallback=fallback,
        n=n,
        n_infeasible=n_infeasible,
    )


def curve_ks(last: int) -> tuple[int, ...]:
    """Budgets 1 ... `last`, eight to a doubling (all of them while they are few)."""
    count = math.ceil(8 * math.log2(last)) + 1 if last > 1 else 1
    return tuple(int(k) for k in np.unique(np.round(np.geomspace(1, last, count)).astype(int)))


# Trials in order of choice, and statistics of many such rows at once.


def in_choice_order(
    scores: ArrayLike, infeasible: ArrayLike, selection: ArrayLike | None = None
) -> Floats:
    """Scores [n] in `choice_order`; infeasible trials last, as +inf."""
    values = np.where(np.asarray(infeasible, dtype=bool), np.inf, np.asarray(scores, dtype=float))
    return values[choice_order(scores, infeasible, selection)]


def choice_order(
    scores: ArrayLike, infeasible: ArrayLike, selection: ArrayLike | None = None
) -> NDArray[np.intp]:
    """Places of the trials [n], best first by `selection` (default: the scores)."""
    failed = np.asarray(infeasible, dtype=bool)
    values = np.where(failed, np.inf, np.asarray(scores, dtype=float))
    choice = (
        values
        if selection is None
        else np.where(failed, np.inf, np.asarray(selection, dtype=float))
    )
    assert values.ndim == 1
    assert values.shape == choice.shape == failed.shape
    assert np.isfinite(values[~failed]).all(), "a feasible trial has a finite score"
    assert np.isfinite(choice[~failed]).all(), "a feasible trial has a finite selection score"
    return np.lexsort((values, choice))


def best_weights(n: int, ks: Sequence[int]) -> Floats:
    """P(the best of k of n trials is that of rank i), i = 1 ... n: [len(ks), n].

    It is C(n-i, k-1) / C(n, k), computed from the ratio of neighbours, 1 - (k-1)/(n-i), summed as
    logarithms: exact to 1e-12 at n = 100,000.

    Raises:
        UserError: a k is not in 1 ... n.
    """
    if n < 1 or min(ks) < 1 or max(ks) > n:
        raise UserError(
            f"the best of k trials needs k in 1 ... {n} (the trials there are), got {list(ks)}"
        )
    weights = np.zeros((len(ks), n))
    for row, k in zip(weights, ks, strict=True):
        row[0] = k / n
        possible = np.arange(1, n - k + 1)
        row[1 : n - k + 1] = np.exp(
            math.log(k / n) + np.cumsum(np.log1p(-(k - 1) / (n - possible)))
        )
    return weights


def area_weights(ks: Sequence[int]) -> Floats:
    """Weights [len(ks)] of the trapezoidal mean over log2 k, from 1 to the last k.

    With them the area under a tuning curve is the mean of the expected best score in which each
    doubling of the budget counts alike. Compare only curves with the same ks and fallback.

    Raises:
        UserError: the budgets do not start at 1, do not rise, or are fewer than two.
    """
    octaves = np.log2(np.asarray(ks, dtype=float))
    widths = np.diff(octaves)
    if len(ks) < 2 or octaves[0] != 0 or np.any(widths <= 0):
        raise UserError(
            f"the area under a tuning curve needs two or more rising budgets from 1, got {list(ks)}"
        )
    return np.asarray((np.append(widths, 0) + np.insert(widths, 0, 0)) / (2 * octaves[-1]))


def own_best_proportion(rows: Floats, k: int, tolerance: float) -> Floats:
    """Expected proportion, among k random trials, of the others near their best: [repeats].

    Not the share within the tolerance of the best of all n: that best improves with n, so the
    method with more trials would look less robust. The mean over all subsets of size k is free of
    n. Given that the best has rank i, the others are a random subset of the trials after it.
    With n >> k that is a mean over very many i; where that would take long (many resamples at
    once), `ANCHORS` of equal probability stand for them.
    """
    n = rows.shape[-1]
    weights = best_weights(n, [k])[0]
    ranks = np.flatnonzero(weights > 1e-12)
    anchors = max(ANCHORS, _WORK // rows.size)
    if len(ranks) > anchors:
        ranks = np.searchsorted(np.cumsum(weights), (np.arange(anchors) + 0.5) / anchors)
        weights = np.bincount(ranks, minlength=n) / anchors
        ranks = np.unique(ranks)
    total = np.zeros(rows.shape[0])
    for rank in ranks[ranks < n - 1]:
        best = rows[:, rank]
        limits = np.where(np.isfinite(best), limit(best, tolerance), -np.inf)
        total += (
            weights[rank]
            * np.count_nonzero(rows[:, rank + 1 :] <= limits[:, None], axis=1)
            / (n - 1 - rank)
        )
    return total


def limit(best: ArrayLike, tolerance: float) -> Floats:
    """The worst score that is good.

    The slack keeps a float's last digit from deciding about a score on the limit.
    """
    return np.asarray(best, dtype=float) + tolerance * (1 + 1e-9)


def _jackknife_error(values: Floats, k: int) -> float:
    """Standard error of the expected best of k over trials.

    From all n leave-one-out values at once.

    Without trial i the ones before it keep their rank, and the ones after it move up by one.
    """
    n = len(values)
    weights = best_weights(n - 1, [k])[0]
    above = np.append(0.0, np.cumsum(weights * values[:-1]))
    below = np.append(np.cumsum((weights * values[1:])[::-1])[::-1], 0.0)
    left_out = above + below
    return math.sqrt((n - 1) / n * float(np.sum((left_out - left_out.mean()) ** 2)))

"""Paired differences between two methods by group (domain, or model and domain).

Two intervals say different things: over trials, *for these groups*; over groups, *for groups like
these*, from five groups on. A domain on several trained models counts once there, with the mean of
its differences: they are not independent (`held_out_by`).

The interval over trials is the wider one of two, and its p-value the greater: what random halves of
the trials give, and what two methods that do the same would give (`resampling`). With 20 trials the
halves alone call equal methods different in 12 % of studies where 5 % is meant. Exchange alone
calls a method that is worse everywhere more or less robust within its own trials
(`benchmarks/equal_methods.py`).

The interval over groups is Student's t: with five to ten of them resampled groups give intervals
that are too short (nominal 90 % covers some 80 % at five), and the t interval covers 90 % where the
differences are near normal.

Which trials: those not drawn adaptively. A sampler that sits in the good region makes any method
look robust. The best *known* of a group may come from an adaptive trial too.

Which best: the best trial is chosen by `score_selection`, valued by `score`, and never counted
itself, since it is good by definition. `own_best_proportion` allows for the method with more trials
finding a better best.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import t

from ray_unlearn.analysis.statistics.resampling import Sample, exchanged, halved
from ray_unlearn.analysis.statistics.robustness import Floats, Measure
from ray_unlearn.analysis.trained_models import held_out_by
from ray_unlearn.spec.errors import UserError, nearest

Outcome = Literal["more robust", "less robust", "not settled"]

ALPHA = 0.10
FEWEST_TRIALS = 8
FEWEST_GROUPS = 5
"""Below five groups an interval over groups has three degrees of freedom or fewer."""


@dataclass(frozen=True)
class Statistic:
    """What is compared: one measure per group, since thresholds and fallbacks are a group's own."""

    name: str
    larger_is_better: bool
    measures: Mapping[str, Measure]
    without: frozenset[int] = frozenset()
    """Trials that set a threshold, and so are not counted against it."""


@dataclass(frozen=True)
class Interval:
    """90 % interval, and the p-value (two-sided) of the difference being 0."""

    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class GroupDifference:
    """Both methods in one group."""

    group: str
    a: float
    b: float
    n_a: int
    n_b: int

    @property
    def difference(self) -> float:
        """a - b."""
        return float(_difference(np.array(self.a), np.array(self.b)))


@dataclass(frozen=True)
class PairedDifference:
    """Method a against method b by one statistic; differences are a - b.

    over_trials: what other random trials on these groups would have given.
    over_groups: what other domains (or models) like these would give; None below five.
    better, worse: groups in which a is the better, the worse one.
    """

    statistic: str
    larger_is_better: bool
    method_a: str
    method_b: str
    groups: tuple[GroupDifference, ...]
    mean: float
    over_trials: Interval
    over_groups: Interval | None
    better: int
    worse: int
    n_seeds: int
    scope: str

    def as_given(
        self, direction: Literal["minimize", "maximize"]
    ) -> tuple[float, tuple[float, float]]:
        """Mean and 90 % interval over trials, in the direction that the user's score has.

        Scores are turned so that lower is better; a difference of scores is turned back. A
        difference of proportions is larger for the better method either way.
        """
        low, high = self.over_trials.low, self.over_trials.high
        if self.larger_is_better or direction == "minimize":
            return self.mean, (low, high)
        return -self.mean, (-high, -low)


def paired_difference(
    trials: pd.DataFrame,
    method_a: str,
    method_b: str,
    statistic: Statistic,
    seed: int,
    *,
    repeats: int = 2000,
    halves: dict[tuple[str, str], Floats] | None = None,
) -> PairedDifference:
    """Compare two methods on the groups in which both have at least `FEWEST_TRIALS` trials.

    Args:
        trials: `TrialTable.trials` `with_configurations`. Seeds of a group are pooled as trials.
        method_a, method_b: names of the methods.
        statistic: what is compared.
        seed: of the random halves (within group and method) and deals (within group).
        repeats: random halves, and as many deals.
        halves: by method and group, the statistic on halves drawn before; what is drawn is added.

    Raises:
        UserError: unknown method, or no group to compare in.
    """
    pairs = pairs_of(trials, method_a, method_b)
    pairs = {group: pair for group, pair in pairs.items() if group in statistic.measures}
    rows, samples = [], {}
    for group, pair in pairs.items():
        measure = statistic.measures[group]
        a, b = (Sample.of(frame[~frame["trial"].isin(statistic.without)]) for frame in pair)
        rows.append(
            GroupDifference(
                group,
                float(measure(a.values[None])[0]),
                float(measure(b.values[None])[0]),
                len(a.values),
                len(b.values),
            )
        )
        samples[group] = (a, b, measure)
    rng = np.random.default_rng(seed)
    of_halves, of_exchange = np.zeros(repeats), np.zeros(repeats)
    known = {} if halves is None else halves
    # Drawn in the order of the numbers, not of the names: renaming a group changes nothing.
    for row in sorted(rows, key=lambda row: (row.difference, row.a, row.n_a, row.n_b, row.group)):
        a, b, measure = samples[row.group]
        for name, sample in ((method_a, a), (method_b, b)):
            if (name, row.group) not in known:
                known[name, row.group] = halved(sample, measure, repeats, rng)
        both = (known[name, row.group] for name in (method_a, method_b))
        of_halves += _difference(*both) / len(rows)
        of_exchange += _difference(*exchanged(a, b, measure, repeats, rng)) / len(rows)
    differences = np.array([row.difference for row in rows])
    signs = np.sign(differences) * (1 if statistic.larger_is_better else -1)
    better, worse = int(np.sum(signs > 0)), int(np.sum(signs < 0))
    compared = pd.concat([frame for pair in pairs.values() for frame in pair])
    by_unit = _independent_differences(differences, compared)
    mean = math.fsum(differences) / len(rows)
    return PairedDifference(
        statistic=statistic.name,
        larger_is_better=statistic.larger_is_better,
        method_a=method_a,
        method_b=method_b,
        groups=tuple(rows),
        mean=mean,
        over_trials=wider(_of_halves(of_halves), _of_exchange(mean, of_exchange)),
        over_groups=t_interval(by_unit) if len(by_unit) >= FEWEST_GROUPS else None,
        better=better,
        worse=worse,
        n_seeds=int(compared["seed"].nunique()),
        scope=scope_of(len(by_unit)),
    )


def _independent_differences(differences: Floats, compared: pd.DataFrame) -> Floats:
    """Mean difference of each domain (or model), from those of groups in order of name."""
    units = compared.groupby("group", sort=True)[held_out_by(compared)].first()
    means = pd.Series(differences).groupby(units.to_numpy()).mean()
    return np.asarray(means, dtype=float)


def holm(p_values: ArrayLike) -> Floats:
    """P-values [n] adjusted for a family of n, in their order.

    Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def t_interval(differences: ArrayLike) -> Interval:
    """Student's 90 % interval of the mean over groups [G], G >= 2."""
    values = np.asarray(differences, dtype=float)
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    margin = float(t.ppf(1 - ALPHA / 2, len(values) - 1)) * error
    if error == 0:
        return Interval(mean, mean, 1.0 if mean == 0 else 0.0)
    return Interval(
        mean - margin, mean + margin, float(2 * t.sf(abs(mean) / error, len(values) - 1))
    )


def pairs_of(
    trials: pd.DataFrame, method_a: str, method_b: str
) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Trials of both methods that were not drawn adaptively, by group in order of name.

    Groups in which a method has fewer than `FEWEST_TRIALS` of them are left out.

    Raises:
        UserError: an unknown method, one method twice, or no group with enough trials of both.
    """
    if method_a == method_b:
        raise UserError(f"{method_a!r} is compared with itself; name two methods")
    for method in (method_a, method_b):
        if method not in set(trials["method"]):
            raise UserError(f"unknown method {method!r}{nearest(method, set(trials['method']))}")
    drawn = trials[trials["drawn"] != "adaptive"]
    pairs, skipped = {}, []
    for group in sorted(set(trials["group"])):
        a, b = (
            drawn[(drawn["group"] == group) & (drawn["method"] == method)]
            for method in (method_a, method_b)
        )
        if min(len(a), len(b)) < FEWEST_TRIALS:
            skipped.append(group)
        else:
            pairs[group] = (a, b)
    if not pairs:
        raise UserError(
            f"{method_a!r} and {method_b!r} share no group with {FEWEST_TRIALS} or more trials of "
            "each that were not "
            f"drawn adaptively; groups: {', '.join(skipped)}"
        )
    return pairs


def _difference(a: Floats, b: Floats) -> Floats:
    """a - b, where a float's last digits make no difference.

    All trials may have diverged, or scored the same.
    """
    return np.asarray(
        np.where(np.abs(a - b) <= 1e-12 * np.maximum(np.abs(a), np.abs(b)), 0.0, a - b)
    )


def _of_halves(draws: Floats) -> Interval:
    """What random halves [repeats] say of the difference."""
    low, high = np.quantile(draws, [ALPHA / 2, 1 - ALPHA / 2])
    tail = min(int(np.sum(draws <= 0)), int(np.sum(draws >= 0)))
    return Interval(float(low), float(high), min(1.0, 2 * (tail + 1) / (len(draws) + 1)))


def _of_exchange(mean: float, draws: Floats) -> Interval:
    """What differences [repeats] of two methods that do the same say of a difference seen."""
    sizes = np.abs(draws)
    reach = float(np.quantile(sizes, 1 - ALPHA, method="higher"))
    # The slack keeps rounding from breaking a tie.
    as_large = int(np.sum(sizes >= abs(mean) * (1 - 1e-9)))
    return Interval(mean - reach, mean + reach, (as_large + 1) / (len(draws) + 1))


def wider(one: Interval, other: Interval) -> Interval:
    """What both say: the ends furthest out, and the greater p-value."""
    return Interval(
        min(one.low, other.low),
        max(one.high, other.high),
        max(one.p_value, other.p_value),
    )


def scope_of(n_groups: int) -> str:
    return "these domains only" if n_groups < FEWEST_GROUPS else "domains like these"

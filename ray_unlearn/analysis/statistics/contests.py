"""Paired comparisons of methods by three statistics, with p-values for all of them together.

They show which method is more robust to its hyperparameters, and which reaches most with little
tuning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from ray_unlearn.analysis.statistics.paired_difference import (
    FEWEST_TRIALS,
    Outcome,
    PairedDifference,
    Statistic,
    holm,
    paired_difference,
    pairs_of,
)
from ray_unlearn.analysis.statistics.robustness import (
    Floats,
    Measure,
    area_weights,
    best_weights,
    curve_ks,
    limit,
    own_best_proportion,
)
from ray_unlearn.analysis.statistics.selection import best_by_selection
from ray_unlearn.spec.errors import UserError


@dataclass(frozen=True)
class RobustnessClaim:
    """Three statistics on whether a is more robust to its hyperparameters than b, taken together.

    differences: share near the own best, share near the best known, area under the tuning curve.
    outcomes: each by its own interval. outcome: all three together by Holm, at the family's error;
        where two contradict, not settled.
    outcome_beyond: the same over groups, for groups like these; None below five.
    budget: the k of the first statistic and the last k of the third, one for all groups and both
        methods.
    """

    method_a: str
    method_b: str
    tolerance: float
    budget: int
    differences: tuple[PairedDifference, ...]
    outcomes: tuple[Outcome, ...]
    adjusted_p: tuple[float, ...]
    outcome: Outcome
    outcome_beyond: Outcome | None
    scope: str


def robustness_claim(
    trials: pd.DataFrame,
    method_a: str,
    method_b: str,
    tolerance: float,
    seed: int,
    *,
    family_error: float = 0.05,
    fallback: Mapping[str, float] | None = None,
    repeats: int = 2000,
) -> RobustnessClaim:
    """Whether `method_a` is more or less robust to its hyperparameters than `method_b`.

    Args:
        trials: `TrialTable.trials` `with_configurations`, of all methods: they set the best known.
        method_a, method_b: names of the methods.
        tolerance: tau, in units of the score.
        seed: of the random halves and deals.
        family_error: with which two methods that do the same are told apart by any statistic.
        fallback: by group, the score of doing nothing; where it is missing, the worst finite one
            of the group.
        repeats: random halves and deals.

    Raises:
        UserError: unknown method, no group to compare in, or no trial with a score in a group.
    """
    pairs = pairs_of(trials, method_a, method_b)
    budget = min(len(frame) for pair in pairs.values() for frame in pair) // 2
    best = best_by_selection(trials)
    if lost := [group for group in pairs if group not in best.index]:
        raise UserError(
            f"group {lost[0]!r}: no trial of any method has a score, so there is no best to be "
            "near to"
        )
    near_known = {
        group: _near_known_measure(float(best["score"][group]), tolerance) for group in pairs
    }
    chosen = frozenset(int(best["trial"][group]) for group in pairs)
    worst = trials[~trials["infeasible"]].groupby("group")["score"].max()
    fallbacks = {group: float((fallback or {}).get(group, worst[group])) for group in pairs}
    statistics = (
        Statistic(
            "share_within_own_best", True, dict.fromkeys(pairs, _own_measure(budget, tolerance))
        ),
        Statistic("share_within_best_known", True, near_known, chosen),
        Statistic(
            "area_under_tuning_curve",
            False,
            {group: _area_measure(budget, fallbacks[group]) for group in pairs},
        ),
    )
    differences = tuple(
        paired_difference(trials, method_a, method_b, statistic, seed + i, repeats=repeats)
        for i, statistic in enumerate(statistics)
    )
    intervals = [difference.over_trials for difference in differences]
    adjusted = holm([interval.p_value for interval in intervals])
    beyond = [d.over_groups for d in differences if d.over_groups is not None]
    return RobustnessClaim(
        method_a=method_a,
        method_b=method_b,
        tolerance=tolerance,
        budget=budget,
        differences=differences,
        outcomes=tuple(
            _outcome(d, settled=d.over_trials.low > 0 or d.over_trials.high < 0)
            for d in differences
        ),
        adjusted_p=tuple(adjusted.tolist()),
        outcome=_together(differences, adjusted, family_error),
        outcome_beyond=_together(differences, holm([i.p_value for i in beyond]), family_error)
        if beyond
        else None,
        scope=differences[0].scope,
    )


@dataclass(frozen=True)
class AllPairs:
    """Every two methods compared by the area under their tuning curves.

    P-values are adjusted for all pairs (Holm).

    budget: the last k of the curves, one for all groups and methods.
    """

    budget: int
    differences: tuple[PairedDifference, ...]
    adjusted_p: tuple[float, ...]


def all_pairs(
    trials: pd.DataFrame,
    methods: Sequence[str],
    seed: int,
    *,
    fallback: Mapping[str, float],
    repeats: int = 4000,
) -> AllPairs | None:
    """Compare all methods by the scores that they reach with little tuning.

    Arguments are as in `robustness_claim`. None if some two methods have no group in which both
    have enough trials.
    """
    drawn = trials[trials["drawn"] != "adaptive"]
    sizes = drawn[drawn["method"].isin(methods)].groupby(["method", "group"]).size()
    sizes = sizes[sizes >= FEWEST_TRIALS]
    if len(methods) < 2 or set(sizes.index.get_level_values("method")) != set(methods):
        return None
    budget = int(sizes.min()) // 2
    worst = trials[~trials["infeasible"]].groupby("group")["score"].max()
    groups = sizes.index.get_level_values("group").unique()
    statistic = Statistic(
        "area_under_tuning_curve",
        False,
        {
            str(g): _area_measure(budget, float(fallback.get(str(g), worst[g])))
            for g in groups
            if g in worst
        },
    )
    halves: dict[tuple[str, str], Floats] = {}
    try:
        found = tuple(
            paired_difference(trials, a, b, statistic, seed + i, repeats=repeats, halves=halves)
            for i, (a, b) in enumerate(combinations(methods, 2))
        )
    except UserError:
        return None
    return AllPairs(
        budget,
        found,
        tuple(holm([difference.over_trials.p_value for difference in found]).tolist()),
    )


def _own_measure(budget: int, tolerance: float) -> Measure:
    return lambda rows: own_best_proportion(rows, budget, tolerance)


def _near_known_measure(best: float, tolerance: float) -> Measure:
    return lambda rows: np.mean(rows <= limit(best, tolerance), axis=-1)


def _area_measure(budget: int, fallback: float) -> Measure:
    ks = curve_ks(budget)
    return lambda rows: (
        np.minimum(rows, fallback) @ (area_weights(ks) @ best_weights(rows.shape[-1], ks))
    )


def _outcome(difference: PairedDifference, *, settled: bool) -> Outcome:
    if not settled or difference.mean == 0:
        return "not settled"
    return "more robust" if (difference.mean > 0) == difference.larger_is_better else "less robust"


def _together(
    differences: Sequence[PairedDifference], adjusted: Floats, family_error: float
) -> Outcome:
    said = {
        _outcome(d, settled=p <= family_error) for d, p in zip(differences, adjusted, strict=True)
    } - {"not settled"}
    return said.pop() if len(said) == 1 else "not settled"

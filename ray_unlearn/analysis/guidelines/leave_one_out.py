"""Transfer: what a region derived on all other domains (or models) buys on the one left out.

Inside means: trials of the held-out group whose hyperparameters lie in the region derived without
that group. What k of them reach is compared with k trials of the full space and with the default,
the centre of the space. Everything is measured on trials that were run, and expectations over which
k trials one gets are exact (unbiased U-statistics).
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ray_unlearn.analysis.statistics.robustness import expected_best
from ray_unlearn.analysis.trained_models import held_out_by
from ray_unlearn.spec.guideline_file import Heldout

Box = Mapping[str, tuple[float, float]]
"""Core by hyperparameter, in natural units; a hyperparameter without a core is not in it. Censored
sides are infinite."""
LEAST_INSIDE = 2
"""A held-out group with fewer trials inside says nothing."""


@dataclass(frozen=True)
class HeldoutGroup:
    """One domain (or model), held out.

    Regrets are scores above the best known one of the group.
    """

    group: str
    box: Box
    n_inside: int
    n_trials: int
    inside_trials: int
    regret: float
    regret_full_space: float
    regret_default: float
    matches: int | None
    """Trials of the full space that do as well as those inside, in expectation; None: no number
    tried."""


def leave_one_out(
    trials: pd.DataFrame,
    derive: Callable[[tuple[str, ...]], Box | None],
    default: Callable[[str], float],
    inside_trials: int,
    nothing: Mapping[str, float],
) -> tuple[HeldoutGroup, ...]:
    """Hold out each domain (or model: `held_out_by`) in turn.

    Args:
        trials: of one method: `group`, `domain`, `model`, `score` (lower is better, NaN where
            infeasible), `infeasible`, hyperparameters.
        derive: the region from these groups alone; None where none can be claimed from them.
        default: the expected score of the default configuration in a group.
        inside_trials: k.
        nothing: by group, the score of doing nothing, which caps what a trial can cost; where it is
            not known, the worst score of the group does.

    Returns:
        Those that could be judged: a region was found without them and they have enough trials
        inside.
    """
    factor = held_out_by(trials)
    found = []
    for unit in sorted(set(trials[factor])):
        own = trials[trials[factor] == unit]
        others = tuple(sorted(set(trials["group"]) - set(own["group"])))
        box = derive(others) if others else None
        if not box:
            continue
        judged = [
            _judged(
                str(group), part, box, default(str(group)), inside_trials, nothing.get(str(group))
            )
            for group, part in own.groupby("group", sort=True)
        ]
        if known := [one for one in judged if one is not None]:
            found.append(_together(str(unit), known))
    return tuple(found)


def _together(unit: str, judged: Sequence[HeldoutGroup]) -> HeldoutGroup:
    """One domain on several models: means, and the most trials needed to match."""
    matches = [one.matches for one in judged]
    known = [count for count in matches if count is not None]
    return HeldoutGroup(
        unit,
        judged[0].box,
        sum(one.n_inside for one in judged),
        sum(one.n_trials for one in judged),
        min(one.inside_trials for one in judged),
        _mean(judged, "regret"),
        _mean(judged, "regret_full_space"),
        _mean(judged, "regret_default"),
        max(known) if len(known) == len(matches) else None,
    )


def _judged(
    group: str,
    own: pd.DataFrame,
    box: Box,
    default: float,
    inside_trials: int,
    nothing: float | None,
) -> HeldoutGroup | None:
    scores, infeasible = own["score"].to_numpy(dtype=float), own["infeasible"].to_numpy(dtype=bool)
    inside = inside_box(own, box)
    k = min(inside_trials, int(inside.sum()))
    if k < LEAST_INSIDE or infeasible.all():
        return None
    fallback = float(np.max(scores[~infeasible])) if nothing is None else nothing
    best = float(np.min(scores[~infeasible]))
    within = expected_best(scores[inside], infeasible[inside], k, fallback)

    def full(count: int) -> float:
        return expected_best(scores, infeasible, count, fallback)

    # The expected best falls with the number of trials, so the first number that does as well is
    # found by halving.
    counts = range(1, len(scores) + 1)
    matches = bisect_left(counts, True, key=lambda count: full(count) <= within) + 1
    return HeldoutGroup(
        group,
        box,
        int(inside.sum()),
        len(scores),
        k,
        within - best,
        full(k) - best,
        min(default, fallback) - best,
        matches if matches <= len(scores) else None,
    )


def inside_box(trials: pd.DataFrame, box: Box) -> NDArray[np.bool_]:
    """Which trials lie in the box."""
    inside = np.ones(len(trials), dtype=bool)
    for name, (low, high) in box.items():
        values = trials[name].to_numpy(dtype=float)
        inside &= (values >= low) & (values <= high)
    return inside


def heldout_summary(groups: Sequence[HeldoutGroup]) -> Heldout | None:
    """Evidence over all held-out groups; None where there is none."""
    if not groups:
        return None
    better = sum(group.regret < group.regret_full_space for group in groups)
    known = sorted(math.inf if group.matches is None else group.matches for group in groups)
    middle = float(np.median(known)) if math.isfinite(known[-1]) else known[len(known) // 2]
    return Heldout(
        groups=tuple(group.group for group in groups),
        better=better,
        trials_inside=min(group.inside_trials for group in groups),
        trials_outside=middle if math.isfinite(middle) else None,
        regret=_mean(groups, "regret"),
        regret_full_space=_mean(groups, "regret_full_space"),
        regret_default=_mean(groups, "regret_default"),
    )


def _mean(groups: Sequence[HeldoutGroup], name: str) -> float:
    return float(np.mean([getattr(group, name) for group in groups]))

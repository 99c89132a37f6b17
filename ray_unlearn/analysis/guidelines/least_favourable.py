"""Held-out results where it is not known what doing nothing scores.

Nobody deploys a worse model, so a trial costs at most what doing nothing does, and held-out regrets
depend on that. Where a table does not say it, the worst score stands in: then bad trials weigh the
most, the full space looks its worst, and a region passes that would not pass if it were known.
What is not known must not add a claim.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from ray_unlearn.analysis.guidelines.leave_one_out import Box, HeldoutGroup, leave_one_out
from ray_unlearn.analysis.trained_models import held_out_by

LEVELS = np.linspace(0.05, 0.95, 19)
"""Quantiles of a group's scores at which doing nothing may lie."""


def least_favourable(
    heldout: Sequence[HeldoutGroup],
    trials: pd.DataFrame,
    default: Callable[[str], float],
    inside_trials: int,
    nothing: Mapping[str, float],
) -> tuple[HeldoutGroup, ...]:
    """Held-out results, each at the score of doing nothing that contradicts it most.

    As they are where that score is known, or none contradicts.

    Args:
        heldout: results with the worst score for doing nothing where that is not known.
        trials, default, inside_trials, nothing: as `leave_one_out` had them.
    """
    feasible = trials[~trials["infeasible"]]
    unknown = [str(group) for group in sorted(set(feasible["group"])) if group not in nothing]
    if not heldout or not unknown:
        return tuple(heldout)
    boxes = _boxes(heldout, trials)
    scores = feasible.groupby("group")["score"]
    found = {one.group: one for one in heldout}
    for level in LEVELS:
        assumed = {str(group): float(value) for group, value in scores.quantile(level).items()}
        known = {group: assumed[group] for group in unknown} | dict(nothing)
        for one in leave_one_out(trials, boxes.get, default, inside_trials, known):
            if _margin(one) < min(0.0, _margin(found[one.group])):
                found[one.group] = one
    return tuple(found[one.group] for one in heldout)


def _boxes(
    heldout: Sequence[HeldoutGroup], trials: pd.DataFrame
) -> dict[tuple[str, ...], Box | None]:
    """The region derived from each set of groups, as `leave_one_out` asks for it."""
    factor = held_out_by(trials)
    groups = set(trials["group"])
    return {
        tuple(sorted(groups - set(trials.loc[trials[factor] == one.group, "group"]))): one.box
        for one in heldout
    }


def _margin(one: HeldoutGroup) -> float:
    """By how much the region does better than the full space and the default."""
    return min(one.regret_full_space, one.regret_default) - one.regret

"""The next trials: the configurations whose results would settle most of what is open."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.analysis.axes import Axis
from ray_unlearn.analysis.guidelines.group_parts import group_parts
from ray_unlearn.analysis.guidelines.method_findings import with_product
from ray_unlearn.analysis.guidelines.recommendations import setting_at
from ray_unlearn.analysis.statistics.isolation_profile import (
    LEAST_TRIALS,
    GroupPoints,
    surface_of,
    too_little,
)
from ray_unlearn.analysis.statistics.next_points import filling_points, informative_points
from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.guideline_file import Guideline, Value

Array = NDArray[np.float64]

OPEN = ("likely", "not_known")


@dataclass(frozen=True)
class NextTrial:
    """A configuration to run, and how much it tells.

    group: where to run it.
    values: of the hyperparameters that were searched.
    gain: expected fall of the variance of "is it good", summed over the open ranges of the method;
        None where too few trials make a surface, and the space is filled instead.
    """

    method: str
    group: str
    values: dict[str, Value]
    gain: float | None


def next_trials(
    table: TrialTable, guidelines: Sequence[Guideline], count: int, seed: int
) -> tuple[NextTrial, ...]:
    """The trials to run next, over all methods and groups, most telling first.

    Methods that have too few trials for a surface in a group come first, in turn, with
    quasi-random points, until they have enough for one. The others compete by what they gain.

    Args:
        table: trials so far.
        guidelines: statements about them.
        count: trials wanted.
        seed: of fits and draws.

    Raises:
        UserError: no range is open.
    """
    filling: list[tuple[float, int, NextTrial]] = []
    telling: list[tuple[float, int, NextTrial]] = []
    for method in table.methods:
        asked = {
            g.param
            for g in guidelines
            if g.kind == "range" and g.status in OPEN and (g.scope.method or "") == method
        }
        trials, axes = with_product(table.of(method), table.axes[method])
        axes = tuple(sorted(axes, key=lambda axis: axis.name))
        if not asked or not axes:
            continue
        for part in group_parts(table, trials, axes):
            ranked = telling
            points, gains = _told(part, axes, asked, table.score.tolerance, seed, count)
            if gains is None:
                ranked = filling
            for place, point in enumerate(points):
                gain = None if gains is None else float(gains[place])
                trial = NextTrial(method, part.group, setting_at(point, axes), gain)
                ranked.append((place if gain is None else -gain, place, trial))
    found = [
        trial
        for ranked in (filling, telling)
        for _, _, trial in sorted(ranked, key=lambda entry: entry[:2])
    ]
    if not found:
        raise UserError(
            "no range is open, so no trial would settle one: every hyperparameter that was "
            "searched has a claimed range or can be left alone; leave out --next"
        )
    return tuple(found[:count])


def _told(
    part: GroupPoints,
    axes: tuple[Axis, ...],
    asked: set[str | None],
    tolerance: float,
    seed: int,
    count: int,
) -> tuple[Array, Array | None]:
    """Points of one group and their gains; without gains, points that fill the space."""
    if too_little(part):
        missing = max(1, LEAST_TRIALS - len(part.scores))
        return filling_points(part.points, axes, seed, min(count, missing)), None
    indices = [j for j, axis in enumerate(axes) if axis.name in asked]
    surface = surface_of(part, axes, tolerance, seed)
    return informative_points(surface, part, axes, indices, tolerance, seed, count)

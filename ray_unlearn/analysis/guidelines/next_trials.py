"""The next trials: the configurations whose results would settle most of what is open."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.guidelines.recommendations import setting_at
from ray_unlearn.analysis.statistics.fitted_groups import FittedGroup
from ray_unlearn.analysis.statistics.next_points import filling_points, informative_points
from ray_unlearn.analysis.statistics.score_surface import ReorderedSurface
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.guideline_file import Guideline, Value
from ray_unlearn.surfaces.axes import Axis
from ray_unlearn.surfaces.processors import one_blas_thread

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


@one_blas_thread
def next_trials(
    findings: Findings, guidelines: Sequence[Guideline], count: int
) -> tuple[NextTrial, ...]:
    """The trials to run next, over all methods and groups, most telling first.

    Methods that have too few trials for a surface in a group come first, in turn, with
    quasi-random points, until they have enough for one. The others compete by what they gain.

    Args:
        findings: of the trials so far.
        guidelines: statements about them.
        count: trials wanted.

    Raises:
        UserError: no range is open.
    """
    filling: list[tuple[float, int, NextTrial]] = []
    telling: list[tuple[float, int, NextTrial]] = []
    for method, own in findings.methods.items():
        asked = {
            g.param
            for g in guidelines
            if g.kind == "range" and g.status in OPEN and (g.scope.method or "") == method
        }
        if not asked:
            continue
        for group, fit in own.fits.items():
            points, gains = _told(fit, own.axes, asked, findings, count)
            ranked = filling if gains is None else telling
            for place, point in enumerate(points):
                gain = None if gains is None else float(gains[place])
                trial = NextTrial(method, group, setting_at(point, own.axes), gain)
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
    fit: FittedGroup,
    axes: tuple[Axis, ...],
    asked: set[str | None],
    findings: Findings,
    count: int,
) -> tuple[Array, Array | None]:
    """Points of one group and their gains; without gains, points that fill the space.

    Neither depends on the order of the axes.
    """
    order = sorted(range(len(axes)), key=lambda j: axes[j].name)
    back = np.argsort(order)
    ordered = tuple(axes[j] for j in order)
    part = replace(fit.part, points=fit.part.points[:, order])
    if fit.surface is None or fit.reason is not None:
        missing = max(1, fit.least - len(part.scores))
        filling = filling_points(part.points, ordered, findings.seed, min(count, missing))
        return filling[:, back], None
    surface = ReorderedSurface(fit.surface, tuple(back.tolist()))
    points, gains = informative_points(
        surface,
        part,
        ordered,
        [j for j, axis in enumerate(ordered) if axis.name in asked],
        findings.table.score.tolerance,
        findings.seed,
        count,
    )
    return points[:, back], gains

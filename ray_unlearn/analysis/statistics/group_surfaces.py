"""One model of all groups: the surfaces of one method, which learn from each other's trials.

A domain or a trained model is one more input of the fit, with a length scale of its own: where
groups are alike each needs a fraction of the trials, where they differ the fit says so and each
stands alone.
"""

from collections.abc import Sequence

from ray_unlearn.analysis.statistics.response_surface import fit_response_surfaces
from ray_unlearn.analysis.statistics.score_surface import ScoreSurface
from ray_unlearn.surfaces.axes import Axis
from ray_unlearn.surfaces.component_surface import fit_component_surfaces
from ray_unlearn.surfaces.group_points import GroupPoints, seed_of

MOST_TOGETHER, MOST_WITH_CURVES = 450, 180
"""Trials, by scores alone or with their evaluations, up to which groups are fitted together: the
cost grows with the cube. Beyond them each group has enough of its own."""


def fitted_together(parts: Sequence[GroupPoints]) -> tuple[tuple[int, ...], ...]:
    """Indices of the groups that have one fit, group by group.

    Those with their evaluations, and those with scores alone.
    """
    found: list[tuple[int, ...]] = []
    for curves, most in ((True, MOST_WITH_CURVES), (False, MOST_TOGETHER)):
        own = [i for i, part in enumerate(parts) if (part.trajectories is not None) == curves]
        if sum(len(parts[i].scores) for i in own) > most:
            found += [(i,) for i in own]
        elif own:
            found.append(tuple(own))
    return tuple(found)


def surfaces_of(
    parts: Sequence[GroupPoints], axes: Sequence[Axis], tolerance: float, seed: int
) -> tuple[ScoreSurface, ...]:
    """The surfaces of the score of groups that are fitted together, one per group.

    From what the score is made of, where that is known. Neither order nor names of groups matter.

    Args:
        parts: one per group, each with a trial that has a score.
        axes: in the order of the coordinates.
        tolerance: tau > 0, in units of the score.
        seed: of the fit.
    """
    order = sorted(range(len(parts)), key=lambda i: seed_of([parts[i]], 0))
    sorted_parts = [parts[i] for i in order]
    own_seed = seed_of(parts, seed)
    fitted: Sequence[ScoreSurface]
    if parts[0].trajectories is not None:
        fitted = fit_component_surfaces(sorted_parts, axes, own_seed)
    else:
        choices = tuple(len(axis.choices) if axis.scale == "categorical" else 0 for axis in axes)
        fitted = fit_response_surfaces(sorted_parts, own_seed, choices, tolerance)
    return tuple(fitted[order.index(i)] for i in range(len(parts)))

"""What one method's groups say, fitted once: surfaces, profiles, and how well they predict."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.analysis.statistics.axis_effect import axis_effects
from ray_unlearn.analysis.statistics.group_surfaces import fitted_together, surfaces_of
from ray_unlearn.analysis.statistics.isolation_profile import (
    DRAWS,
    SPREAD,
    good_share_draws,
    greatest_cost,
    regret_draws,
    settings_of_others,
    surface_best,
)
from ray_unlearn.analysis.statistics.response_surface import ResponseSurface, as_seen
from ray_unlearn.analysis.statistics.score_surface import ReorderedSurface, ScoreSurface
from ray_unlearn.analysis.statistics.surface_check import SurfaceCheck, check_surface
from ray_unlearn.surfaces.axes import Axis
from ray_unlearn.surfaces.component_surface import ComponentSurface
from ray_unlearn.surfaces.group_points import (
    LEAST_AMONG,
    LEAST_TRIALS,
    GroupPoints,
    seed_of,
    too_little,
)
from ray_unlearn.surfaces.searched_points import completed, spread_points

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FittedGroup:
    """What one group says: fitted once, for regions, held-out results and recommendations.

    part: its trials.
    surface: of their score, in the order of the part's coordinates; None if no trial has one.
    seed: of its draws, the same for groups that were fitted together: their draws are joint.
    regrets: by axis, posterior draws [DRAWS, g] of the isolation profile less its value where its
        mean is least; () with a `reason`.
    costs: by axis, draws [DRAWS] of what the worst of its values costs, with all other
        hyperparameters as at the surface's best point; () with a `reason`.
    good_shares: draws [DRAWS] of the share of the space within the tolerance of the surface's best
        point; empty with a `reason`.
    effects: statistics [1 + permutations, axes] of whether an axis matters; empty with a `reason`.
    check: what the surface predicts of trials left out; None with a `reason`.
    default: expected score at the centre of the space; NaN if no trial has a finite score.
    """

    part: GroupPoints
    surface: ScoreSurface | None
    seed: int
    regrets: tuple[Array, ...]
    costs: tuple[Array, ...]
    good_shares: Array
    effects: Array
    check: SurfaceCheck | None
    default: float
    reason: str | None
    least: int
    """Trials from which it says something."""

    @property
    def n_used(self) -> int:
        """Trials that the surface rests on."""
        return 0 if self.surface is None else self.surface.n_used


@dataclass(frozen=True)
class _Together:
    """Groups that were fitted together, with axes in an order that does not depend on the caller's.

    places: of the groups among all; parts: the groups; axes, order: the axes, and which of the
    caller's each is.
    """

    places: tuple[int, ...]
    parts: tuple[GroupPoints, ...]
    surfaces: tuple[ScoreSurface, ...]
    axes: tuple[Axis, ...]
    order: tuple[int, ...]
    seed: int

    @property
    def least(self) -> int:
        """Trials from which one of the groups says something."""
        return _least(len(self.parts))

    def too_little(self, i: int) -> str | None:
        """Why group i says nothing; None if it does."""
        return too_little(self.parts[i], self.least)


def fit_groups(
    parts: Sequence[GroupPoints], axes: Sequence[Axis], tolerance: float, seed: int
) -> tuple[FittedGroup, ...]:
    """Fit the surfaces of one method in its groups, and draw their isolation profiles.

    Neither the order nor the names of trials, groups and axes matter.

    Args:
        parts: the trials of each group.
        axes: hyperparameters, in the order of the coordinates.
        tolerance: tau > 0, in units of the score.
        seed: of fits and draws; groups that are fitted together have joint draws.
    """
    found = {
        place: _said(together, i, tolerance)
        for together in _fitted(parts, axes, tolerance, seed)
        for i, place in enumerate(together.places)
    }
    # With scores, a group that has none would be fitted among those that have.
    least = _least(len(found) + 1)
    return tuple(
        replace(found[i], part=part)
        if i in found
        else _nothing(part, None, float("nan"), too_little(part, least), seed, least)
        for i, part in enumerate(parts)
    )


def regrets_of(
    parts: Sequence[GroupPoints], axes: Sequence[Axis], tolerance: float, seed: int
) -> tuple[tuple[Array, ...], ...]:
    """The regrets of `fit_groups` alone, by group; () for a group that says nothing."""
    found = {
        place: _regrets(together, i)
        for together in _fitted(parts, axes, tolerance, seed)
        for i, place in enumerate(together.places)
        if together.too_little(i) is None
    }
    return tuple(found.get(i, ()) for i in range(len(parts)))


def _fitted(
    parts: Sequence[GroupPoints], axes: Sequence[Axis], tolerance: float, seed: int
) -> Iterator[_Together]:
    assert tolerance > 0
    assert axes
    assert all(part.points.shape == (len(part.scores), len(axes)) for part in parts)
    scored = [i for i, own in enumerate(parts) if (np.isfinite(own.scores) & ~own.infeasible).any()]
    for some in fitted_together([parts[i] for i in scored]):
        places = tuple(scored[i] for i in some)
        points = np.concatenate([parts[i].points for i in places])
        columns = [tuple(np.sort(column)) for column in points.T]
        order = tuple(sorted(range(len(axes)), key=lambda j: (columns[j], axes[j].name)))
        ordered = tuple(axes[j] for j in order)
        turned = tuple(replace(parts[i], points=parts[i].points[:, order]) for i in places)
        surfaces = surfaces_of(turned, ordered, tolerance, seed)
        yield _Together(places, turned, surfaces, ordered, order, seed_of(turned, seed))


def _said(together: _Together, i: int, tolerance: float) -> FittedGroup:
    """What one of the groups says."""
    part, surface, axes, seed = (
        together.parts[i],
        together.surfaces[i],
        together.axes,
        together.seed,
    )
    centre = completed(np.array([[0.0 if k else 0.5 for k in surface.categorical]]), axes)
    default = float(surface.mean(centre)[0])
    as_given = ReorderedSurface(surface, together.order)
    reason = together.too_little(i)
    if reason is not None:
        return _nothing(part, as_given, default, reason, seed, together.least)
    best = surface_best(surface, part.points, axes, seed)
    back = [int(j) for j in np.argsort(together.order)]
    return FittedGroup(
        part,
        as_given,
        seed,
        _regrets(together, i),
        tuple(greatest_cost(surface, best, axes, j, seed) for j in back),
        good_share_draws(surface, best, spread_points(axes, SPREAD, seed), tolerance, seed),
        axis_effects(part.points, part.scores, part.infeasible, axes, tolerance, seed)[:, back],
        _check(surface, part, tolerance, seed),
        default,
        None,
        together.least,
    )


def _least(groups: int) -> int:
    """Trials from which each of some groups that are fitted together says something."""
    return LEAST_AMONG if groups > 1 else LEAST_TRIALS


def _regrets(together: _Together, i: int) -> tuple[Array, ...]:
    """Of one of the groups, in the caller's order of the axes."""
    surface, axes, seed = together.surfaces[i], together.axes, together.seed
    others = settings_of_others(surface, together.parts[i].points, axes, seed)
    return tuple(
        regret_draws(surface, others, axes, int(j), seed) for j in np.argsort(together.order)
    )


def _nothing(
    part: GroupPoints,
    surface: ScoreSurface | None,
    default: float,
    reason: str | None,
    seed: int,
    least: int,
) -> FittedGroup:
    """A group that says nothing about regions, and why."""
    empty = np.empty(0)
    return FittedGroup(part, surface, seed, (), (), empty, empty, None, default, reason, least)


def _check(surface: ScoreSurface, part: GroupPoints, tolerance: float, seed: int) -> SurfaceCheck:
    """What the surface predicts of trials left out."""
    if isinstance(surface, ResponseSurface):
        score = surface

        def left_out(left: NDArray[np.int_]) -> Array:
            return score.left_out_draws(left, seed, DRAWS)

        return check_surface(score.targets[score.own], left_out, seed)
    assert isinstance(surface, ComponentSurface)
    components = surface
    values, _ = as_seen(part.scores, part.infeasible, tolerance)
    rested = components.own
    rested = rested[np.lexsort((*part.points[rested].T, values[rested]))]

    def predict(left: NDArray[np.int_]) -> Array:
        own = components.without(rested[left])
        return np.minimum(own.predicted(part.points[rested[left]], seed, DRAWS), values.max())

    return check_surface(values[rested], predict, seed)

"""Isolation profiles of the trials of one group: the best score over all other hyperparameters.

The isolation profile of a hyperparameter (Tuning Playbook, "isolation plot") is taken from each
joint posterior draw of the response surface, less the minimum of the same draw: profile and minimum
belong to the same possible truth.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from ray_unlearn.analysis.axes import Axis
from ray_unlearn.analysis.statistics.response_surface import ResponseSurface, fit_response_surface

Array = NDArray[np.float64]

LEAST_TRIALS = 8

DRAWS = 256

GRID = 41

PROMISING = 16


@dataclass(frozen=True)
class GroupPoints:
    """Trials of one method in one group.

    Points [n, d] in unit coordinates, scores [n] (lower is better), infeasible [n].
    """

    group: str
    points: Array
    scores: Array
    infeasible: NDArray[np.bool_]


@dataclass(frozen=True)
class FittedGroup:
    """What one group says: fitted once, used in every leave-one-out set.

    regrets: by axis, posterior draws [DRAWS, g] of the isolation profile less its minimum; () with
        a `reason`.
    default: expected score at the centre of the space; NaN if no trial has a finite score.
    """

    group: str
    n_trials: int
    n_used: int
    regrets: tuple[Array, ...]
    default: float
    reason: str | None


def fit_group(part: GroupPoints, axes: Sequence[Axis], tolerance: float, seed: int) -> FittedGroup:
    """Fit the response surface of one group and draw its isolation profiles.

    Args:
        part: the trials of the group.
        axes: hyperparameters, in the order of the coordinates.
        tolerance: tau > 0, in units of the score.
        seed: of fit and draws; each group gets draws of its own.
    """
    assert tolerance > 0
    assert axes
    assert part.points.shape == (len(part.scores), len(axes))
    n_trials = len(part.scores)
    reason = _too_little(part)
    if not (np.isfinite(part.scores) & ~part.infeasible).any():
        return FittedGroup(part.group, n_trials, 0, (), float("nan"), reason)
    order = sorted(
        range(len(axes)), key=lambda j: (tuple(np.sort(part.points[:, j])), axes[j].name)
    )
    ordered, points = [axes[j] for j in order], part.points[:, order]
    # Groups get draws of their own whatever they are called and in whatever order they come.
    own_seed = int(
        np.random.SeedSequence([seed, zlib.crc32(np.sort(part.scores).tobytes())]).generate_state(
            1
        )[0]
    )
    categorical = tuple(len(axis.choices) if axis.scale == "categorical" else 0 for axis in ordered)
    surface = fit_response_surface(
        points, part.scores, part.infeasible, own_seed, categorical, tolerance
    )
    centre = np.array([[0.0 if k else 0.5 for k in categorical]])
    default = float(surface.mean(centre)[0])
    if reason is not None:
        return FittedGroup(part.group, n_trials, surface.n_used, (), default, reason)
    others = _settings_of_others(surface, points, ordered, own_seed)
    regrets = {
        order[j]: _regret(surface, others, j, axis, own_seed) for j, axis in enumerate(ordered)
    }
    return FittedGroup(
        part.group,
        n_trials,
        surface.n_used,
        tuple(regrets[j] for j in range(len(axes))),
        default,
        None,
    )


def _too_little(part: GroupPoints) -> str | None:
    """Why the group says nothing about regions; None if it does."""
    name = part.group or "the only group"
    finite = np.isfinite(part.scores) & ~part.infeasible
    if len(part.scores) < LEAST_TRIALS:
        return f"{len(part.scores)} trials in {name}, {LEAST_TRIALS} needed"
    if not finite.any():
        return f"no trial in {name} has a score"
    if finite.all() and np.ptp(part.scores) == 0:
        return f"every trial in {name} has the same score"
    return None


def profile_grid(axis: Axis) -> Array:
    """Unit coordinates [g] at which the profile is taken.

    Codes of choices, whole values, or even steps from bound to bound.
    """
    if axis.scale == "categorical":
        return np.arange(len(axis.choices), dtype=float)
    even = np.linspace(0, 1, GRID)
    return np.unique(axis.to_unit(np.round(axis.from_unit(even)))) if axis.whole else even


def _settings_of_others(
    surface: ResponseSurface, points: Array, axes: Sequence[Axis], seed: int
) -> Array:
    """Points [m, d] whose coordinates, less the one under study, the minimum is taken over.

    Quasi-random points over the whole space, and the trials that the surface holds for best.
    """
    if len(axes) == 1:
        return points[:1]
    count = 16 * 2 ** min(len(axes), 4)
    spread = qmc.Sobol(len(axes), seed=np.random.default_rng(seed)).random(count)
    for j, axis in enumerate(axes):
        if axis.scale == "categorical":
            spread[:, j] = np.floor(spread[:, j] * len(axis.choices))
    order = np.lexsort((*points.T, surface.mean(points)))
    return np.concatenate([points[order[: count // 4]], spread])


def _regret(surface: ResponseSurface, others: Array, j: int, axis: Axis, seed: int) -> Array:
    """Draws [DRAWS, g] of the isolation profile of axis j less the draw's minimum.

    At each value of the axis the minimum is over its promising settings of the others (by posterior
    mean) and a spread of the rest.
    """
    grid = profile_grid(axis)
    at = np.repeat(others[None], len(grid), axis=0)
    at[:, :, j] = grid[:, None]
    g, m, d = at.shape
    if m > 2 * PROMISING:
        expected = surface.rough_mean(at.reshape(-1, d)).reshape(g, m)
        expected[:, -PROMISING:] = np.inf
        kept = np.argsort(expected, axis=1, kind="stable")[:, :PROMISING]
        kept = np.concatenate([kept, np.tile(np.arange(m - PROMISING, m), (g, 1))], axis=1)
        at = np.take_along_axis(at, kept[:, :, None], axis=1)
        m = at.shape[1]
    draws = surface.draws(at.reshape(-1, d), seed, DRAWS).reshape(DRAWS, g, m)
    profile = draws.min(2)
    return np.asarray(profile - profile.min(1, keepdims=True))

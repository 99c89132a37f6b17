"""The trials of one method in one group, and the surface of their score."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.analysis.axes import Axis
from ray_unlearn.analysis.statistics.component_surface import fit_component_surface
from ray_unlearn.analysis.statistics.response_surface import fit_response_surface
from ray_unlearn.analysis.statistics.score_surface import ScoreSurface
from ray_unlearn.analysis.statistics.trajectories import Trajectories

Array = NDArray[np.float64]

LEAST_TRIALS = 8
LEAST_WITH_CURVES = 3
"""Trials with their evaluations from which a surface says what a setting costs at most, though not
yet where a hyperparameter is good."""


@dataclass(frozen=True)
class GroupPoints:
    """Trials of one method in one group.

    Points [n, d] in unit coordinates, scores [n] (lower is better), infeasible [n]; their
    evaluations, where it is known what the score is made of.
    """

    group: str
    points: Array
    scores: Array
    infeasible: NDArray[np.bool_]
    trajectories: Trajectories | None = None


def seed_of(part: GroupPoints, seed: int) -> int:
    """A seed for one group that depends on its scores, not on its name or place."""
    digest = zlib.crc32(np.sort(part.scores).tobytes())
    return int(np.random.SeedSequence([seed, digest]).generate_state(1)[0])


def surface_of(
    part: GroupPoints, axes: Sequence[Axis], tolerance: float, seed: int
) -> ScoreSurface:
    """The surface of the score of one group; `axes` in the order of its coordinates.

    From what the score is made of, where that is known.
    """
    own_seed = seed_of(part, seed)
    if part.trajectories is not None:
        return fit_component_surface(
            part.points, part.infeasible, part.trajectories, axes, own_seed
        )
    categorical = tuple(len(axis.choices) if axis.scale == "categorical" else 0 for axis in axes)
    return fit_response_surface(
        part.points, part.scores, part.infeasible, own_seed, categorical, tolerance
    )


def too_little(part: GroupPoints, least: int = LEAST_TRIALS) -> str | None:
    """Why the group has no surface; None if it has.

    `least` trials are needed: by default as many as regions rest on.
    """
    name = part.group or "the only group"
    finite = np.isfinite(part.scores) & ~part.infeasible
    if len(part.scores) < least:
        return f"{len(part.scores)} trials in {name}, {least} needed"
    if not finite.any():
        return f"no trial in {name} has a score"
    if finite.all() and np.ptp(part.scores) == 0:
        return f"every trial in {name} has the same score"
    return None

"""The trials of one method in one group, and the surface of their score."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.surfaces.trajectories import Trajectories

Array = NDArray[np.float64]

LEAST_TRIALS, LEAST_AMONG = 8, 5
"""Trials of a group, fitted alone or among others, from which it says where a hyperparameter is
good (docs/findings.md)."""
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


def seed_of(parts: Sequence[GroupPoints], seed: int) -> int:
    """A seed for groups that depends on their scores, not on their names or places."""
    digest = zlib.crc32(np.sort(np.concatenate([part.scores for part in parts])).tobytes())
    return int(np.random.SeedSequence([seed, digest]).generate_state(1)[0])


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

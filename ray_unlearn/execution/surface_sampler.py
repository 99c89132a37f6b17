"""Configurations chosen by surfaces of what the score is made of (decision 38).

Where guidelines narrowed a method's space, that is a belief and no wall: the first trials are the
warm start, and a gain outside counts little at first, more with each trial that has ended. Where
the guidelines mislead, what the surface sees outside outweighs it.

A suggestion is a function of the trials that have ended, of the points that are pending, and of a
seed: rows of running trials are no part of it, since a resumed study may have more of them.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.execution.drawn_points import Point
from ray_unlearn.execution.trial_curves import MethodSurfaces
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import Row
from ray_unlearn.surfaces.processors import one_blas_thread
from ray_unlearn.surfaces.promising_points import promising_points

OUTSIDE, BELIEVED = 0.01, 3.0
"""Weight of a gain outside the narrowed space once `BELIEVED` trials have ended; with n of them it
is `OUTSIDE` to the power `BELIEVED` / n: 0.25 after 10, 0.63 after 30."""


class SurfaceSampler:
    """The sampler of a study.

    Args:
        spec: of the study.
        baselines: as in `Record.baselines`; may be filled later.
    """

    def __init__(self, spec: StudySpec, baselines: Mapping[str, Row]) -> None:
        self.surfaces = MethodSurfaces(spec, baselines)
        self._trials: dict[str, dict[int, Trial]] = {method: {} for method in spec.methods}

    def tell(self, trial: Trial) -> None:
        """Take in a trial of the method's whole space, pending or ended."""
        self._trials[trial.method][trial.number] = trial

    @one_blas_thread
    def suggest(self, method: str, seed: int, count: int) -> list[Point]:
        """The most promising points, best first; none before there is a surface."""
        known = [trial for _, trial in sorted(self._trials[method].items())]
        ended = [trial for trial in known if trial.status not in (None, "failed")]
        surface = self.surfaces.of(method, ended)
        if surface is None:
            return []
        space = self.surfaces.spaces[method]
        tried = np.array([self.surfaces.unit(t) for t in known if t.status != "failed"])
        outside = OUTSIDE ** (BELIEVED / len(ended))

        def belief(units: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.where(self.surfaces.inside(method, units), 1.0, outside)

        found = promising_points(surface, tried, space.axes, space.settled, seed, count, belief)
        return [space.point(unit) for unit in found[0]]

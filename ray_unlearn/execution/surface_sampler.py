"""Configurations chosen by surfaces of what the score is made of (decision 38).

A suggestion is a function of the trials that have ended, of the points that are pending, and of a
seed: rows of running trials are no part of it, since a resumed study may have more of them.
"""

from collections.abc import Mapping

import numpy as np

from ray_unlearn.execution.drawn_points import Point
from ray_unlearn.execution.trial_curves import MethodSurfaces
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import Row
from ray_unlearn.surfaces.processors import one_blas_thread
from ray_unlearn.surfaces.promising_points import promising_points


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
        """Take in a trial of the space that is searched, pending or ended."""
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
        units, _ = promising_points(surface, tried, space.axes, space.settled, seed, count)
        return [space.point(unit) for unit in units]

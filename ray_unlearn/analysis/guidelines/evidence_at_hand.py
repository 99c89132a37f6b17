"""Which trials of a method a claim may rest on, and how many they are."""

import pandas as pd

from ray_unlearn.analysis.numerals import rounded
from ray_unlearn.analysis.statistics.surface_check import SurfaceCheck
from ray_unlearn.analysis.trained_models import trained_models
from ray_unlearn.spec.guideline_file import Evidence, LeftOut
from ray_unlearn.surfaces.axes import Axis


def from_space(trials: pd.DataFrame, axes: tuple[Axis, ...] = ()) -> pd.DataFrame:
    """Trials drawn from the space of a method.

    Those of a narrowed study's wider space are left out: they are no sample of this one.
    """
    return inside_space(trials[trials["drawn"] == "space"], axes)


def inside_space(trials: pd.DataFrame, axes: tuple[Axis, ...]) -> pd.DataFrame:
    """Trials inside the space of a method, however they were chosen."""
    chosen = pd.Series(True, index=trials.index)
    for axis in (axis for axis in axes if axis.scale != "categorical"):
        outside = (trials[axis.name] < axis.low * (1 - 1e-9)) | (
            trials[axis.name] > axis.high * (1 + 1e-9)
        )
        chosen &= ~outside
    return trials[chosen]


def evidence_of(
    trials: pd.DataFrame, everything: pd.DataFrame, check: SurfaceCheck | None = None
) -> Evidence:
    """The size of what a claim rests on, and how all trials of its method were chosen.

    Args:
        trials: that it rests on.
        everything: all trials of the method.
        check: of the response surface, where it rests on one.
    """
    kinds = set(everything["drawn"])
    drawn = int((everything["drawn"] == "space").sum())
    return Evidence(
        n_trials=len(trials),
        n_groups=max(trials["domain"].nunique(), trained_models(trials)),
        n_models=trained_models(trials),
        n_seeds=trials["seed"].nunique(),
        sampler="drawn from the space"
        if kinds == {"space"}
        else kinds.pop()
        if len(kinds) == 1
        else f"{drawn} of {len(everything)} drawn from the space, the others chosen by an "
        "adaptive sampler",
        left_out=None
        if check is None
        else LeftOut(trials=check.n, held=check.held, explained=rounded(check.explained)),
    )

"""What a study's model does on this machine: what it remembers, and how long it takes."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.schema import Metrics
from ray_unlearn.unlearn.architecture import model_config
from ray_unlearn.unlearn.checkpoint import NoCheckpointer, TrialState
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import HALVED_SPLITS, StudyData
from ray_unlearn.unlearn.evaluate import measured_vanilla
from ray_unlearn.unlearn.loop import unlearn
from ray_unlearn.unlearn.memory import parameter_count
from ray_unlearn.unlearn.plan import StudyPlan, longest, plan
from ray_unlearn.unlearn.workspace import Workspace

MOST_FLOPS = {"cpu": 1e12, "cuda": 1e15}
"""Of the forward passes of one evaluation that is tried: some seconds."""
UPDATES = 4
STARTING_S = 30.0
"""Seconds until the lanes of a small model run, measured on two cores."""


@dataclass(frozen=True)
class Tried:
    """Measured on this machine.

    Attributes:
        vanilla: the row of the vanilla model.
        evaluation_s: seconds of an evaluation.
        update_s: seconds of an update of the costliest kind.
        flops: that a plan counts for such an update.
    """

    vanilla: Metrics
    evaluation_s: float
    update_s: float
    flops: float

    def study_s(self, planned: StudyPlan) -> float:
        """Seconds that a study takes here at most: no trial is stopped, all lanes are alone."""
        updates = self.update_s * planned.update_flops / self.flops
        rows = planned.evaluations + planned.calibrations
        return STARTING_S + (updates + rows * self.evaluation_s) / planned.lanes


def tried_here(spec: StudySpec, data: StudyData) -> Tried | None:
    """Measure the vanilla model, and time an evaluation and an update.

    Args:
        spec: the study.
        data: its data; the model is on this machine.

    Returns:
        None where the model is too large to be tried in seconds.

    Raises:
        UserError: the model cannot be opened, or an update needs more memory than there is.
    """
    device = "cuda" if torch.cuda.is_available() and spec.operations.gpus_per_worker else "cpu"
    tokens = sum(data.splits[name].input_ids.size for name in ("forget", *HALVED_SPLITS))
    if 2.0 * parameter_count(model_config(spec)) * tokens > MOST_FLOPS[device]:
        return None
    workspace = Workspace.open(
        spec.model, data.as_dealt("balanced", {}), spec.evaluation.bare, spec.operations,
        Comm.single(), device,
    )  # fmt: skip
    workspace.reset()
    row = measured_vanilla(workspace).row
    method = max(spec.methods, key=lambda name: _update_flops(spec, name))
    update_s, evaluation_s = _timed(workspace, spec, method)
    return Tried(row, evaluation_s, update_s, _update_flops(spec, method))


def _update_flops(spec: StudySpec, method: str) -> float:
    """FLOPs that a plan counts for an update of a method."""
    alone = plan(spec.model_copy(update={"methods": (method,)}), lanes=1)
    return alone.update_flops / alone.updates


def _timed(workspace: Workspace, spec: StudySpec, method: str) -> tuple[float, float]:
    """Seconds of an update and of the evaluation after it, in a trial that hardly moves."""
    values = longest(spec, method).model_copy(update={"steps": UPDATES, "learning_rate": 1e-12})
    config = spec.trial_config(values, method, 0, "tried")
    config = config.model_copy(update={"evaluate_at": (UPDATES,)})
    watch = _StopWatch()
    try:
        next(unlearn(workspace, config, watch))
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"an update of {method} does not fit: {error}; try a smaller `batch_size`, "
            "`operations.micro_batch_size: 1`, or `model.lora: {rank: 16}`"
        ) from None
    rest = time.perf_counter() - watch.stamps[-1]
    update_s = float(np.diff(watch.stamps[1:]).min())  # the first makes what all others use
    return update_s, max(0.0, rest - update_s)


class _StopWatch(NoCheckpointer):
    """Stands where a trial's checkpoints are made, and takes the time."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def between_updates(self, state: TrialState) -> None:
        """Called before the first update, and after each."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.stamps.append(time.perf_counter())

"""What the halves of a study will hold and aim at, before it is run."""

import math

import numpy as np

from ray_unlearn.demo import demo_model, is_built
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.study_spec import StudySpec, is_local
from ray_unlearn.store.schema import HALVES, Metrics
from ray_unlearn.store.target import HalfTarget, half_targets
from ray_unlearn.unlearn.architecture import model_config
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import HALVED_SPLITS, StudyData
from ray_unlearn.unlearn.evaluate import measured_vanilla
from ray_unlearn.unlearn.halves import balanced_halves
from ray_unlearn.unlearn.memory import parameter_count
from ray_unlearn.unlearn.workspace import Workspace

LARGEST_MEASURED = 1e12
"""FLOPs of the forward passes that a plan may spend on the target: seconds on a CPU."""


def planned_halves(
    spec: StudySpec, data: StudyData
) -> tuple[tuple[HalfTarget, HalfTarget], Metrics]:
    """Selection and reporting half, dealt as a study would deal them, and the vanilla model's row.

    They come from the data and, where the vanilla model is small and runs on CPUs, from its loss.

    Args:
        spec: the study.
        data: its data; the model is on this machine.

    Returns:
        Where the model is too large to be asked here, `nll` is NaN and the row is empty; then
        lengths alone dealt the documents, and tokens may be a few others in the study.

    Raises:
        UserError: the model cannot be opened.
    """
    data = data.as_dealt("balanced", {})
    if _is_small(spec, data):
        workspace = Workspace.open(
            spec.model, data, spec.evaluation.bare, spec.operations, Comm.single()
        )
        workspace.reset()
        vanilla = measured_vanilla(workspace).row
        if (measured := half_targets(vanilla)) is not None:
            return measured, vanilla
    tokens = data.evaluated("approximate").target_document
    sizes = np.bincount(tokens).astype(np.float64)
    chosen = balanced_halves(sizes, sizes)
    selection, reporting = (
        HalfTarget(half, math.nan, documents=int(own.sum()), tokens=int(sizes[own].sum()))
        for half, own in zip(HALVES, (chosen, ~chosen), strict=True)
    )
    return (selection, reporting), {}


def model_is_here(model: ModelSpec) -> bool:
    """Whether a model is a folder, or a demo model that was built."""
    source = model.source
    return is_built(*demo_model(source)) if source.startswith("demo:") else is_local(source)


def data_are_here(spec: StudySpec) -> bool:
    """Whether no documents are on the hub."""
    sources = (*spec.data.sources.values(), *spec.evaluation.sources.values())
    return all(source.hub is None for source in sources)


def _is_small(spec: StudySpec, data: StudyData) -> bool:
    if spec.operations.gpus_per_worker or spec.operations.head == "liger":
        return False
    tokens = sum(data.splits[name].input_ids.size for name in ("forget", *HALVED_SPLITS))
    return 2.0 * parameter_count(model_config(spec)) * tokens <= LARGEST_MEASURED

"""The world of a real study: a `Workspace` with model and data on the lane's device."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
import ray.train.torch

from ray_unlearn.execution.lane import World
from ray_unlearn.results.schema import Row
from ray_unlearn.spec.study import StudySpec
from ray_unlearn.spec.trial import TrialConfig
from ray_unlearn.unlearn.baselines import measure_baselines
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.loop import Ended, unlearn
from ray_unlearn.unlearn.workspace import Workspace


@dataclass(frozen=True)
class OpenStudy:
    """Opens the world on a lane's worker. The data lie in the object store: one copy per node, read by all its lanes."""

    spec: StudySpec
    data: ray.ObjectRef

    def __call__(self, comm: Comm) -> World:
        """Load model and data; tens of milliseconds to minutes, once per start of a lane."""
        device = str(ray.train.torch.get_device()) if self.spec.operations.gpus_per_worker else "cpu"
        data = ray.get(self.data)
        workspace = Workspace.open(self.spec.model, data, self.spec.evaluation, self.spec.operations, comm, device)
        return _StudyWorld(self.spec, workspace)


class _StudyWorld:
    def __init__(self, spec: StudySpec, workspace: Workspace) -> None:
        self._spec = spec
        self._workspace = workspace

    def prepare(self, baselines: bool) -> tuple[dict[str, Row], Any]:
        rows = measure_baselines(self._workspace, self._spec.model) if baselines else {}
        labels = self._workspace.adversarial_labels if "adversarial_samples" in self._spec.methods else None
        return rows, labels

    def adopt(self, shared: Any) -> None:
        if shared is not None:
            self._workspace.adversarial_labels = shared

    def trial(self, config: TrialConfig) -> Iterator[Row | Ended]:
        return unlearn(self._workspace, config)

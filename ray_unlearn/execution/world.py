"""The world of a real study: a `Workspace` with model and data on the lane's device."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train.torch

from ray_unlearn.execution.lane import Job, World
from ray_unlearn.results.files import best_file, checkpoint_file
from ray_unlearn.results.scan import header_file
from ray_unlearn.results.schema import Row
from ray_unlearn.spec.study import StudySpec
from ray_unlearn.spec.trial import TrialConfig
from ray_unlearn.unlearn.baselines import measure_baselines
from ray_unlearn.unlearn.checkpoint import Checkpoints, save_weights
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.loop import Ended, unlearn
from ray_unlearn.unlearn.workspace import Workspace


@dataclass(frozen=True)
class OpenStudy:
    """Opens the world on a lane's worker. The data lie in the object store: one copy per node, read by all its lanes."""

    spec: StudySpec
    data: ray.ObjectRef
    folder: Path | None = None
    """The study directory, for checkpoints and kept weights; None keeps none."""
    header: str = ""
    """Digest of the ledger's header: a node that has another folder of that name does not write into it."""

    def __call__(self, comm: Comm) -> World:
        """Load model and data; tens of milliseconds to minutes, once per start of a lane."""
        device = str(ray.train.torch.get_device()) if self.spec.operations.gpus_per_worker else "cpu"
        data = ray.get(self.data)
        workspace = Workspace.open(self.spec.model, data, self.spec.evaluation, self.spec.operations, comm, device)
        return _StudyWorld(self.spec, workspace, self._reachable(comm))

    def _reachable(self, comm: Comm) -> Path | None:
        """The study directory, if every worker of the lane sees it (one machine, or a shared file system)."""
        seen = self.folder is not None and bool(self.header) and header_digest(self.folder) == self.header
        answers = comm.gather(seen)
        return self.folder if comm.broadcast(answers is not None and all(answers)) else None


def header_digest(folder: Path) -> str:
    """Tells studies apart; empty when there is none."""
    try:
        return hashlib.sha256(header_file(folder / "ledger").read_bytes()).hexdigest()
    except OSError:
        return ""


class _StudyWorld:
    def __init__(self, spec: StudySpec, workspace: Workspace, folder: Path | None) -> None:
        self._spec = spec
        self._workspace = workspace
        self._folder = folder

    def prepare(self, baselines: bool) -> tuple[dict[str, Row], Any]:
        rows = measure_baselines(self._workspace, self._spec.model) if baselines else {}
        labels = self._workspace.adversarial_labels if "adversarial_samples" in self._spec.methods else None
        return rows, labels

    def adopt(self, shared: Any) -> None:
        if shared is not None:
            self._workspace.adversarial_labels = shared

    def trial(self, config: TrialConfig, job: Job) -> Iterator[Row | Ended]:
        every_s = self._spec.operations.checkpoint_every_s
        path = checkpoint_file(self._folder, job.number) if self._folder is not None and every_s is not None else None
        keeper = Checkpoints(
            path,
            every_s,
            frozenset(job.known),
            wanted=job.checkpoint_wanted,
            restored=job.restored,
            saved=job.checkpoint_saved,
            failed=job.checkpoint_failed,
            writes=self._workspace.comm.rank == 0,
        )
        return unlearn(self._workspace, config, keeper)

    def keep(self, number: int, update: int) -> dict[str, Any] | None:
        if self._folder is None:
            return None
        name = best_file(number, update)
        try:
            return {"update": update, "file": name} | save_weights(self._workspace.trained.kept(), self._folder / name)
        except OSError:  # a full disk: `export` makes the model by running the trial again
            return None

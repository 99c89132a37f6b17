"""The workspace of a real study's lane: a `Workspace` with model and data on its device."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train.torch

from ray_unlearn.execution.lane import LaneWorkspace, Rows, RunningTrial
from ray_unlearn.execution.messages import BestWeights, Prepared
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.files import best_file, checkpoint_file
from ray_unlearn.store.schema import AS_TRAINED, RowKey
from ray_unlearn.store.storage import FolderStorage, Storage
from ray_unlearn.store.working_copy import header_digest_of
from ray_unlearn.unlearn.baselines import measure_baselines, recall_retrained
from ray_unlearn.unlearn.calibration import Calibration, calibration_of
from ray_unlearn.unlearn.checkpoint import Checkpoints, attempt_file, save_weights
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.loop import unlearn
from ray_unlearn.unlearn.model import load_model
from ray_unlearn.unlearn.screening import Screening
from ray_unlearn.unlearn.sharded_checkpoint import ShardedCheckpoints
from ray_unlearn.unlearn.weight_sharing import SharedModel
from ray_unlearn.unlearn.workspace import Workspace

LARGEST_SHARE = 0.3
"""Largest fraction of a node's object store for weights.

With more, data and hidden states would be pushed out to disk.
"""


@dataclass(frozen=True)
class OpenStudy:
    """A call that opens the workspace on a lane's worker.

    Data and weights are in the object store: one copy per node, which all its lanes read.
    """

    spec: StudySpec
    data: ray.ObjectRef
    model: ray.ObjectRef | None = None
    """The vanilla model's weights, a `SharedModel`; None: each worker loads them."""
    storage: Storage | None = None
    """The study's storage, for checkpoints and best weights; None: neither is written."""
    header: str = ""
    """Digest of the ledger's header; a node with another study's folder does not write into it."""
    session: int = 0
    """The ledger's fence, so that an earlier run's checkpoints cannot replace those of this one."""

    def __call__(self, comm: Comm) -> LaneWorkspace:
        """Load model and data, once per start of a lane; takes tens of milliseconds to minutes."""
        device = (
            str(ray.train.torch.get_device()) if self.spec.operations.gpus_per_worker else "cpu"
        )
        data = ray.get(self.data)
        model = None if self.model is None else ray.get(self.model)
        spec = self.spec
        workspace = Workspace.open(
            spec.model, data, spec.evaluation, spec.operations, comm, device, model
        )
        return StudyWorkspace(self.spec, workspace, self._reachable(comm), self.session)

    def _reachable(self, comm: Comm) -> Storage | None:
        """The study's storage, if every worker of the lane can reach it.

        They can on one machine, a shared file system or an object store.
        """
        seen = (
            self.storage is not None
            and bool(self.header)
            and header_digest_of(self.storage) == self.header
        )
        answers = comm.gather(seen)
        return self.storage if comm.broadcast(answers is not None and all(answers)) else None


def shared_model(spec: StudySpec) -> ray.ObjectRef | None:
    """The vanilla weights in the object store, for lanes that read them there.

    None if that saves nothing (one process, or weights that go to a device), or if they would fill
    the store.
    """
    operations = spec.operations
    if operations.gpus_per_worker or (operations.lanes, operations.workers_per_lane) == (1, 1):
        return None
    model = SharedModel.of(load_model(spec.model))
    stores = [
        node["Resources"].get("object_store_memory", 0.0) for node in ray.nodes() if node["Alive"]
    ]
    return ray.put(model) if model.nbytes < LARGEST_SHARE * min(stores, default=0.0) else None


class StudyWorkspace:
    """The `LaneWorkspace` of a real study."""

    def __init__(
        self, spec: StudySpec, workspace: Workspace, storage: Storage | None, session: int
    ) -> None:
        self._session = session
        self._spec = spec
        self._workspace = workspace
        self._storage = storage
        self._scratch = tempfile.TemporaryDirectory(
            prefix="ray-unlearn-lane-", ignore_cleanup_errors=True
        )

    def _path(self, name: str) -> Path:
        """Where this machine writes a file of the study, in its storage or to be copied there."""
        if isinstance(self._storage, FolderStorage):
            return self._storage.path(name)
        return Path(self._scratch.name) / name

    def prepare(self, baselines: bool) -> Prepared:
        """See `LaneWorkspace`."""
        workspace = self._workspace
        to_deal = workspace.data.to_deal
        rows = measure_baselines(workspace, self._spec.model) if baselines else {}
        if not baselines:
            recall_retrained(workspace, self._spec.model)
        quantities = workspace.quantities(self._spec.methods)
        halves = workspace.data.halves if to_deal else {}
        return Prepared(rows, quantities, tuple(workspace.notes), halves)

    def adopt(self, shared: Any) -> None:
        """See `LaneWorkspace`."""
        self._workspace.adopt(shared)

    def trial(self, config: TrialConfig, running: RunningTrial) -> Rows:
        """See `LaneWorkspace`."""
        every_s = self._spec.operations.checkpoint_every_s
        wanted = self._storage is not None and every_s is not None
        path = self._path(checkpoint_file(running.number)) if wanted else None
        path = None if path is None else attempt_file(path, self._session, running.attempt)
        shelf = (
            _Shelf(self._storage, running.number)
            if self._storage is not None and self._storage.remote
            else None
        )
        comm = self._workspace.comm
        kind = partial(ShardedCheckpoints, comm) if self._workspace.sharded else Checkpoints
        checkpoints = kind(
            path,
            every_s,
            frozenset(row.update for row in running.order.known if row.strength == AS_TRAINED),
            wanted=running.checkpoint_wanted,
            restored=running.restored,
            saved=running.checkpoint_saved,
            failed=running.checkpoint_failed,
            writes=comm.rank == 0,
            shelf=shelf,
        )
        calibration, screening = self._calibration(config, running), self._screening(running)
        return unlearn(self._workspace, config, checkpoints, calibration, screening)

    def _screening(self, running: RunningTrial) -> Screening | None:
        incumbent, share = running.order.incumbent, self._spec.evaluation.screen
        if incumbent is None or share is None:
            return None
        weights = self._spec.objective.weights
        return Screening(share, incumbent.score, incumbent.vanilla, weights)

    def _calibration(self, config: TrialConfig, running: RunningTrial) -> Calibration | None:
        target = running.order.target
        if target is None:
            return None
        known = ((row.update, row.strength, row.forget_nll) for row in running.order.known)
        first = self._spec.spaces[config.method].first_candidate(config.steps)
        return calibration_of(self._workspace, config, first, target, known)

    def save_weights(self, number: int, key: RowKey) -> BestWeights | None:
        """See `LaneWorkspace`."""
        if self._storage is None:
            return None
        name = best_file(number, *key)
        tensors = self._workspace.policy.weights()  # sharded: every rank takes part
        if self._workspace.comm.rank != 0:
            return None
        path = self._path(name)
        try:
            about = save_weights(tensors, path)
            if self._storage.remote:
                self._storage.put(path, name)
                path.unlink()
        except OSError:  # a full disk: `export` makes the model by running the trial again
            return None
        return BestWeights(number, key[0], name, **about, strength=key[1])


class _Shelf:
    """A trial's checkpoints in the study's storage, each under its local name."""

    def __init__(self, storage: Storage, number: int) -> None:
        self._storage = storage
        self._under = checkpoint_file(number).rpartition("/")[0]

    def fetch(self, folder: Path, wanted: Callable[[str], bool]) -> None:
        for path in folder.iterdir():  # files of an earlier attempt on this machine
            path.unlink()
        for file in self._storage.files(self._under):
            path = folder / file.name.rpartition("/")[2]
            if wanted(path.name):
                self._storage.fetch(file.name, path)
            else:
                path.touch()

    def store(self, path: Path) -> None:
        self._storage.put(path, f"{self._under}/{path.name}")

    def drop(self, path: Path) -> None:
        self._storage.remove(f"{self._under}/{path.name}")

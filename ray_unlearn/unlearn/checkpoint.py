"""A trial's state between two updates, saved so that a trial can continue where it was cut off.

A checkpoint holds weights, optimizer, random state and the meter. The data position needs no place
of its own: which sequences an update uses follows from (seed, update). With one worker on a CPU a
trial that continues from a checkpoint gives the rows of an undisturbed one, bit for bit.

Each attempt at a trial writes a file of its own, named by its fence: the ledger's token and the
attempt's number. One that was given up, on a host that was cut off or a process that was stopped,
may still be writing when the next one is at work; it cannot replace what that one has written. An
attempt continues from the file with the highest fence, and deletes those with a lower one once it
has its own.
"""

import hashlib
import re
import time
import zipfile
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch

from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.spec.trial_id import flat_id
from ray_unlearn.store.atomic_write import whole_file
from ray_unlearn.unlearn.calibration import Calibration
from ray_unlearn.unlearn.meter import Meter
from ray_unlearn.unlearn.optimizer import load_state, local, state_of
from ray_unlearn.unlearn.workspace import Workspace

VERSION = 2
FENCE = re.compile(r"last(?:\.(\d+)-(\d+))?(?=[.-])")


class TrialState:
    """All that changes while a trial runs."""

    def __init__(
        self,
        workspace: Workspace,
        config: TrialConfig,
        optimizer: torch.optim.Optimizer,
        meter: Meter,
        calibration: Calibration | None = None,
    ) -> None:
        self.config = config
        self.meter = meter
        self._calibration = calibration
        self._workspace = workspace
        self._optimizer = optimizer

    def save(self, path: Path) -> None:
        """Write to `path`, whole or not at all; of sharded tensors this rank's part.

        Raises:
            OSError: no room, or no permission.
        """
        workspace = self._workspace
        content = {
            "version": VERSION,
            "trial_id": self.config.id,
            "parameters": [local(p) for p in workspace.parameters],
            "buffers": list(workspace.policy.model.buffers()),
            "optimizer": state_of(self._optimizer),
            "random": torch.get_rng_state(),
            "meter": self.meter.state(),
            "calibrated": () if self._calibration is None else self._calibration.known,
        }
        # A trial that has its outcome has no folder: a late attempt must not make one.
        with whole_file(path, make_folder=False) as draft, open(draft, "wb") as file:
            torch.save(content, file)

    def restore(self, path: Path, known: Container[int]) -> bool:
        """Take over the state in `path`; False, and nothing changed, when it cannot be used."""
        content = self.read(path, known)
        if content is not None:
            self.take(content)
        return content is not None

    def read(self, path: Path, known: Container[int]) -> dict[str, Any] | None:
        """The state in `path`; None when it cannot be used.

        Args:
            path: written by `save`. A file that is torn, of another trial or of another version is
                of no use.
            known: updates whose rows are recorded. A checkpoint that is ahead of a row that is not
                is of no use either: the row would be missing for good.
        """
        # Mapped, a state that goes to a GPU takes no memory here: 63 GiB a worker at 7 B.
        mapped = self._workspace.device.type != "cpu"
        try:
            with zipfile.ZipFile(path) as archive:
                # Torch does not look at the checksums that it writes.
                if archive.testzip() is not None:
                    return None
            content: dict[str, Any] = torch.load(
                path, map_location="cpu", weights_only=True, mmap=mapped
            )
            ids = (self.config.id, flat_id(self.config))  # a study of schema 2 is resumed
            if content["version"] != VERSION or content["trial_id"] not in ids:
                return None
            if any(
                update < content["meter"]["update"] and update not in known
                for update in self.config.evaluate_at
            ):
                return None
            if not set(content.get("calibrated", ())) <= self._calibrated():
                return None
        # A damaged or planted file fails in any way: torch alone raises eight kinds.
        except Exception:
            return None
        return content

    def _calibrated(self) -> set[int]:
        return set() if self._calibration is None else set(self._calibration.known)

    @torch.no_grad()
    def take(self, content: dict[str, Any]) -> None:
        """Continue from what `read` gave."""
        workspace = self._workspace
        for mine, theirs in zip(workspace.parameters, content["parameters"], strict=True):
            local(mine).copy_(theirs)
        for mine, theirs in zip(workspace.policy.model.buffers(), content["buffers"], strict=True):
            mine.copy_(theirs)
        load_state(self._optimizer, content["optimizer"])
        torch.set_rng_state(content["random"])
        self.meter.restore(content["meter"])


class Checkpointer(Protocol):
    """What the loop needs of whoever keeps checkpoints."""

    known: Container[int]
    """Updates whose rows are recorded already: they are not evaluated again."""

    def restore(self, state: TrialState) -> None:
        """Called once, before the first update."""

    def between_updates(self, state: TrialState) -> None:
        """Called after each update, and after its row was dealt with."""


class NoCheckpointer:
    """A trial that starts at its beginning and leaves nothing behind."""

    known: Container[int] = ()

    def restore(self, state: TrialState) -> None:
        """Nothing to restore."""

    def between_updates(self, state: TrialState) -> None:
        """Nothing to save."""


class Shelf(Protocol):
    """Storage of checkpoints that all machines can reach.

    It is used if the folder that checkpoints are written to belongs to this machine alone.
    """

    def fetch(self, folder: Path, wanted: Callable[[str], bool]) -> None:
        """Bring the trial's files into `folder`, those that are not wanted as empty files.

        Raises:
            OSError: a file cannot be fetched.
        """

    def store(self, path: Path) -> None:
        """Put a file there; raises OSError."""

    def drop(self, path: Path) -> None:
        """Take the file of that name away; raises OSError."""


SHARE = 0.1
"""Of a trial's time that checkpoints may take: one that lasts 10 s is not written again for 90
s."""


class Checkpoints:
    """Keeps a trial's last state in one file.

    Every rank has one, for all read the file; only rank 0 writes, since all ranks hold the same
    state.

    Args:
        path: this attempt's file (`attempt_file`); None keeps nothing (the folder cannot be seen
            from here), but still asks `wanted`.
        every_s: least seconds between two checkpoints, more where they last long (see `SHARE`);
            None: only when wanted.
        known: as in `Checkpointer`.
        wanted: called with each update; True asks for a checkpoint now.
        restored: called with the update that the trial continues from.
        saved: called with each checkpoint's update.
        failed: called with the reason why one could not be written; the trial continues.
        writes: False on all ranks but 0.
        shelf: of a study in an object store.
    """

    def __init__(
        self,
        path: Path | None,
        every_s: float | None,
        known: Container[int],
        wanted: Callable[[int], bool],
        restored: Callable[[int], None],
        saved: Callable[[int], None],
        failed: Callable[[str], None],
        writes: bool = True,
        shelf: Shelf | None = None,
    ) -> None:
        self.known = known
        self._shelf = shelf
        self._lasted = 0.0
        self._path = path
        self._every_s = every_s
        self._wanted = wanted
        self._restored = restored
        self._saved = saved
        self._failed = failed
        self._writes = writes
        self._last = time.monotonic()
        self._warned = False

    def restore(self, state: TrialState) -> None:
        """From the last attempt's file that can be used."""
        if self._path is None:
            return
        self._fetch()
        for path in attempts(self._path):
            if state.restore(path, self.known):
                self._restored(state.meter.update)
                return

    def between_updates(self, state: TrialState) -> None:
        """Save when asked to, or when `every_s` have passed."""
        update = state.meter.update
        wanted = self._wanted(update)
        if not self._writes or not (wanted or self._is_due()) or update == state.config.steps:
            return
        if self._path is None:
            if wanted:
                self._saved(update)  # nobody should wait for what cannot be
            return
        self._last = time.monotonic()
        problem = ""
        try:
            self._save(state, self._path)
            for older in attempts(self._path)[1:]:
                self._drop(older)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError where the disk is full
            problem = first_line(error)
        self._tell(update, wanted, problem)

    def _is_due(self) -> bool:
        if self._every_s is None:
            return False
        # 0: after every update, come what may.
        pause = max(self._every_s, self._lasted / SHARE) if self._every_s else 0.0
        return time.monotonic() - self._last >= pause

    def _save(self, state: TrialState, path: Path) -> None:
        began = time.monotonic()
        try:
            state.save(path)
            if self._shelf is not None:
                self._shelf.store(path)
        finally:  # a storage that does not answer takes its share too, and no more
            self._lasted = time.monotonic() - began

    def _fetch(self) -> None:
        """A shelf that does not answer costs the trial its checkpoint, not its life.

        The folder is made here and not when saving: once the trial is over it is gone, and who
        writes then came too late.
        """
        assert self._path is not None
        with suppress(OSError):  # saving will say so
            self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._shelf is not None:
            try:
                self._shelf.fetch(self._path.parent, self._reads)
            except OSError as error:
                if self._writes:
                    self._failed(f"its checkpoint cannot be read: {first_line(error)}")

    def _reads(self, name: str) -> bool:
        """Whether this rank may continue from the file of that name."""
        return True

    def _drop(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        if self._shelf is not None:
            with suppress(OSError):  # a leftover: the study's end removes it
                self._shelf.drop(path)

    def _tell(self, update: int, wanted: bool, problem: str) -> None:
        """Report that there is a checkpoint, or that there is none.

        A failure is reported once, and later only if a checkpoint was asked for.
        """
        if problem and not self._warned:
            self._failed(f"no checkpoint of update {update}: {problem}")
            self._warned = True
        elif not problem or wanted:
            self._saved(update)


def attempt_file(path: Path, session: int, attempt: int) -> Path:
    """Where one attempt keeps its state: `last.pt` -> `last.3-1.pt`.

    Args:
        path: of the trial.
        session: the ledger's fencing token, higher in each run of the study.
        attempt: of the trial, in this session.
    """
    return path.with_name(f"{path.stem}.{session}-{attempt}{path.suffix}")


def attempt_of(file: Path) -> Path:
    """The `attempt_file` that a checkpoint, or a part of one, belongs to."""
    found = FENCE.match(file.name)
    return file if found is None else file.with_name(f"{found[0]}{file.suffix}")


def fence(file: Path) -> tuple[int, int]:
    """Session and attempt of a checkpoint; (0, 0) for one whose name has none."""
    found = FENCE.match(file.name)
    return (0, 0) if found is None or found[1] is None else (int(found[1]), int(found[2]))


def attempts(path: Path) -> list[Path]:
    """This attempt's file and those of earlier ones that have left something, the latest first."""
    there = {attempt_of(file) for file in path.parent.glob("last*.pt")}
    return [
        path,
        *sorted((other for other in there if fence(other) < fence(path)), key=fence, reverse=True),
    ]


def first_line(error: Exception) -> str:
    """Why something could not be written."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def save_weights(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """Write a policy's tensors as safetensors, whole or not at all.

    Args:
        tensors: those in which it differs from the vanilla model (`Policy.weights`).
        path: the file.

    Returns:
        `sha256` and `bytes` of the file.

    Raises:
        OSError: no room, or no permission.
    """
    from safetensors.torch import save_file

    with whole_file(path) as draft:
        draft.touch()
        mode = draft.stat().st_mode
        save_file(tensors, draft)
        draft.chmod(mode)  # safetensors makes files that their owner alone can read
        with open(draft, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = draft.stat().st_size
    return {"sha256": sha256, "bytes": size}

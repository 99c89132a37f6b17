"""The resources of a trial, for its rows: tokens, FLOPs, seconds, memory."""

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.schema import AS_TRAINED, Metrics, Row, check_row
from ray_unlearn.store.study_columns import extra_names
from ray_unlearn.unlearn.methods import Term
from ray_unlearn.unlearn.workspace import Workspace


class Meter:
    """The resources that a trial has used so far, and the losses of its last update."""

    def __init__(self, workspace: Workspace, config: TrialConfig) -> None:
        self.update = 0
        """Updates made."""
        self._workspace = workspace
        self._config = config
        self._cost = workspace.update_cost
        self._tokens = {"forget": 0, "retain": 0}
        self._flops = 0.0
        self._learning_rate_sum = 0.0
        self._wall_s = 0.0
        self._evaluation_wall_s = 0.0
        self._last: dict[str, float] = {}
        self._mark = time.perf_counter()
        workspace.restart_peak_memory()

    def start_update(self) -> int:
        """Start the clock of an update; returns its number, from 1."""
        self._mark = time.perf_counter()
        return self.update + 1

    def count(self, term: Term, consumed: int, lengths: NDArray[np.int64], targets: int) -> None:
        """Count a global batch of one term; of those on the forget set `forget` alone counts.

        Args:
            term: the term.
            consumed: targets of the documents that are forgotten or retained.
            lengths: of the documents that are passed through the model, [documents].
            targets: of these.
        """
        if term.name == "forget" or term.split in ("retain", "general_retain"):
            self._tokens["forget" if term.name == "forget" else "retain"] += consumed
        self._flops += self._cost.of(term, lengths, targets)

    def end_update(self, learning_rate: float, found: dict[str, float]) -> None:
        """Count the finished update, with its losses and gradient norm by their columns."""
        self.update += 1
        self._learning_rate_sum += learning_rate
        self._last = dict(found)
        self._synchronise()
        self._wall_s += time.perf_counter() - self._mark
        self._mark = time.perf_counter()

    def restart_clock(self) -> None:
        """What has passed since the last row was not the trial's time: it waited for a verdict."""
        self._mark = time.perf_counter()

    def row(self, metrics: Metrics, strength: float = AS_TRAINED) -> Row:
        """The evaluation row of the update just made, at some strength."""
        self._evaluation_wall_s += time.perf_counter() - self._mark
        workspace, config = self._workspace, self._config
        forget = workspace.data.splits["forget"]
        row = (
            metrics
            | self._last
            | {
                "update": self.update,
                "strength": strength,
                "epoch": self.update * config.batch_size / len(forget),
                "forget_tokens": self._tokens["forget"],
                "retain_tokens": self._tokens["retain"],
                "learning_rate_sum": self._learning_rate_sum,
                "flops": self._flops,
                "wall_s": self._wall_s,
                "evaluation_wall_s": self._evaluation_wall_s,
                "accelerator_s": self._wall_s * workspace.accelerators,
                "peak_memory_gib": workspace.peak_memory_gib(),
            }
        )
        row = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in row.items()
        }
        check_row(row, extra_names(row))
        return row

    def state(self) -> dict[str, Any]:
        """The state as plain numbers, for a checkpoint."""
        return {
            "update": self.update,
            "tokens": dict(self._tokens),
            "flops": float(self._flops),
            "learning_rate_sum": self._learning_rate_sum,
            "wall_s": self._wall_s,
            "evaluation_wall_s": self._evaluation_wall_s,
            "last": dict(self._last),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a result of `state`."""
        self.update = state["update"]
        self._tokens = dict(state["tokens"])
        self._flops = state["flops"]
        self._learning_rate_sum = state["learning_rate_sum"]
        self._wall_s = state["wall_s"]
        self._evaluation_wall_s = state["evaluation_wall_s"]
        self._last = dict(state["last"])
        self._mark = time.perf_counter()

    def _synchronise(self) -> None:
        if self._workspace.device.type == "cuda":
            torch.cuda.synchronize(self._workspace.device)

"""A stand-in workspace for tests of the lanes themselves: no model, and trials that fail in every
way on request.

Workers get it by value (see conftest). A trial's `context` says what happens to it; what the
workspace did is in a log file, for lines in one process's memory die with it.
"""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ray_unlearn.execution.lane import RunningTrial
from ray_unlearn.execution.messages import BestWeights, Prepared
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.schema import HALVES, Row, RowKey
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.loop import Ended

NLL = {"forget_nll": 1.0} | {
    f"{name}_nll_{half}": 1.0 for name in ("approximate", "retain", "general") for half in HALVES
}


def config(behaviour: str = "ok", steps: int = 3, seed: int = 0) -> TrialConfig:
    """A trial of `steps` updates, each evaluated, that behaves as told."""
    evaluate_at = tuple(range(1, steps + 1))
    return TrialConfig(
        learning_rate=1e-3,
        steps=steps,
        method="gradient_ascent",
        evaluate_at=evaluate_at,
        context=behaviour,
        seed=seed,
    )


@dataclass(frozen=True)
class OpenStandIn:
    """Opens the stand-in; `fails` makes every start of a lane fail."""

    log: Path
    fails: bool = False

    def __call__(self, comm: Comm) -> "StandIn":
        if self.fails:
            raise ModuleNotFoundError("No module named 'not_on_this_worker'")
        return StandIn(self.log, comm)


class StandIn:
    """See the module."""

    def __init__(self, log: Path, comm: Comm) -> None:
        self._log = log
        self._comm = comm
        self._adopted: Any = None

    def prepare(self, baselines: bool) -> Prepared:
        return Prepared({"vanilla": NLL | {"update": 0}} if baselines else {}, "labels")

    def adopt(self, shared: Any) -> None:
        self._adopted = shared

    def trial(self, config: TrialConfig, running: RunningTrial) -> Iterator[Row | Ended]:
        """`config.steps` rows, unless its behaviour is another."""
        for update in range(1, config.steps + 1):
            self._say(f"seed {config.seed} update {update}")
            self._misbehave(config, update)
            if running.checkpoint_wanted(update):
                self._say(f"seed {config.seed} checkpoint")
                running.checkpoint_saved(update)
            yield NLL | {"update": update, "forget_loss": float(config.seed * 100 + update)}
        yield Ended("complete", f"adopted {self._adopted}")

    def save_weights(self, number: int, key: RowKey) -> BestWeights | None:
        return BestWeights(number, key[0], f"trials/best/{number}-{key[0]}", 0, "")

    def _misbehave(self, config: TrialConfig, update: int) -> None:
        behaviour, _, argument = config.context.partition(":")
        if behaviour == "wait":
            time.sleep(float(argument))
        if update != 2:
            return
        match behaviour:
            case "raise":
                raise ValueError("no such luck")
            case "raise-on-rank-1":
                if self._comm.rank == 1:
                    raise ValueError("rank 1 only")
                self._comm.all_reduce_sum([torch.zeros(1)])
            case "die-on-rank-1-once":
                if self._comm.rank == 1 and _first_time(argument):
                    os.kill(os.getpid(), signal.SIGKILL)
                self._comm.all_reduce_sum([torch.zeros(1)])
            case "memory":
                raise RuntimeError(
                    "[enforce fail at alloc_cpu.cpp:114] . DefaultCPUAllocator: can't allocate "
                    "memory"
                )
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "die-once" if _first_time(argument):
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang-once" if _first_time(argument):
                time.sleep(3_600)
            case "stop-once" if _first_time(argument):
                os.kill(os.getpid(), signal.SIGSTOP)

    def _say(self, text: str) -> None:
        with open(self._log, "a") as file:
            file.write(f"{text} pid {os.getpid()}\n")


def _first_time(flag: str) -> bool:
    known = Path(flag).exists()
    Path(flag).touch()
    return not known

"""The overhead of a trial: a warm lane against the pattern in Ray's documentation.

Both run the same trivial body, three evaluations and no arithmetic, one trial at a time, on one
local Ray:

    lane        this package: Tune -> thin trial -> hub -> warm worker group, each row on disk
                before the next is computed
    documented  a Tuner over a function that builds a TorchTrainer and fits it, rows through
                `ray.train.report`

The cost of a trial is the time between its end and the end of the trial before. The first trial of
each is left out: it pays for starting the lane, or for starting Tune. Ray's start-up switches
(`ray_unlearn/execution/__init__.py`) are the same for both; with Ray's defaults the documented
pattern is slower still.

    python benchmarks/lane_overhead.py [--lane-trials 50] [--documented-trials 3] [--workers 1]
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import ray_unlearn.execution  # noqa: F401  (sets Ray's switches before ray is imported)

# isort: split
import ray
import torch
from ray import tune
from ray.train import RunConfig, ScalingConfig, report
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from ray_unlearn.execution.conductor import first_job
from ray_unlearn.execution.interrupt import Interrupt
from ray_unlearn.execution.lane import RunningTrial
from ray_unlearn.execution.lane_fleet import Fleet
from ray_unlearn.execution.messages import BestWeights, Prepared
from ray_unlearn.execution.ray_runtime import connected
from ray_unlearn.execution.ray_tune import run_trials
from ray_unlearn.execution.recorder import Recorder
from ray_unlearn.spec.operations import Operations
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.event import BaselineMeasured, Header
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.schema import HALVES, Row, RowKey
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.loop import Ended

EVALUATIONS = (1, 2, 3)
ROW: Row = {"forget_nll": 1.0} | {
    f"{n}_nll_{half}": 1.0 for n in ("approximate", "retain", "general") for half in HALVES
}


def body() -> Iterator[Row]:
    """The trial: three evaluations of nothing."""
    for update in EVALUATIONS:
        yield ROW | {"update": update}


class TrivialWorkspace:
    """The workspace of the lane, which is empty."""

    def prepare(self, baselines: bool) -> Prepared:
        return Prepared({"vanilla": ROW | {"update": 0}})

    def adopt(self, shared: Any) -> None:
        pass

    def trial(self, config: TrialConfig, running: RunningTrial) -> Iterator[Row | Ended]:
        yield from body()
        yield Ended("complete")

    def save_weights(self, number: int, key: RowKey) -> BestWeights | None:
        return None


def open_trivial(comm: Comm) -> TrivialWorkspace:
    return TrivialWorkspace()


class TrivialSearch:
    """`total` trials that differ in their seed; nothing is ever stopped."""

    def __init__(self, total: int) -> None:
        self.total = total

    def ask(self, number: int) -> TrialConfig | None:
        return TrialConfig(
            learning_rate=1e-3,
            steps=3,
            method="gradient_ascent",
            evaluate_at=EVALUATIONS,
            seed=number,
        )

    def source(self, number: int) -> str:
        return "benchmark"

    def tell(self, trial: Trial) -> None:
        pass

    def verdict(self, record: Record, number: int, row: Row) -> str | None:
        return None


class Clock(tune.Callback):  # type: ignore[misc]
    """The times at which trials end, as an observer of ours and a callback of Tune's."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_trial(self, trial: Trial) -> None:
        pass

    def on_row(self, trial: Trial, row: Row) -> None:
        pass

    def on_outcome(self, trial: Trial) -> None:
        self.ends.append(time.perf_counter())

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.ends.append(time.perf_counter())

    def per_trial_s(self) -> list[float]:
        return [end - before for before, end in zip(self.ends, self.ends[1:], strict=False)]


def lane(spec: StudySpec, trials: int, workers: int) -> list[float]:
    """Seconds per trial on one warm lane."""
    clock, search = Clock(), TrivialSearch(trials + 1)
    operations = Operations(lanes=1, workers_per_lane=workers, cpus_per_worker=1 / workers)
    nobody = Interrupt(print)
    with tempfile.TemporaryDirectory() as folder, Fleet(operations, open_trivial) as fleet:
        first = first_job(fleet.hub, True, nobody)
        assert first is not None
        with Ledger.create(Path(folder), Header(retraining_flops=1.0)) as ledger:
            ledger.append(BaselineMeasured(name="vanilla", metrics=first.rows["vanilla"]))
            run_trials(
                Recorder(spec, ledger, search, search, [clock]), search, fleet, operations, nobody
            )
            assert all(len(trial.rows) == len(EVALUATIONS) for trial in ledger.record.finished)
    return clock.per_trial_s()


def documented(trials: int, workers: int) -> list[float]:
    """Seconds per trial of a Tuner over a function that fits a TorchTrainer."""
    clock = Clock()

    def per_worker(settings: dict[str, Any]) -> None:
        for row in body():
            report(row)

    def one_trial(settings: dict[str, Any]) -> None:
        trainer = TorchTrainer(
            per_worker,
            train_loop_config=settings,
            scaling_config=ScalingConfig(
                num_workers=workers, resources_per_worker={"CPU": 1 / workers}
            ),
            run_config=RunConfig(
                name=f"trial-{settings['seed']}",
                storage_path=settings["folder"],
                callbacks=[TuneReportCallback()],
            ),
        )
        trainer.fit()

    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(one_trial, {"CPU": 1}),
            param_space={"seed": tune.grid_search(list(range(trials + 1))), "folder": folder},
            tune_config=tune.TuneConfig(max_concurrent_trials=1),
            run_config=tune.RunConfig(
                name="tune", storage_path=folder, verbose=0, callbacks=[clock]
            ),
        )
        results = tuner.fit()
        assert results.num_errors == 0
        assert all(result.metrics["update"] == EVALUATIONS[-1] for result in results)
    return clock.per_trial_s()


def any_spec() -> StudySpec:
    """A spec for the recorder, which reads only the score's weights from it."""
    parameters = {
        "learning_rate": {"type": "fixed", "value": 1e-3},
        "steps": {"type": "fixed", "value": 3},
    }
    method = "gradient_ascent"
    return StudySpec.model_validate(
        {
            "name": "benchmark",
            "model": {"source": "demo:shakespeare"},
            "data": {"source": "demo:shakespeare"},
            "methods": [method],
            "spaces": {method: {"method": method, "parameters": parameters}},
            "search": {"trials_per_method": 1},
            "evaluation": {"every": 1},
        }
    )


def main() -> None:
    """Measure both, print medians, ratio and versions."""
    parser = argparse.ArgumentParser(
        description="per-trial overhead of a warm lane and of the documented pattern"
    )
    parser.add_argument("--lane-trials", type=int, default=50)
    parser.add_argument("--documented-trials", type=int, default=3)
    parser.add_argument(
        "--workers", type=int, default=1, help="workers per lane, and per TorchTrainer"
    )
    arguments = parser.parse_args()
    with connected(None, Operations(lanes=2)):
        warm = lane(any_spec(), arguments.lane_trials, arguments.workers)
        cold = documented(arguments.documented_trials, arguments.workers)
    print(
        f"workers {arguments.workers}, evaluations per trial {len(EVALUATIONS)}, cores "
        f"{os.cpu_count()}"
    )
    for name, seconds in (("warm lane", warm), ("documented pattern", cold)):
        spread = f"{min(seconds) * 1000:.0f} to {max(seconds) * 1000:.0f}"
        print(
            f"{name:19} median {statistics.median(seconds) * 1000:9.1f} ms per trial ({spread}, "
            f"n={len(seconds)})"
        )
    print(f"ratio of medians {statistics.median(cold) / statistics.median(warm):.0f}")
    print(f"ray {ray.__version__}, torch {torch.__version__}, python {platform.python_version()}")


if __name__ == "__main__":
    main()

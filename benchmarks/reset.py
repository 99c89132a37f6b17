"""The time of a lane before a trial's first update: weights restored in place, a new optimizer.

It is compared with the time that copying as many bytes takes here, since a reset can be no faster.
The time of Tune, hub and ledger per trial comes on top; it does not depend on the model:
`benchmarks/lane_overhead.py`.

    python benchmarks/reset.py [STUDY.yaml ...] [--repeats 10]
"""

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.model import make_ready
from ray_unlearn.unlearn.optimizer import make_optimizer, reuse_memory
from ray_unlearn.unlearn.workspace import Workspace

DEMO = Path(__file__).parent.parent / "studies" / "demo.yaml"


def seconds(run: object, repeats: int) -> float:
    """Median of some calls after a first one."""
    found = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        run()  # type: ignore[operator]
        found.append(time.perf_counter() - started)
    return statistics.median(found[1:])


def measure(study: Path, repeats: int) -> str:
    """Measure one line of the table."""
    spec = load_study(study)
    make_ready(spec.model)
    data = prepare(spec.data, spec.model)
    workspace = Workspace.open(spec.model, data, spec.evaluation, spec.operations, Comm.single())
    config = TrialConfig(method="gradient_ascent", learning_rate=1e-6, steps=1, evaluate_at=(1,))
    size = sum(p.nbytes for p in workspace.parameters)
    source, target = torch.ones(size // 4), torch.empty(size // 4)
    copy = seconds(lambda: target.copy_(source), repeats)
    reset = seconds(lambda: workspace.reset(0), repeats)
    for p in workspace.parameters:
        p.grad = torch.zeros_like(p)
    new, reused = (
        first_step(workspace, config, reuse=False),
        first_step(workspace, config, reuse=True),
    )
    numbers = (
        f"{1000 * copy:10.2f} {1000 * reset:10.2f} {reset / copy:8.2f} {1000 * reused:12.1f} "
        f"{1000 * new:12.1f}"
    )
    return f"{spec.name:20} {size / 2**20:8.1f} {numbers}"


def first_step(workspace: Workspace, config: TrialConfig, reuse: bool) -> float:
    """Seconds that a new optimizer and its first step take longer than the next step."""
    first: list[float] = []
    later: list[float] = []
    previous: torch.optim.Optimizer | None = None
    for _ in range(4):
        started = time.perf_counter()
        optimizer = make_optimizer(workspace.parameters, config, workspace.rounding)
        reuse_memory(optimizer, previous)
        for times in (first, later):
            optimizer.step()
            times.append(time.perf_counter() - started)
            started = time.perf_counter()
        previous = optimizer if reuse else None
    return statistics.median(first[1:]) - statistics.median(later[1:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description="what a trial costs a lane before its first update"
    )
    parser.add_argument("studies", nargs="*", type=Path, default=[DEMO])
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{'study':20} {'MiB':>8} {'copy, ms':>10} {'reset, ms':>10} {'ratio':>8} "
        f"{'states, ms':>12} {'new, ms':>12}"
    )
    for study in arguments.studies:
        print(measure(study, arguments.repeats), flush=True)
    print(
        "states: a new optimizer over the memory of the one before, and what its first step takes "
        "longer than the next"
    )
    print(
        f"new: the same with new memory; torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()

"""The loss and the cost of each precision, for the demo's vanilla model at small learning rates.

At a learning rate of 1e-6 a step is far smaller than what bfloat16 weights can represent. For each
learning rate the same trial is run in float32, under autocast, and on bfloat16 weights with each
rounding; the change of the forget set's NLL is compared with that of float32. Bytes per parameter
are weights, gradient, moments and the residual bits of rounding, without P_0.

    python benchmarks/precision.py [--updates 40] [--method ascent_descent_in_distribution]
"""

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.schema import Row
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.evaluate import evaluate
from ray_unlearn.unlearn.loop import Ended, unlearn
from ray_unlearn.unlearn.model import make_ready
from ray_unlearn.unlearn.workspace import Workspace

STUDY = Path(__file__).parent.parent / "studies" / "demo.yaml"
PRECISIONS: dict[str, tuple[dict[str, object], int]] = {
    "float32": ({}, 4 + 4 + 8),
    "autocast": ({"autocast": "bfloat16"}, 4 + 4 + 8),
    "bfloat16, exact": ({"dtype": "bfloat16"}, 2 + 2 + 8 + 2),
    "bfloat16, stochastic": ({"dtype": "bfloat16", "rounding": "stochastic"}, 2 + 2 + 8),
    "bfloat16, nearest": ({"dtype": "bfloat16", "rounding": "nearest"}, 2 + 2 + 8),
}
RATES = (1e-6, 1e-5, 1e-4, 1e-3)


def opened(values: dict[str, object]) -> Workspace:
    """The demo's workspace in another precision."""
    spec = load_study(STUDY)
    model = ModelSpec.model_validate(spec.model.model_dump() | values)
    make_ready(model)
    data = prepare(spec.data, model)
    return Workspace.open(model, data, spec.evaluation, spec.operations, Comm.single())


def trial(workspace: Workspace, method: str, rate: float, updates: int) -> tuple[Row, float]:
    """The last row, and seconds per update."""
    config = TrialConfig(
        method=method,
        learning_rate=rate,
        steps=updates,
        batch_size=8,
        evaluate_at=(updates,),
        seed=1,
    )
    rows = [row for row in unlearn(workspace, config) if not isinstance(row, Ended)]
    return rows[-1], float(rows[-1]["wall_s"]) / updates


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="what each precision loses, and what it costs")
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--method", default="ascent_descent_in_distribution")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    changes: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for name, (values, _) in PRECISIONS.items():
        workspace = opened(values)
        workspace.reset()
        before = float(evaluate(workspace)["forget_nll"])
        changes[name], seconds[name] = [], []
        for rate in RATES:
            started = time.perf_counter()
            row, per_update = trial(workspace, arguments.method, rate, arguments.updates)
            changes[name].append(float(row["forget_nll"]) - before)
            seconds[name].append(per_update)
            print(f"{name}, {rate:g}: {time.perf_counter() - started:.0f} s", flush=True)
    print(
        f"\n{arguments.method}, {arguments.updates} updates: change of the forget NLL, and as a "
        "share of float32's"
    )
    print(
        f"{'':22}"
        + "".join(f"{rate:>22g}" for rate in RATES)
        + "   ms per update   bytes per parameter"
    )
    for name, (_, size) in PRECISIONS.items():
        cells = [
            f"{change:+.5f} ({change / full:6.1%})"
            for change, full in zip(changes[name], changes["float32"], strict=True)
        ]
        pace = 1000 * statistics.median(seconds[name])
        print(f"{name:22}" + "".join(f"{cell:>22}" for cell in cells) + f"{pace:16.0f}{size:22}")
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()

"""Cost of calibration: one trial of each method on the demo, with calibrated rows.

    python benchmarks/strength.py [--study studies/demo.yaml] [--rates 2e-4 1e-3]

Times are of the process, so that a busy machine does not show in them. `share` is the time in
calibration over the time of everything else, which is what a lane with `evaluation.strength: both`
spends more than one with `trained`.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from ray_unlearn.spec.hyperparameters import Hyperparameters
from ray_unlearn.spec.method_registry import method_named
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.store.schema import Row, is_as_trained
from ray_unlearn.unlearn import loop
from ray_unlearn.unlearn.calibration import Calibration, calibrated_row, most_calibrated
from ray_unlearn.unlearn.meter import Meter
from ray_unlearn.unlearn.single_trial import Single
from ray_unlearn.unlearn.workspace import Workspace


class Stopwatch:
    """Stands for `calibrated_row` and adds up its time; rows are not held up in between."""

    def __init__(self) -> None:
        self.spent = 0.0

    def __call__(
        self, workspace: Workspace, meter: Meter, calibration: Calibration
    ) -> Iterator[Row]:
        began = time.process_time()
        yield from calibrated_row(workspace, meter, calibration)
        self.spent += time.process_time() - began


def main() -> None:
    """Print a line per method and learning rate, then the sum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, default=Path("studies/demo.yaml"))
    parser.add_argument("--rates", type=float, nargs="+", default=[4.5e-4])
    arguments = parser.parse_args()
    spec = load_study(arguments.study)
    single, totals = Single(spec), [0.0, 0.0]
    baselines = single.baselines()
    loop.calibrated_row = watch = Stopwatch()
    for method in spec.methods:
        for rate in arguments.rates:
            mixed = {"w_r": 3.0} if method_named(method).mixed else {}
            steps = spec.evaluation.at[-1] if spec.evaluation.at else 80
            values = Hyperparameters(learning_rate=rate, steps=steps, batch_size=8, **mixed)
            config = spec.trial_config(values, method, 0, single.context)
            rows: list[Row] = []
            watch.spent, began = 0.0, time.process_time()
            ended = single.run(config, baselines, rows.append, calibrates=True)
            spent = watch.spent
            rest = time.process_time() - began - spent
            totals = [totals[0] + spent, totals[1] + rest]
            found = [
                f"{row['update']} at {row['strength']:.3f}"
                for row in rows
                if not is_as_trained(row)
            ]
            print(
                f"{method:32} {rate:.1e} {ended.status:10} rest {rest:6.1f} s, calibration "
                f"{spent:5.1f} s, share {spent / rest:4.0%}, at most "
                f"{most_calibrated(single.workspace, config)}; {', '.join(found) or 'none'}",
                flush=True,
            )
    print(f"all: rest {totals[1]:.1f} s, calibration {totals[0]:.1f} s, share "
          f"{totals[0] / totals[1]:.1%}")  # fmt: skip


if __name__ == "__main__":
    main()

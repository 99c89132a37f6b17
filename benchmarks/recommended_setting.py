"""How good the recommended setting is, and whether what is said of it is true, on planted truth.

    python benchmarks/recommended_setting.py [--repeats 100]

Valleys, a ridge and a cliff with 10, 20 and 40 trials, noise SD half the tolerance and as large as
it: how often the recommended setting is within the tolerance, beside the probability that is said;
its regret, beside the 95 % bound that is said. Last, of what is said with 0.8 to 0.9, how much is
so. The figures are bounds: what is so must not be rarer than what is said.
"""

import argparse
import math
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "analysis"))

import numpy as np
import pandas as pd
from surfaces import RATE, TOLERANCE, WEIGHT, Score, cliff, planted, ridge, valley

from ray_unlearn.analysis.guidelines.findings import find
from ray_unlearn.analysis.guidelines.recommendations import recommendations
from ray_unlearn.surfaces.axes import Axis

BOTTOM = 0.2
"""The best score of every planted truth here."""
STEPS = Axis("steps", "log", 4, 64)
TRUTHS: dict[str, tuple[Score, tuple[Axis, Axis]]] = {
    "valley": (valley(), (RATE, WEIGHT)),
    "sharp": (valley(power=1.0), (RATE, WEIGHT)),
    "ridge": (ridge(best=-3.3), (RATE, STEPS)),
    "cliff": (cliff(), (RATE, WEIGHT)),
}
Said = list[tuple[float, float, float]]
"""Of each study: probability and bound that are said, and the true regret."""


def percent(count: int, of: int) -> str:
    """`3 of 60 (5 %)`."""
    return f"{count} of {of} ({100 * count / of:.0f} %)"


def studies(name: str, trials: int, noise: float, repeats: int) -> Said:
    """What is said of the recommended setting of each planted study, and what is true."""
    score, axes = TRUTHS[name]
    found: Said = []
    for seed in range(20_000, 20_000 + repeats):
        table = planted({"a": score}, trials=trials, axes=axes, noise=noise, seed=seed)
        (one,) = recommendations(find(table))
        assert one.regret is not None
        at = {axis.name: [math.log10(float(one.setting[axis.name]))] for axis in axes}  # type: ignore[arg-type]
        truth = float(score(pd.DataFrame(at), np.random.default_rng())[0])
        found.append((one.regret.p_good, one.regret.high, truth - BOTTOM))
    return found


def main() -> None:
    """All truths, sizes and noises."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=100)
    repeats, began = parser.parse_args().repeats, time.monotonic()
    everything: Said = []
    for name in TRUTHS:
        for trials in (10, 20, 40):
            for noise in (TOLERANCE / 2, TOLERANCE):
                found = studies(name, trials, noise, repeats)
                everything += found
                said, _, regrets = np.mean(found, axis=0)
                good = sum(regret <= TOLERANCE for *_, regret in found)
                held = sum(regret <= high for _, high, regret in found)
                print(
                    f"{name}, {trials} trials, noise SD {noise:g}: good {percent(good, repeats)}, "
                    f"said {said:.2f}; mean regret {regrets:.3f}, below the bound "
                    f"{percent(held, repeats)}",
                    flush=True,
                )
    for tenth in range(10):
        those = [r for p, _, r in everything if tenth <= min(10 * p, 9.99) < tenth + 1]
        if those:
            good = sum(regret <= TOLERANCE for regret in those)
            print(f"said {tenth / 10:.1f} to {tenth / 10 + 0.1:.1f}: {percent(good, len(those))}")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()

"""How often 90 % intervals of the variance split hold the truth, on planted components.

    python benchmarks/variance_split.py [--repeats 200]

Effects are normal, as the model assumes, or heavy-tailed configurations and rest (Student's t with
4 degrees of freedom); every configuration in every group, or two fifths of the runs left out.
"""

import argparse
import os
import sys
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "analysis"))

import numpy as np
from test_variance_split import SOURCES, planted

from ray_unlearn.analysis.statistics.variance_split import variance_split

DESIGNS = {
    "campaign: 3 domains x 3 models x 34": {"configurations": 34, "seeds": 1},
    "3 domains x 3 models x 12 x 3 seeds": {"configurations": 12},
    "2 domains x 2 models x 20": {"domains": 2, "models": 2, "configurations": 20, "seeds": 1},
    "6 domains x 2 models x 20 x 2 seeds": {
        "domains": 6,
        "models": 2,
        "configurations": 20,
        "seeds": 2,
    },
}
TRUTHS = {
    "all": {"domain": 0.2, "model": 0.1, "configuration": 0.3, "left": 0.1, "seed": 0.05},
    "configuration alone": {"configuration": 0.3, "left": 0.1, "seed": 0.05},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    for tails in (None, 4):
        for holes in (0.0, 0.4):
            for design, sizes in DESIGNS.items():
                for truth, sds in TRUTHS.items():
                    rates = coverage(sizes, sds, tails, holes, repeats)
                    which = "normal" if tails is None else f"t({tails})"
                    print(f"{design}, {which}, {holes:.0%} missing, {truth}: {rates}", flush=True)


def coverage(
    sizes: dict[str, int], sds: dict[str, float], tails: int | None, holes: float, repeats: int
) -> str:
    """How often the interval of each source holds the truth."""
    held: dict[str, list[bool]] = defaultdict(list)
    for i in range(repeats):
        trials = planted(sds, **sizes, tails=tails, random_seed=1000 + i)
        trials = trials.sample(frac=1 - holes, random_state=i)
        found = variance_split(trials, ("learning_rate",), dict.fromkeys(trials["group"], 100.0), i)
        assert found is not None
        for source in SOURCES:
            sd = sds.get(source, 0.0)
            if source == "left" and sizes.get("seeds") == 1:  # the seed cannot be told from it
                sd = float(np.hypot(sd, sds["seed"]))
            one = getattr(found, source)
            if one is not None:
                held[source].append(one.low <= sd <= one.high)
    return ", ".join(f"{source} {100 * np.mean(ones):.0f} %" for source, ones in held.items())


if __name__ == "__main__":
    main()

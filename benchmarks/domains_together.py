"""What domains learn from each other: claims, edges and P(good), fitted together and apart.

    python benchmarks/domains_together.py [--repeats 8] [--only scores|curves] [--trials 12]

Planted studies of one method in several domains, tolerance 0.1. A domain's optimum lies up to
`drift` decades from the others'. For each design two lines, domains fitted together and one by one:
studies with a range for the learning rate, intervals of its edges that hold them and their width in
decades, and of values said to be good in a domain with a probability the share that is.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "analysis"))

import numpy as np
from planted_curves import BEST_RATE, expected_score, planted_with_curves
from surfaces import RATE, TOLERANCE, WEIGHT, planted, reach, valley

from ray_unlearn.analysis.guidelines.group_parts import group_parts
from ray_unlearn.analysis.statistics.fitted_groups import FittedGroup, fit_groups
from ray_unlearn.analysis.statistics.good_regions import good_regions
from ray_unlearn.surfaces.axes import Axis
from ray_unlearn.surfaces.group_points import GroupPoints

AXES: tuple[Axis, ...] = (RATE, WEIGHT)
BEST = -4.5
BINS = (0.0, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0 + 1e-9)
NOISE = {"scores": TOLERANCE / 2, "curves": 0.11}
"""SD of a score; what a seed adds to each transformed change (a score SD of half a tolerance)."""
Domain = tuple[GroupPoints, tuple[float, float]]
"""Its trials, and where the learning rate is good there (decades)."""


def of_scores(name: str, trials: int, away: float, noise: float, seed: int) -> Domain:
    """A domain whose trials have scores alone."""
    table = planted(
        {"a": valley(BEST + away)}, trials=trials, groups=(name,), noise=noise, seed=seed
    )
    (part,) = group_parts(table, table.trials, AXES)
    return part, (BEST + away - reach(), BEST + away + reach())


def of_curves(name: str, trials: int, away: float, noise: float, seed: int) -> Domain:
    """A domain whose trials have five evaluations each."""
    table = planted_with_curves(
        trials, seed, seed_sd=noise, groups=(name,), best_rate=BEST_RATE + away
    )
    (part,) = group_parts(table, table.trials, AXES)
    return part, good_rates(round(away, 6), noise)


@cache
def good_rates(away: float, noise: float) -> tuple[float, float]:
    """Ends (decades) of the learning rates that are good with some weight."""
    grid = np.linspace(0, 1, 241)
    space = np.stack(np.meshgrid(grid, np.linspace(0, 1, 21), indexing="ij"), -1).reshape(-1, 2)
    score = expected_score(space, noise, best_rate=BEST_RATE + away)
    good = (score <= score.min() + TOLERANCE).reshape(241, 21).any(1)
    logs = np.log10(RATE.from_unit(grid[good]))
    return float(logs.min()), float(logs.max())


@dataclass
class Tally:
    """What studies of one design said."""

    claimed: int = 0
    held: list[bool] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)
    said: list[np.ndarray] = field(default_factory=list)
    true: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, fits: Sequence[FittedGroup], good: Sequence[tuple[float, float]]) -> None:
        """One study."""
        region = good_regions(fits, AXES, TOLERANCE)[0]
        logs = np.log10(region.grid)
        for p, (low, high) in zip(region.p_by_group, good, strict=True):
            self.said.append(p)
            self.true.append((low <= logs) & (logs <= high))
        if region.core is None or not region.bounded:
            return
        self.claimed += 1
        ends = max(low for low, _ in good), min(high for _, high in good)
        for edge, end in zip((region.low_edge, region.high_edge), ends, strict=True):
            if edge is not None:
                self.held.append(edge[0] <= 10**end <= edge[1])
                self.widths.append(float(np.log10(edge[1] / edge[0])))

    def line(self, repeats: int) -> str:
        """Its figures."""
        said, true = np.concatenate(self.said), np.concatenate(self.true)
        shares = []
        for low, high in pairwise(BINS):
            here = (said >= low) & (said < high)
            shares.append(f"{true[here].mean():.2f}" if here.any() else "-")
        width = f"{np.mean(self.widths):.2f}" if self.widths else "-"
        return (
            f"range in {self.claimed} of {repeats}, edges {sum(self.held)} of {len(self.held)}, "
            f"width {width}, P(good) {' '.join(shares)}, {self.seconds / repeats:.1f} s"
        )


def compared(kind: str, domains: int, trials: int, drift: float, repeats: int) -> None:
    """Print two lines for one design."""
    made: Callable[[str, int, float, float, int], Domain]
    made = of_scores if kind == "scores" else of_curves
    tallies = {"together": Tally(), "apart": Tally()}
    for repeat in range(repeats):
        away = np.linspace(-drift, drift, domains) if drift else np.zeros(domains)
        found = [
            made(f"d{i}", trials, float(one), NOISE[kind], 1000 * repeat + i)
            for i, one in enumerate(away)
        ]
        parts, good = [part for part, _ in found], [own for _, own in found]
        for name, tally in tallies.items():
            start = time.perf_counter()
            if name == "together":
                fits = fit_groups(parts, AXES, TOLERANCE, 0)
            else:
                fits = tuple(fit_groups([part], AXES, TOLERANCE, 0)[0] for part in parts)
            tally.seconds += time.perf_counter() - start
            if all(fit.reason is None for fit in fits):
                tally.add(fits, good)
    for name, tally in tallies.items():
        head = f"{kind}, {domains} domains x {trials}, drift {drift:g}, {name}"
        print(f"{head}: {tally.line(repeats) if tally.said else 'too few trials'}", flush=True)


def main() -> None:
    """Compare all designs, or those of one kind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--only", choices=list(NOISE))
    parser.add_argument("--trials", type=int, default=12)
    given = parser.parse_args()
    for kind in NOISE:
        if given.only in (None, kind):
            for domains, drift in ((3, 0.0), (3, 0.15), (3, 0.8), (9, 0.0)):
                compared(kind, domains, given.trials, drift, given.repeats)


if __name__ == "__main__":
    main()

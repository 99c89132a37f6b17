"""How often guidelines are wrong or missed, from a trial table to claims, on planted truth.

    python benchmarks/planted_truth.py [--repeats 100] [--only null|valley|sharp|cliff|outside]

null     pure noise: studies with any claim (at most 7.5 % wanted)
valley   an optimum in the learning rate, the mixing weight null: claimed, null claimed, edges whose
         90 % interval holds the truth
sharp    the same with a sharp bottom, as a score has that is an absolute difference: the surface
         model rounds it off
cliff    a slow rise below the optimum, divergence above it: the same
outside  the optimum beyond the bound of the search: claimed as censored, and with a finite edge
         there (never wanted)
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "analysis"))

from surfaces import TOLERANCE, cliff, flat, planted, reach, valley

from ray_unlearn.analysis.guidelines.claims import guidelines_of
from ray_unlearn.analysis.guidelines.findings import find
from ray_unlearn.spec.guideline_file import Guideline

RATE, WEIGHT = "range/a/learning_rate", "range/a/w_r"
DESIGNS = (
    ("1 domain x 100", 100, ("x",)),
    ("3 domains x 40", 40, ("x", "y", "z")),
    ("1 domain x 200", 200, ("x",)),
)
CLIFF_LOW, CLIFF_HIGH = (TOLERANCE / 0.25) ** 0.5, TOLERANCE**0.5
"""How far, in decades, the good region reaches from the optimum at 10^-4.5."""


def studies(
    score: Callable, trials: int, groups: tuple[str, ...], repeats: int
) -> Iterator[dict[str, Guideline]]:  # type: ignore[type-arg]
    """Guidelines by id of `repeats` planted studies of one method."""
    for seed in range(repeats):
        table = planted({"a": score}, trials=trials, groups=groups, seed=10_000 + seed)
        yield {guideline.id: guideline for guideline in guidelines_of(find(table))}


def percent(count: int, of: int) -> str:
    """A count in words: `3 of 60 (5 %)`."""
    return f"{count} of {of} ({100 * count / of:.0f} %)" if of else "none"


def null(repeats: int) -> None:
    """Measure studies of pure noise."""
    for name, trials, groups in DESIGNS:
        claimed = [
            [g.kind for g in found.values() if g.status == "claimed"]
            for found in studies(flat, trials, groups, repeats)
        ]
        ranges = sum("range" in kinds for kinds in claimed)
        print(
            f"null, {name}: any claim {percent(sum(map(bool, claimed)), repeats)}, a range "
            f"{percent(ranges, repeats)}",
            flush=True,
        )


def edges(name: str, score: Callable[..., Any], low: float, high: float, repeats: int) -> None:
    """Measure studies with one real and one null hyperparameter."""
    for design, trials, groups in DESIGNS:
        claimed = nulls = covered = shown = 0
        for found in studies(score, trials, groups, repeats):
            claimed += found[RATE].status == "claimed"
            nulls += found[WEIGHT].status == "claimed"
            for side, truth in (("low", low), ("high", high)):
                interval = found[RATE].estimates[f"{side}_edge_90"]
                shown += interval is not None
                covered += interval is not None and interval[0] <= truth <= interval[1]
        print(
            f"{name}, {design}: claimed {percent(claimed, repeats)}, null claimed "
            f"{percent(nulls, repeats)}, edges covered "
            f"{percent(covered, shown)}",
            flush=True,
        )


def outside(repeats: int) -> None:
    """Measure studies with the optimum half a decade above what was searched."""
    for design, trials, groups in DESIGNS:
        censored = finite = 0
        for found in studies(valley(best=-2.6, width=1.2), trials, groups, repeats):
            guideline = found[RATE]
            censored += guideline.status == "claimed" and guideline.high_is_boundary
            finite += guideline.status == "claimed" and not guideline.high_is_boundary
        print(
            f"outside, {design}: censored {percent(censored, repeats)}, a finite high edge "
            f"{percent(finite, repeats)}",
            flush=True,
        )


def main() -> None:
    """Measure all parts, or one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--only", choices=["null", "valley", "sharp", "cliff", "outside"])
    given = parser.parse_args()
    began = time.monotonic()
    if given.only in (None, "null"):
        null(given.repeats)
    if given.only in (None, "valley"):
        edges("valley", valley(), 10 ** (-4.5 - reach()), 10 ** (-4.5 + reach()), given.repeats)
    if given.only in (None, "sharp"):
        away = reach(power=1.5)
        edges("sharp", valley(power=1.5), 10 ** (-4.5 - away), 10 ** (-4.5 + away), given.repeats)
    if given.only in (None, "cliff"):
        edges("cliff", cliff(), 10 ** (-4.5 - CLIFF_LOW), 10 ** (-4.5 + CLIFF_HIGH), given.repeats)
    if given.only in (None, "outside"):
        outside(given.repeats)
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()

"""How often guidelines are wrong or missed, from a trial table to claims, on planted truth.

    python benchmarks/planted_truth.py [--repeats 100] [--only PART]

null     pure noise: studies with any claim (at most 7.5 % wanted)
valley   an optimum in the learning rate, the mixing weight null: claimed, null claimed, edges whose
         90 % interval holds the truth
sharp    the same with a sharp bottom, as a score has that is an absolute difference: the surface
         model rounds it off
cliff    a slow rise below the optimum, divergence above it: the same
outside  the optimum beyond the bound of the search: claimed as censored, and with a finite edge
         there (never wanted)
share    noise as large as the tolerance: how often the 95 % intervals of the good share and of the
         budget hold the truth
ridge    what counts is learning rate times updates: edges of each axis and of the product, and
         "avoid" claims that take in a value that is good with some setting of the others
p_good   how often values that are said to be good with a probability are good
"""

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "analysis"))

import numpy as np
from run_parts import run_parts
from surfaces import (
    RATE,
    STEPS,
    TOLERANCE,
    WEIGHT,
    cliff,
    flat,
    good_share_of,
    planted,
    reach,
    ridge,
    valley,
)

from ray_unlearn.analysis.guidelines.claims import guidelines_of
from ray_unlearn.analysis.guidelines.findings import Findings, find
from ray_unlearn.spec.guideline_file import Guideline
from ray_unlearn.spec.narrowed_range import RATE_BY_STEPS
from ray_unlearn.surfaces.axes import Axis

RATE_RANGE, WEIGHT_RANGE = "range/a/learning_rate", "range/a/w_r"
DESIGNS = (
    ("1 domain x 100", 100, ("x",)),
    ("3 domains x 40", 40, ("x", "y", "z")),
    ("1 domain x 200", 200, ("x",)),
)
CLIFF_LOW, CLIFF_HIGH = (TOLERANCE / 0.25) ** 0.5, TOLERANCE**0.5
"""How far, in decades, the good region reaches from the optimum at 10^-4.5."""
BINS = (0.0, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0 + 1e-9)


def analysed(
    score: Callable[..., Any],
    trials: int,
    groups: tuple[str, ...],
    repeats: int,
    axes: Sequence[Axis] = (RATE, WEIGHT),
    noise: float = TOLERANCE / 2,
) -> Iterator[tuple[Findings, dict[str, Guideline]]]:
    """Findings, and guidelines by id, of `repeats` planted studies of one method."""
    for seed in range(repeats):
        table = planted(
            {"a": score}, trials=trials, groups=groups, seed=10_000 + seed, axes=axes, noise=noise
        )
        findings = find(table)
        yield findings, {guideline.id: guideline for guideline in guidelines_of(findings)}


def percent(count: int, of: int) -> str:
    """A count in words: `3 of 60 (5 %)`."""
    return f"{count} of {of} ({100 * count / of:.0f} %)" if of else "none"


def null(repeats: int) -> None:
    """Measure studies of pure noise."""
    for name, trials, groups in DESIGNS:
        claimed = [
            [g.kind for g in found.values() if g.status == "claimed"]
            for _, found in analysed(flat, trials, groups, repeats)
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
        claimed = nulls = covered = shown = avoided = wrong = 0
        for _, found in analysed(score, trials, groups, repeats):
            claimed += found[RATE_RANGE].status == "claimed"
            nulls += found[WEIGHT_RANGE].status == "claimed"
            hits = _edge_hits(found[RATE_RANGE], low, high)
            covered, shown = covered + sum(hits), shown + len(hits)
            false = _false_avoids(found, {"learning_rate": (low, high)})
            avoided, wrong = avoided + len(false), wrong + sum(false)
        print(
            f"{name}, {design}: claimed {percent(claimed, repeats)}, null claimed "
            f"{percent(nulls, repeats)}, edges covered {percent(covered, shown)}, false avoid "
            f"{percent(wrong, avoided)}",
            flush=True,
        )


def _edge_hits(guideline: Guideline, low: float, high: float) -> list[bool]:
    """Whether each edge shown holds the truth."""
    shown = ((guideline.estimates[f"{side}_edge_90"], truth) for side, truth in
             (("low", low), ("high", high)))  # fmt: skip
    return [interval[0] <= truth <= interval[1] for interval, truth in shown if interval]


def _false_avoids(found: dict[str, Guideline], good: dict[str, tuple[float, float]]) -> list[bool]:
    """Of each "avoid" claim whether it takes in a value that is good."""
    claims = [g for g in found.values() if g.kind == "avoid" and g.param in good]
    false = []
    for claim in claims:
        assert claim.param is not None
        low, high = good[claim.param]
        least, most = claim.estimates["low"], claim.estimates["high"]
        above, below = (least is None or high > least), (most is None or low < most)
        false.append(above and below)
    return false


def outside(repeats: int) -> None:
    """Measure studies with the optimum half a decade above what was searched."""
    for design, trials, groups in DESIGNS:
        censored = finite = 0
        for _, found in analysed(valley(best=-2.6, width=1.2), trials, groups, repeats):
            guideline = found[RATE_RANGE]
            censored += guideline.status == "claimed" and guideline.high_is_boundary
            finite += guideline.status == "claimed" and not guideline.high_is_boundary
        print(
            f"outside, {design}: censored {percent(censored, repeats)}, a finite high edge "
            f"{percent(finite, repeats)}",
            flush=True,
        )


def share(repeats: int) -> None:
    """Noise SD = tolerance."""
    planted_scores = (
        ("valley", valley(), (RATE, WEIGHT)),
        ("wide valley", valley(width=1.0), (RATE, WEIGHT)),
        ("cliff", cliff(), (RATE, WEIGHT)),
        ("sharp", valley(power=1.5), (RATE, WEIGHT)),
        ("ridge", ridge(), (RATE, STEPS, WEIGHT)),
    )
    for trials in (120, 400):
        for name, score, axes in planted_scores:
            truth = good_share_of(score, axes)
            needed = math.ceil(math.log(0.1) / math.log1p(-truth))
            held = claimed = budget_held = 0
            said = []
            for _, found in analysed(score, trials, ("x",), repeats, axes, TOLERANCE):
                budget = found["budget/a"]
                low, high = budget.estimates["share_95"]
                held += low <= truth <= high
                if budget.status == "claimed":
                    claimed += 1
                    fewest, most = budget.estimates["trials_95"]
                    budget_held += fewest <= needed <= (most or math.inf)
                    said.append(budget.estimates["trials"])
            print(
                f"share, {name}, 1 domain x {trials}, truth {100 * truth:.0f} % and {needed} "
                f"trials: 95 % interval holds {percent(held, repeats)}, budget claimed "
                f"{percent(claimed, repeats)}, its interval holds "
                f"{percent(budget_held, claimed)}, median {np.median(said or [0]):.0f}",
                flush=True,
            )


def ridge_claims(repeats: int) -> None:
    """Learning rate times updates is what counts: good within `reach` of 10^-2.5."""
    away = reach()
    good = {
        "learning_rate": (10 ** (-5.5 - away), 10 ** (-3.5 + away)),
        "steps": (STEPS.low, STEPS.high),
        RATE_BY_STEPS: (10 ** (-2.5 - away), 10 ** (-2.5 + away)),
    }
    for trials, noise in ((100, TOLERANCE / 2), (100, TOLERANCE), (200, TOLERANCE / 2)):
        counts = {name: [0, 0, 0, 0, 0] for name in good}
        axes = (RATE, STEPS, WEIGHT)
        for _, found in analysed(ridge(), trials, ("x",), repeats, axes, noise):
            for name, (low, high) in good.items():
                hits = _edge_hits(found[f"range/a/{name}"], low, high)
                false = _false_avoids(found, {name: (low, high)})
                claimed = found[f"range/a/{name}"].status == "claimed"
                new = (claimed, sum(hits), len(hits), sum(false), len(false))
                counts[name] = [a + b for a, b in zip(counts[name], new, strict=True)]
        for name, (claimed, held, shown, wrong, avoided) in counts.items():
            print(
                f"ridge, 1 domain x {trials}, noise {noise:g}, {name}: claimed "
                f"{percent(claimed, repeats)}, edges covered {percent(held, shown)}, false avoid "
                f"{percent(wrong, avoided)}",
                flush=True,
            )


def p_good(repeats: int) -> None:
    """Said and true, over the learning rates of the grid (ridge: the product's axis)."""
    away = reach()
    cases = (
        ("valley", valley(), (RATE, WEIGHT), "learning_rate", -4.5 - away, -4.5 + away),
        ("cliff", cliff(), (RATE, WEIGHT), "learning_rate", -4.5 - CLIFF_LOW, -4.5 + CLIFF_HIGH),
        ("ridge", ridge(), (RATE, STEPS, WEIGHT), RATE_BY_STEPS, -2.5 - away, -2.5 + away),
        ("ridge", ridge(), (RATE, STEPS, WEIGHT), "learning_rate", -5.5 - away, -3.5 + away),
    )
    pooled: list[tuple[np.ndarray, np.ndarray]] = []
    for name, score, axes, param, low, high in cases:
        own = []
        for trials in (40, 100):
            for noise in (TOLERANCE / 2, TOLERANCE):
                for findings, _ in analysed(score, trials, ("x",), repeats, axes, noise):
                    (region,) = [r for r in findings.methods["a"].regions if r.axis.name == param]
                    logs = np.log10(region.grid)
                    own.append((region.p_good, (low <= logs) & (logs <= high)))
        print(f"p_good, {name}, {param}: {_reliability(own)}", flush=True)
        pooled += own
    print(f"p_good, all: {_reliability(pooled)}", flush=True)


def _reliability(found: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    said, true = (np.concatenate(parts) for parts in zip(*found, strict=True))
    words = []
    for low, high in pairwise(BINS):
        here = (said >= low) & (said < high)
        if here.any():
            words.append(f"{low:g}-{high:.2g}: {true[here].mean():.2f} of {here.sum()}")
    return "; ".join(words)


def main() -> None:
    """Measure all parts, or one."""
    away = reach(power=1.5)
    parts: dict[str, Callable[[int], None]] = {
        "null": null,
        "valley": lambda n: edges(
            "valley", valley(), 10 ** (-4.5 - reach()), 10 ** (-4.5 + reach()), n
        ),
        "sharp": lambda n: edges(
            "sharp", valley(power=1.5), 10 ** (-4.5 - away), 10 ** (-4.5 + away), n
        ),
        "cliff": lambda n: edges(
            "cliff", cliff(), 10 ** (-4.5 - CLIFF_LOW), 10 ** (-4.5 + CLIFF_HIGH), n
        ),
        "outside": outside,
        "share": share,
        "ridge": ridge_claims,
        "p_good": p_good,
    }
    run_parts(__doc__, parts, 100)


if __name__ == "__main__":
    main()

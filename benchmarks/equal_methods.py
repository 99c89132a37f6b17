"""How often two methods that do the same are told apart, and two that differ; planted truth.

    python benchmarks/equal_methods.py [--repeats 200] [--only PART]

equal      the published comparison between two of three equal valleys (5 % allowed), and what of it
           random halves alone, or exchanged trials alone, would have said
repeated   the same with 25 configurations, each tried with 4 seeds
worse      one of the two 3 tolerances worse everywhere: less robust by the share near the best
           known and the mean score while tuning, as robust within its own trials
wider      one of the two a valley twice as wide: it is more robust by all three statistics
best       "the best of seven methods" among seven equal ones (5 % allowed), and with one twice as
           wide as six
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "analysis"))

import numpy as np
import pandas as pd
from run_parts import run_parts
from surfaces import TOLERANCE, Score, planted, valley

from ray_unlearn.analysis.guidelines.findings import HEADLINE
from ray_unlearn.analysis.statistics import paired_difference
from ray_unlearn.analysis.statistics.configurations import with_configurations
from ray_unlearn.analysis.statistics.contests import RobustnessClaim, all_pairs, robustness_claim
from ray_unlearn.analysis.statistics.paired_difference import Interval

DESIGNS = ((8, 1), (8, 9), (12, 1), (20, 1), (40, 1), (34, 3), (100, 1))
"""Trials of each method in each domain, and domains."""
SHORT = 0.5
"""Share of the first method's trials where it has fewer than the other."""
METHODS = (*HEADLINE, "ascent_kl_in_distribution")
SEVEN = (*METHODS, "random_labels", "adversarial_samples", "ascent_kl_general", "npo")
NARROW, WIDE = valley(width=0.35), valley(width=0.7)
References = dict[str, Callable[[Interval, Interval], Interval]]
BOTH: References = {"both": paired_difference.wider}
REFERENCES: References = {
    **BOTH,
    "halves alone": lambda halves, exchange: halves,
    "exchange alone": lambda halves, exchange: exchange,
}


def worse(logs: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """The narrow valley, three tolerances higher everywhere."""
    return NARROW(logs, rng) + 3 * TOLERANCE


def trials_of(
    scores: dict[str, Score], trials: int, groups: int, seed: int, share: float = 1.0
) -> pd.DataFrame:
    """Trials as the analysis has them; of the first method a share (8 in each domain at least)."""
    names = [f"domain_{group}" for group in range(groups)]
    table = planted(scores, trials=trials, groups=names, seed=seed)
    frame = with_configurations(table.trials, table.axes)
    places = frame.groupby(["method", "group"]).cumcount()
    few = frame["method"] == next(iter(scores))
    return frame[~few | (places < max(8, round(share * trials)))]


def tried_again(scores: dict[str, Score], seed: int) -> pd.DataFrame:
    """25 configurations of each method, each with four seeds: noise is all that differs."""
    frame = trials_of(scores, 25, 1, seed)
    rng = np.random.default_rng([seed, 1])
    parts = [
        frame.assign(
            trial=frame["trial"] + again * len(frame),
            seed=float(again),
            **{
                name: frame[name] + rng.normal(0, TOLERANCE / 2, len(frame))
                for name in ("score", "score_selection")
            },
        )
        for again in range(4)
    ]
    return pd.concat(parts, ignore_index=True)


def compared(frame: pd.DataFrame, seed: int, references: References) -> dict[str, RobustnessClaim]:
    """The published comparison by each reference."""
    found = {}
    for name, reference in references.items():
        with patch.object(paired_difference, "wider", reference):
            found[name] = robustness_claim(frame, *HEADLINE, TOLERANCE, seed)
    return found


def report(
    name: str,
    sample: Callable[[int], pd.DataFrame],
    repeats: int,
    references: References = BOTH,
) -> None:
    """Print outcomes, and how often each statistic's 90 % interval leaves out 0."""
    found = [compared(sample(seed), seed, references) for seed in range(repeats)]
    for reference in references:
        claims = [claims[reference] for claims in found]
        said = ", ".join(
            f"{outcome} {100 * sum(c.outcome == outcome for c in claims) / repeats:.0f} %"
            for outcome in ("more robust", "less robust")
        )
        alone = ", ".join(
            f"{difference.statistic} "
            f"{100 * sum(c.outcomes[i] != 'not settled' for c in claims) / repeats:.0f} %"
            for i, difference in enumerate(claims[0].differences)
        )
        print(f"{name}, {reference}: {said}; by one 90 % interval {alone}", flush=True)


def repeated(repeats: int) -> None:
    """Measure configurations that were tried again, as one and as if each were another."""
    scores = dict.fromkeys(METHODS, NARROW)
    report("repeated", lambda seed: tried_again(scores, seed), repeats)
    report(
        "repeated, each trial taken for a configuration",
        lambda seed: tried_again(scores, seed).assign(configuration=lambda f: f["trial"]),
        repeats,
    )


def two_methods(
    name: str, first: Score, second: Score, repeats: int, references: References
) -> None:
    """Measure two methods that do this and that."""
    scores = dict(zip(METHODS, (first, second, NARROW), strict=True))
    for trials, groups in DESIGNS:
        for share in (1.0, SHORT)[: 1 if trials < 16 else 2]:
            design = f"{name}, {trials} trials in each of {groups} domains"
            design += "" if share == 1 else ", the first with half"
            report(
                design,
                lambda seed, t=trials, g=groups, s=share: trials_of(  # type: ignore[misc]
                    scores, t, g, seed, s
                ),
                repeats,
                references,
            )


def best(repeats: int) -> None:
    """Measure the best of seven."""
    for name, first in (("equal", NARROW), ("one twice as wide", WIDE)):
        scores = {method: first if i == 0 else NARROW for i, method in enumerate(SEVEN)}
        for trials, groups in DESIGNS:
            told = right = 0
            for seed in range(repeats):
                frame = trials_of(scores, trials, groups, seed)
                pairs = all_pairs(frame, SEVEN, seed, fallback={})
                assert pairs is not None
                settled = [
                    d for d, p in zip(pairs.differences, pairs.adjusted_p, strict=True) if p <= 0.05
                ]
                told += bool(settled)
                right += any(d.method_a == SEVEN[0] and d.mean < 0 for d in settled)
            print(
                f"best of seven, {name}, {trials} trials in each of {groups} domains: "
                f"some two told apart {100 * told / repeats:.0f} %, the first better than another "
                f"{100 * right / repeats:.0f} %",
                flush=True,
            )


if __name__ == "__main__":
    run_parts(
        __doc__,
        {
            "equal": lambda n: two_methods("equal", NARROW, NARROW, n, REFERENCES),
            "repeated": repeated,
            "worse": lambda n: two_methods("worse", NARROW, worse, n, REFERENCES),
            "wider": lambda n: two_methods("wider", WIDE, NARROW, n, BOTH),
            "best": best,
        },
        200,
    )

"""How often ranges are claimed, wrong, or missed at 20 to 400 trials, on planted truth.

    python benchmarks/claim_rates.py [--repeats 24] [--only PART] [--trials 20,40] [--noise 0.05]

power     a range claimed on the axis that carries it, its edges covered, claims on null axes, the
          95 % interval of the good share, and P(good) against the truth: valleys, cliff, ridge
sharp     the same with sharp bottoms (powers 1.5 and 1)
flat      pure noise: studies with any claim (`leave it alone` is none)
adaptive  60 trials of which 45 are chosen by Optuna's TPE, against 60 drawn ones
curves    the same as power, of trials with five evaluations each: the surface is that of the
          score's components; one more axis does nothing

The tolerance is 0.1; noise is the SD of a score. Studies run in two processes.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from multiprocessing import Pool
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "analysis"))

import numpy as np
import optuna
import pandas as pd
from planted_curves import expected_score, planted_with_curves
from surfaces import (
    RATE,
    STEPS,
    TOLERANCE,
    WEIGHT,
    Score,
    cliff,
    flat,
    good_share_of,
    planted,
    reach,
    ridge,
    valley,
)

from ray_unlearn.analysis.guidelines.claims import guidelines_of
from ray_unlearn.analysis.guidelines.findings import find
from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.spec.narrowed_range import RATE_BY_STEPS
from ray_unlearn.surfaces.axes import Axis

Interval = tuple[float, float]
BINS = (0.0, 0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0 + 1e-9)


@dataclass(frozen=True)
class Planted:
    """A truth: the axis that carries it, and where it is good there (decades)."""

    score: Score
    axes: tuple[Axis, ...]
    carrier: str = ""
    good: Interval = (math.nan, math.nan)


def _around(best: float, away: float) -> Interval:
    return best - away, best + away


TWO, THREE = (RATE, WEIGHT), (RATE, STEPS, WEIGHT)
CASES = {
    "valley": Planted(valley(), TWO, "learning_rate", _around(-4.5, reach())),
    "narrow valley": Planted(
        valley(width=0.25), TWO, "learning_rate", _around(-4.5, reach(width=0.25))
    ),
    "cliff": Planted(
        cliff(), TWO, "learning_rate", (-4.5 - (TOLERANCE / 0.25) ** 0.5, -4.5 + TOLERANCE**0.5)
    ),
    "ridge": Planted(ridge(), THREE, RATE_BY_STEPS, _around(-2.5, reach())),
    "power 1.5": Planted(valley(power=1.5), TWO, "learning_rate", _around(-4.5, reach(power=1.5))),
    "power 1": Planted(valley(power=1.0), TWO, "learning_rate", _around(-4.5, reach(power=1.0))),
    "flat, 2 axes": Planted(flat, TWO),
    "flat, 3 axes": Planted(flat, THREE),
}
CURVE_AXES = (RATE, WEIGHT, Axis("nothing", "log", 1.0, 10.0))
SEED_SDS = {TOLERANCE / 2: 0.11, TOLERANCE: 0.3}
"""What a seed adds to each transformed change, by the SD of the score at the best point."""
PARTS = {
    "power": ("valley", "narrow valley", "cliff", "ridge"),
    "sharp": ("power 1.5", "power 1"),
    "flat": ("flat, 2 axes", "flat, 3 axes"),
    "adaptive": ("valley", "cliff", "ridge"),
    "curves": ("curves",),
}
Job = tuple[str, int, float, int, bool]
"""Case, trials, noise, seed, whether most trials are adaptive."""


@dataclass(frozen=True)
class Study:
    """What one planted study said."""

    claimed: bool
    nulls: int
    """Ranges claimed on axes that do nothing."""
    claims: int
    covered: tuple[bool, ...]
    share: Interval | None
    p_good: np.ndarray
    good: np.ndarray


def studied(job: Job) -> Study:
    """Analyse one planted study."""
    name, trials, noise, seed, adaptive = job
    if name == "curves":
        seed_sd = SEED_SDS[noise]
        table = planted_with_curves(trials, 30_000 + seed, seed_sd=seed_sd, axes=CURVE_AXES)
        return _said(table, curves_truth(seed_sd)[0])
    case = CASES[name]
    table = planted(
        {"a": case.score}, trials=trials, groups=("x",), axes=case.axes, noise=noise,
        seed=30_000 + seed,
    )  # fmt: skip
    if adaptive:
        table = _mostly_adaptive(table, case, noise, seed)
    return _said(table, case)


@cache
def curves_truth(seed_sd: float) -> tuple[Planted, float]:
    """Where the learning rate of the planted curves is good, and the share of their space."""
    rates = np.linspace(0, 1, 241)
    grid = np.stack(np.meshgrid(rates, np.linspace(0, 1, 21), indexing="ij"), -1).reshape(-1, 2)
    expected = expected_score(grid, seed_sd)
    good = expected <= expected.min() + TOLERANCE
    logs = np.log10(RATE.from_unit(rates[good.reshape(241, 21).any(1)]))
    ends = float(logs.min()), float(logs.max())
    return Planted(flat, CURVE_AXES, "learning_rate", ends), float(good.mean())


def _said(table: TrialTable, case: Planted) -> Study:
    findings = find(table)
    found = {guideline.id: guideline for guideline in guidelines_of(findings)}
    claims = [g for g in found.values() if g.status == "claimed"]
    null = case.axes[-1].name
    nulls = [g for g in claims if g.kind in ("range", "avoid") and g.param == null]
    covered: list[bool] = []
    p_good = good = np.empty(0)
    carrier = found.get(f"range/a/{case.carrier}")
    if carrier is not None:
        ends = zip(("low", "high"), case.good, strict=True)
        edges = [(carrier.estimates.get(f"{side}_edge_90"), 10**end) for side, end in ends]
        covered = [edge[0] <= end <= edge[1] for edge, end in edges if edge]
        (region,) = (r for r in findings.methods["a"].regions if r.axis.name == case.carrier)
        logs = np.log10(region.grid)
        p_good, good = region.p_good, (case.good[0] <= logs) & (logs <= case.good[1])
    share = findings.methods["a"].good_share
    return Study(
        carrier is not None and carrier.status == "claimed",
        len(nulls),
        len(claims),
        tuple(covered),
        None if share is None else (share.low, share.high),
        p_good,
        good,
    )


def _mostly_adaptive(table: TrialTable, case: Planted, noise: float, seed: int) -> TrialTable:
    """The same table with all but 15 trials replaced by what TPE chose after them."""
    frame, rng = table.trials.copy(), np.random.default_rng(seed)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(n_startup_trials=15, seed=seed))
    space = {
        axis.name: optuna.distributions.FloatDistribution(axis.low, axis.high, log=True)
        for axis in case.axes
    }
    for i in frame.index:
        if i >= 15:
            trial = study.ask(space)
            logs = pd.DataFrame({name: [np.log10(value)] for name, value in trial.params.items()})
            clean = float(case.score(logs, rng)[0])
            frame.loc[i, list(trial.params)] = list(trial.params.values())
            fine = math.isfinite(clean)
            scores = clean + rng.normal(0, noise, 2) if fine else np.full(2, np.nan)
            frame.loc[i, ["score", "score_selection"]] = scores
            frame.loc[i, "infeasible"], frame.loc[i, "drawn"] = not fine, "adaptive"
            study.tell(trial, scores[0] if fine else 10.0)
            continue
        params = {name: float(frame.loc[i, name]) for name in space}
        value = frame.loc[i, "score"]
        study.add_trial(
            optuna.trial.create_trial(
                params=params, distributions=space, value=value if np.isfinite(value) else 10.0
            )
        )
    frame["status"] = np.where(frame["infeasible"], "diverged", "complete")
    rows = frame[["trial", "update", "score", "score_selection"]].assign(forget_nll=np.nan)
    return replace(table, trials=frame, rows=rows)


def percent(count: int, of: int) -> str:
    """A count in words: `3 of 60 (5 %)`."""
    return f"{count} of {of} ({100 * count / of:.0f} %)" if of else "none"


def said(name: str, studies: Sequence[Study], share: float | None) -> str:
    """One line of figures."""
    n = len(studies)
    words = [f"any claim {percent(sum(s.claims > 0 for s in studies), n)}"]
    if share is not None:
        covered = [hit for study in studies for hit in study.covered]
        held = [s.share[0] <= share <= s.share[1] for s in studies if s.share]
        words = [
            f"range claimed {percent(sum(s.claimed for s in studies), n)}",
            f"edges covered {percent(sum(covered), len(covered))}",
            f"a null axis claimed {percent(sum(s.nulls > 0 for s in studies), n)}",
            f"share held {percent(sum(held), len(held))}",
        ]
    return f"{name}: {', '.join(words)}"


def reliability(studies: Iterable[Study]) -> str:
    """Of values said to be good with a probability in each bin, the share that is."""
    some = list(studies)
    said_p = np.concatenate([study.p_good for study in some])
    true = np.concatenate([study.good for study in some])
    words = []
    for low, high in pairwise(BINS):
        here = (said_p >= low) & (said_p < high)
        if here.any():
            words.append(f"{low:g}-{high:.2g}: {true[here].mean():.2f} of {here.sum()}")
    return "; ".join(words)


def share_of(name: str, noise: float) -> float | None:
    """The share of the space that is good; None where all of it is."""
    if name == "curves":
        return curves_truth(SEED_SDS[noise])[1]
    case = CASES[name]
    return good_share_of(case.score, case.axes) if case.carrier else None


def main() -> None:
    """Measure all parts, or one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=24)
    parser.add_argument("--only", choices=list(PARTS))
    parser.add_argument("--trials", default="20,40")
    parser.add_argument("--noise", default=f"{TOLERANCE / 2},{TOLERANCE}")
    given = parser.parse_args()
    began = time.monotonic()
    sizes = [int(size) for size in given.trials.split(",")]
    noises = [float(noise) for noise in given.noise.split(",")]
    with Pool(2) as pool:
        for part, names in PARTS.items():
            if given.only not in (None, part):
                continue
            everything: list[Study] = []
            for name in names:
                for trials in [60] if part == "adaptive" else sizes:
                    for noise in noises:
                        share = share_of(name, noise)
                        for adaptive in (False, True) if part == "adaptive" else (False,):
                            jobs = [
                                (name, trials, noise, seed, adaptive)
                                for seed in range(given.repeats)
                            ]
                            studies = pool.map(studied, jobs, chunksize=2)
                            everything += studies
                            how = " of which 45 adaptive" if adaptive else ""
                            line = f"{name}, {trials} trials{how}, noise {noise:g}"
                            print(said(line, studies, share), flush=True)
            if part != "flat":
                print(f"P(good), {part}: {reliability(everything)}", flush=True)
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()

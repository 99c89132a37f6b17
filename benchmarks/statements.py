"""Whether what is said short of a claim is true, and what the next trials settle, on planted truth.

    python benchmarks/statements.py [--repeats 20] [--only PART]

likely         of likely ranges said with 0.6 to 0.7 and so on: the share of their values that is
               good, for hyperparameters that matter and for null ones
leave_alone    how often a hyperparameter is said to be left alone: null, costing half the tolerance
               (true), exactly the tolerance (the edge), one and a half of it (false)
settled        trials that are said to settle a likely range, added in it: how often they did
next           8 trials by `--next`, at random, and by neither: what is still unknown afterwards
contradiction  pairs of statements that exclude each other (never wanted)
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "analysis"))

import itertools

import numpy as np
import pandas as pd
from run_parts import run_parts
from surfaces import (
    RATE,
    TOLERANCE,
    WEIGHT,
    Score,
    cliff,
    contradictions,
    flat,
    planted,
    ridge,
    valley,
)

from ray_unlearn.analysis.guidelines.claims import guidelines_of
from ray_unlearn.analysis.guidelines.findings import find
from ray_unlearn.analysis.guidelines.next_trials import next_trials
from ray_unlearn.analysis.statistics.good_regions import Region
from ray_unlearn.analysis.statistics.likely_values import likely_values, trials_to_settle
from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.spec.narrowed_range import RATE_BY_STEPS
from ray_unlearn.surfaces.axes import Axis

STEPS = Axis("steps", "log", 4, 64)
BINS = (0.6, 0.7, 0.8, 0.9, 1.01)
NOISES = (TOLERANCE / 2, TOLERANCE)
K = 8


def tilted(cost: float, curved: bool = False) -> Score:
    """A valley, and a cost of log w_r over its whole range: straight, or greatest at both ends."""
    span = np.log10(WEIGHT.high / WEIGHT.low)

    def score(logs: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        tilt = (logs["w_r"].to_numpy() - np.log10(WEIGHT.low)) / span
        return valley()(logs, rng) + cost * ((2 * tilt - 1) ** 2 if curved else tilt)

    return score


TRUTHS: dict[str, tuple[Score, tuple[Axis, ...], str]] = {
    "valley": (valley(), (RATE, WEIGHT), "learning_rate"),
    "wide": (valley(best=-4.2, width=1.0), (RATE, WEIGHT), "learning_rate"),
    "narrow": (valley(width=0.25), (RATE, WEIGHT), "learning_rate"),
    "sharp": (valley(power=1.0), (RATE, WEIGHT), "learning_rate"),
    "cliff": (cliff(), (RATE, WEIGHT), "learning_rate"),
    "ridge": (ridge(best=-3.3), (RATE, STEPS), RATE_BY_STEPS),
}


def good_on(name: str, values: np.ndarray) -> np.ndarray:
    """Whether values [g] of the hyperparameter that matters are good, by the planted truth."""
    score, _, param = TRUTHS[name]
    logs = np.log10(values)
    if param == RATE_BY_STEPS:
        frame = pd.DataFrame({"learning_rate": logs, "steps": np.zeros(len(logs))})
    else:
        frame = pd.DataFrame({"learning_rate": logs, "w_r": np.zeros(len(logs))})
    return np.asarray(score(frame, np.random.default_rng()) <= 0.2 + TOLERANCE + 1e-9)


def regions_of(table: TrialTable) -> dict[str, Region]:
    """Regions of method a by hyperparameter."""
    return {region.axis.name: region for region in find(table).methods["a"].regions}


def likely(repeats: int) -> None:
    """Measure likely ranges of one domain, and of three with the same truth."""
    found: list[tuple[bool, float, float]] = []
    for name, (score, axes, param) in TRUTHS.items():
        for trials, groups in ((12, ("x",)), (20, ("x",)), (40, ("x",)), (20, ("x", "y", "z"))):
            for noise in NOISES:
                for seed in range(30_000, 30_000 + repeats):
                    table = planted(
                        {"a": score},
                        trials=trials,
                        groups=groups,
                        axes=axes,
                        noise=noise,
                        seed=seed,
                    )
                    for region in regions_of(table).values():
                        if region.axis.name not in (param, "w_r"):
                            continue  # factors of a ridge: good with some setting of the other
                        best = int(np.argmin(np.abs(region.grid - region.best)))
                        run = likely_values(region.p_good, best)
                        if run is None:
                            continue
                        values = region.grid[run.first : run.last + 1]
                        matters = region.axis.name == param
                        true = good_on(name, values).mean() if matters else 1.0
                        found.append((matters, run.probability, float(true)))
        report_likely(f"up to {name}", found)


def report_likely(name: str, found: list[tuple[bool, float, float]]) -> None:
    """Print said and true by bin."""
    for kind in (True, False):
        own = np.array([(said, true) for matters, said, true in found if matters == kind])
        words = []
        for low, high in itertools.pairwise(BINS):
            here = own[(own[:, 0] >= low) & (own[:, 0] < high)] if len(own) else own
            if len(here):
                said, true = here.mean(0)
                words.append(
                    f"{low:g}-{min(high, 1):g}: said {said:.2f}, true {true:.2f} of {len(here)}"
                )
        print(f"likely, {name}, {'matters' if kind else 'null'}: {'; '.join(words)}", flush=True)


def leave_alone(repeats: int) -> None:
    """Measure how often w_r is said to be left alone, by what it costs."""
    for cost, curved in ((0.0, False), (0.5, False), (1.0, False), (1.0, True), (1.5, False)):
        for trials in (40, 100):
            for noise in NOISES:
                said = 0
                for seed in range(40_000, 40_000 + repeats):
                    score = tilted(cost * TOLERANCE, curved)
                    table = planted({"a": score}, trials=trials, noise=noise, seed=seed)
                    said += regions_of(table)["w_r"].p_harmless >= 0.95
                print(
                    f"leave alone, costs {cost:g} tau{' (curved)' * curved}, {trials} trials, "
                    f"noise {noise:g}: said in "
                    f"{said} of {repeats} ({100 * said / repeats:.0f} %)",
                    flush=True,
                )


def more_trials(
    table: TrialTable, score: Score, values: pd.DataFrame, noise: float, seed: int
) -> TrialTable:
    """The table with more trials of the first group at these settings (one column per axis)."""
    rng = np.random.default_rng([seed, 7])
    axes = table.axes["a"]
    logs = pd.DataFrame({axis.name: np.log10(values[axis.name].astype(float)) for axis in axes})
    clean = np.asarray(score(logs, rng), dtype=float)
    fresh = planted({"a": score}, trials=len(values), axes=axes, noise=noise, seed=seed + 1).trials
    fresh = fresh.assign(**{axis.name: values[axis.name].to_numpy(dtype=float) for axis in axes})
    known = np.isfinite(clean)
    fresh = fresh.assign(
        infeasible=~known,
        score=np.where(known, clean + rng.normal(0, noise, len(clean)), np.nan),
        score_selection=np.where(known, clean + rng.normal(0, noise, len(clean)), np.nan),
        status=np.where(known, "complete", "diverged"),
        trial=np.arange(len(fresh)) + len(table.trials),
    )
    group = table.trials["group"].iloc[0]
    fresh = fresh.assign(group=group, domain=group, study=group)
    trials = pd.concat([table.trials, fresh], ignore_index=True)
    rows = trials[["trial", "update", "score", "score_selection"]].assign(forget_nll=np.nan)
    return TrialTable(trials, rows, table.axes, table.score)


def unknown(region: Region) -> float:
    """Mean p (1 - p) over the grid: 0.25 where nothing is known."""
    return float((region.p_good * (1 - region.p_good)).mean())


def settled(repeats: int) -> None:
    """Add the trials that are said to settle a likely range, in it."""
    for name in ("valley", "wide", "cliff"):
        score, axes, param = TRUTHS[name]
        done, said = 0, []
        for seed in range(50_000, 50_000 + repeats):
            table = planted({"a": score}, trials=20, axes=axes, noise=TOLERANCE / 2, seed=seed)
            region = regions_of(table)[param]
            best = int(np.argmin(np.abs(region.grid - region.best)))
            run = likely_values(region.p_good, best)
            if run is None:
                continue
            low, high = region.grid[run.first], region.grid[run.last]
            there = int(table.trials[param].between(low, high).sum())
            more = trials_to_settle(region.p_good[run.first : run.last + 1], there)
            if more is None:
                continue
            said.append(more)
            rng = np.random.default_rng(seed)
            values = pd.DataFrame({axis.name: axis.from_unit(rng.random(more)) for axis in axes})
            values[param] = 10 ** rng.uniform(np.log10(low), np.log10(high), more)
            after = regions_of(more_trials(table, score, values, TOLERANCE / 2, seed))[param]
            inside = after.p_good[run.first : run.last + 1]
            done += np.maximum(inside, 1 - inside).mean() >= 0.9
        print(
            f"settled, {name}: {done} of {len(said)} by the trials said (median "
            f"{np.median(said or [0]):.0f})",
            flush=True,
        )


def following(repeats: int) -> None:
    """What is unknown of the learning rate and w_r after 8 more trials, chosen and at random."""
    for name in ("valley", "narrow", "cliff"):
        score, axes, _param = TRUTHS[name]
        for trials in (12, 20):
            left: dict[str, list[float]] = {
                "before": [],
                "next": [],
                "random": [],
                "random, twice": [],
            }
            for seed in range(60_000, 60_000 + repeats):
                noise = TOLERANCE / 2
                table = planted({"a": score}, trials=trials, axes=axes, noise=noise, seed=seed)
                left["before"].append(total(table))
                findings = find(table)
                chosen = next_trials(findings, guidelines_of(findings), K)
                values = pd.DataFrame([trial.values for trial in chosen])
                left["next"].append(total(more_trials(table, score, values, noise, seed)))
                rng = np.random.default_rng(seed)
                for words, count in (("random", K), ("random, twice", 2 * K)):
                    drawn = {axis.name: axis.from_unit(rng.random(count)) for axis in axes}
                    fresh = more_trials(table, score, pd.DataFrame(drawn), noise, seed)
                    left[words].append(total(fresh))
            words = "; ".join(f"{key} {np.mean(found):.3f}" for key, found in left.items())
            print(f"next, {name}, {trials} trials and {K} more, unknown: {words}", flush=True)


def total(table: TrialTable) -> float:
    """What is unknown of all hyperparameters."""
    return sum(map(unknown, regions_of(table).values()))


def contradiction(repeats: int) -> None:
    """Count statements that exclude each other."""
    designs = (
        {"trials": 20},
        {"trials": 60, "noise": TOLERANCE},
        {"trials": 110},
        {"trials": 40, "groups": ("x", "y", "z"), "noise": TOLERANCE},
    )
    cases = {name: (score, axes) for name, (score, axes, _) in TRUTHS.items()}
    cases |= {"flat": (flat, (RATE, WEIGHT)), "tilted": (tilted(TOLERANCE), (RATE, WEIGHT))}
    for name, (score, axes) in cases.items():
        found: list[str] = []
        for design in designs:
            for seed in range(70_000, 70_000 + repeats):
                found += contradictions(planted({"a": score}, axes=axes, seed=seed, **design))
        print(
            f"contradictions, {name}: {len(found)} in {repeats * len(designs)} studies", flush=True
        )
        for pair in found[:5]:
            print(f"  {pair}", flush=True)


PARTS: dict[str, Callable[[int], None]] = {
    "likely": likely,
    "leave_alone": leave_alone,
    "settled": settled,
    "next": following,
    "contradiction": contradiction,
}


def main() -> None:
    """Measure all parts, or one."""
    run_parts(__doc__, PARTS, 20)


if __name__ == "__main__":
    main()

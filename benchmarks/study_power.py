"""What a study can find out, by its trials: the table that `plan` reads, on planted truth.

    python benchmarks/study_power.py [--repeats 24] [--write] [--only curves|scores]

One method in one domain. The learning rate has good values over a quarter of its range (log scale);
the retain weight matters less than the tolerance; further hyperparameters do nothing. Of so many
studies, with noise of half a tolerance and of a whole one (SD of a score between seeds): how often
a range of the learning rate is claimed, how often the last hyperparameter is said to be left alone,
and how often the recommended setting is within the tolerance of the best.

curves  trials with five evaluations each, whose score's components are fitted
scores  trials with one score each, and with scores at several strengths

`--write` replaces ray_unlearn/analysis/study_power.csv.
"""

import argparse
import os
import sys
import time
from dataclasses import astuple, fields
from functools import cache
from multiprocessing import Pool
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "analysis"))

import numpy as np
import pandas as pd
from planted_curves import WEIGHT_GIVEN, expected_score, planted_with_curves
from surfaces import RATE, TOLERANCE, WEIGHT, planted, valley

from ray_unlearn.analysis.guidelines.claims import guidelines_of
from ray_unlearn.analysis.guidelines.findings import find
from ray_unlearn.analysis.guidelines.recommendations import recommendations
from ray_unlearn.analysis.study_power import TABLE, Measured
from ray_unlearn.surfaces.axes import Axis

AXES = (RATE, WEIGHT, Axis("first", "log", 1.0, 10.0), Axis("second", "log", 1.0, 10.0))
COUNTS = (1, 2, 4)
TRIALS = (4, 8, 12, 20, 40, 100)
SEED_SDS = {0.5: 0.11, 1.0: 0.3}
"""What a seed adds to each transformed change, by the SD of the score at the best point in
tolerances."""
BEND, WIDTH = 3.0, 0.65
"""At which a quarter of the learning rate's range is good, of curves and of scores."""
Job = tuple[bool, int, int, float, int]


def studied(job: Job) -> tuple[bool, bool, bool]:
    """Whether one planted study claims a range, leaves alone, and recommends a good setting."""
    curves, count, trials, noise, seed = job
    axes = AXES[:count]
    if curves:
        table = planted_with_curves(
            trials, 80_000 + seed, seed_sd=SEED_SDS[noise], axes=axes, bend=BEND
        )
    else:
        table = planted(
            {"a": valley(width=WIDTH)}, trials=trials, axes=axes, noise=noise * TOLERANCE,
            seed=80_000 + seed,
        )  # fmt: skip
    findings = find(table)
    guidelines = guidelines_of(findings)
    found = {guideline.id: guideline for guideline in guidelines}
    (setting,) = (one.setting for one in recommendations(findings, guidelines))
    last = found.get(f"range/a/{axes[-1].name}")
    return (
        found["range/a/learning_rate"].status == "claimed",
        count > 1 and last is not None and last.status == "leave_alone",
        cost_of(setting, curves, noise) <= TOLERANCE,
    )


def cost_of(setting: dict[str, object], curves: bool, noise: float) -> float:
    """What a setting truly costs against the best."""
    rate = float(setting["learning_rate"])  # type: ignore[arg-type]
    if not curves:
        return 0.3 * (abs(np.log10(rate) + 4.5) / WIDTH) ** 2
    weight = float(setting.get("w_r", WEIGHT_GIVEN))  # type: ignore[arg-type]
    point = np.array([[RATE.to_unit(rate), WEIGHT.to_unit(weight)]], dtype=float)
    return float(
        expected_score(point, SEED_SDS[noise], bend=BEND)[0] - least("w_r" in setting, noise)
    )


@cache
def least(weight_searched: bool, noise: float) -> float:
    """The best expected score of the planted curves."""
    weights = np.linspace(0, 1, 41) if weight_searched else [WEIGHT.to_unit(WEIGHT_GIVEN)]
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 41), weights), -1).reshape(-1, 2)
    return float(expected_score(grid, SEED_SDS[noise], bend=BEND).min())


def main() -> None:
    """Measure all cells, and write the table if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=24)
    parser.add_argument("--only", choices=["curves", "scores"])
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    began, cells = time.monotonic(), []
    with Pool(2) as pool:
        for curves in (True, False):
            if given.only == ("scores" if curves else "curves"):
                continue
            for count in COUNTS:
                for trials in TRIALS:
                    for noise in SEED_SDS:
                        jobs = [(curves, count, trials, noise, s) for s in range(given.repeats)]
                        shares = np.mean(pool.map(studied, jobs, chunksize=2), axis=0).round(3)
                        cell = Measured(curves, count, trials, noise, given.repeats, *shares)
                        cells.append(astuple(cell))
                        print(cell, flush=True)
    if given.write:
        columns = [field.name for field in fields(Measured)]
        pd.DataFrame(cells, columns=columns).to_csv(TABLE, index=False, lineterminator="\n")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()

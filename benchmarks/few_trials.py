"""Whether a setting recommended from a few trials is as good as is said, on real trials.

    python benchmarks/few_trials.py [--repeats 2]

Of the reference campaign (docs/reference/rows.parquet, trials as trained), 3, 5 and 8 trials of one
method on one trained model are all that is known; a setting is recommended from them. The judge is
the surface of all 108 trials of that method on nine models, at the same model. It is a fit, too,
and no truth: it knows 12 trials of that model. Printed is how often the setting is within the
tolerance of the best, by what was said, and how often costs lie below their 95 % bounds.
"""

import argparse
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_unlearn.analysis.guidelines.group_parts import group_parts
from ray_unlearn.analysis.read.study_results import load
from ray_unlearn.analysis.report.derive import table_of
from ray_unlearn.analysis.statistics.fitted_groups import FittedGroup, fit_groups
from ray_unlearn.analysis.statistics.recommended_point import recommended_point
from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.store.schema import AS_TRAINED
from ray_unlearn.store.table import write_table
from ray_unlearn.surfaces.axes import Axis
from ray_unlearn.surfaces.searched_points import settable, spread_points

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
SIZES = (3, 5, 8)
POINTS = 4096
SAID = (0.0, 0.6, 0.8, 0.95, 1.0)


def campaign() -> TrialTable:
    """The trials of the reference campaign, scored as trained."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "rows.parquet"
        rows = pq.read_table(REFERENCE / place.name)
        write_table(rows.filter(pc.equal(rows["strength"], AS_TRAINED)), place)
        shutil.copy(REFERENCE / "baselines.parquet", folder)
        table = table_of(load([place], objective={"forget_gap": 1.0}), None)
    assert table is not None
    return table


def recommended(
    table: TrialTable, axes: tuple[Axis, ...], trials: pd.DataFrame, judge: FittedGroup
) -> dict[str, float] | None:
    """What is said of the setting recommended from some trials, and what the judge says."""
    rows = table.rows[table.rows["trial"].isin(trials["trial"])]
    (part,) = group_parts(replace(table, trials=trials, rows=rows), trials, axes)
    (fit,) = fit_groups([part], axes, table.score.tolerance, 0)
    known = np.where(part.infeasible, np.inf, part.scores)
    best = part.points[int(known.argmin())]
    found = recommended_point([fit], [best], axes, table.score.tolerance, 0, floor=0.0)
    if found is None or judge.surface is None:
        return None
    space = settable(np.concatenate([judge.part.points, spread_points(axes, POINTS, 0)]), axes)
    least = min(float(judge.surface.mean(space).min()), *judge.surface.mean(found.point[None]))
    regret, of_best = judge.surface.mean(np.stack([found.point, best])) - least
    return {
        "said": found.regret.p_good,
        "good": regret <= table.score.tolerance,
        "below": regret <= found.regret.high,
        "best_below": of_best <= found.best_regret.high,
    }


def main() -> None:
    """Measure every method on every model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=2)
    repeats = parser.parse_args().repeats
    table, rng = campaign(), np.random.default_rng(0)
    found = []
    for method, axes in table.axes.items():
        trials = table.of(method)
        for judge in fit_groups(group_parts(table, trials, axes), axes, table.score.tolerance, 0):
            own = trials[trials["group"] == judge.part.group]
            for size in SIZES * repeats:
                some = own.iloc[rng.permutation(len(own))[:size]]
                one = recommended(table, axes, some, judge)
                if one is not None:
                    found.append({"trials": size, "method": method} | one)
    lines = pd.DataFrame(found)
    lines["said"] = pd.cut(lines["said"], SAID)
    print(lines.groupby("trials")[["good", "below", "best_below"]].mean().round(2).to_string())
    for by in (["trials", "said"], ["method"]):
        counted = lines.groupby(by, observed=True)["good"].agg(["sum", "count"])
        print(counted.to_string())


if __name__ == "__main__":
    main()

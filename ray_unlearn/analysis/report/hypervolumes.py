"""Hypervolume of each method in each group: how good the trades are that it offers."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ray_unlearn.analysis.figures.look import thinned
from ray_unlearn.analysis.figures.pareto_fronts import pareto_data
from ray_unlearn.analysis.numerals import percentage
from ray_unlearn.analysis.report.page import Heading, Table
from ray_unlearn.analysis.statistics.pareto import rarefied_hypervolume
from ray_unlearn.analysis.trials import TrialTable

MOST_RAREFIED = 120
"""Trials of a method and group that enter; more change little and take long."""


def hypervolume_data(table: TrialTable) -> pd.DataFrame:
    """Rarefied hypervolume by group and method, as shares of the reference square.

    Both sides of the square are the vanilla model's forget gap in the group: a point beyond is
    worse than doing nothing. All methods and groups get the same number of trials, half of the
    fewest; where there are more than `MOST_RAREFIED`, that many chosen at random stand for all.
    """
    data, references = pareto_data(table), table.vanilla_gap
    if data.empty or not references:
        return pd.DataFrame()
    known = table.trials["group"].isin(list(references))
    trials = table.trials[(table.trials["drawn"] == "space") & known]
    counts = trials.groupby(["group", "method"]).size()
    size = int(min(counts.min() if len(counts) else 0, MOST_RAREFIED)) // 2
    if size < 2:
        return pd.DataFrame()
    points = _points_by_trial(data)
    return pd.DataFrame(
        [
            {"group": group, "method": method, **_volume(own, points, references[str(group)], size)}
            for (group, method), own in trials.groupby(["group", "method"], sort=True)
        ]
    )


def _volume(
    own: pd.DataFrame, points: dict[int, NDArray[np.float64]], side: float, size: int
) -> dict[str, float]:
    chosen = own[thinned(len(own), MOST_RAREFIED)]
    nowhere = np.empty((0, 2))
    known = [
        nowhere if infeasible else points.get(int(trial), nowhere)
        for trial, infeasible in zip(chosen["trial"], chosen["infeasible"], strict=True)
    ]
    found = rarefied_hypervolume(known, (side, side), size)
    shares = {name: getattr(found, name) / side**2 for name in ("expected", "low", "high")}
    return {**shares, "trials": size, "n": len(own), "reference": side}


def _points_by_trial(data: pd.DataFrame) -> dict[int, NDArray[np.float64]]:
    order = data.sort_values("trial", kind="stable")
    numbers, starts = np.unique(order["trial"].to_numpy(), return_index=True)
    values = order[["forget_gap", "utility_loss"]].to_numpy(dtype=float)
    return dict(zip(numbers.tolist(), np.split(values, starts[1:]), strict=True))


def hypervolume_table(volumes: pd.DataFrame, methods: Sequence[str]) -> Table:
    """A line per method, a column per group. volumes: `hypervolume_data`."""
    groups = list(dict.fromkeys(volumes["group"]))
    cells = {
        (line["method"], line["group"]): (
            f"{percentage(line['expected'])} ({percentage(line['low'])} \u2013 "
            f"{percentage(line['high'])})"
        )
        for line in volumes.to_dict("records")
    }
    shown = [method for method in methods if method in set(volumes["method"])]
    lines = [
        (f"`{method}`", *(cells.get((method, group), "\u2013") for group in groups))
        for method in shown
    ]
    k = int(volumes["trials"].iloc[0])
    caption = (
        f"Hypervolume of {k} random trials, with 90 % intervals: the share of the square between "
        "no loss at all and doing nothing (the vanilla model's forget gap, and as much utility "
        f"lost) in which the front of {k} trials is at least as good. \u2191 higher is better."
    )
    headings = (Heading("method", numeric=False), *(Heading(group) for group in groups))
    return Table(caption, headings, tuple(lines), tuple(shown))

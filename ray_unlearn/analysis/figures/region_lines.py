"""The numbers of a figure of good values (`region_profiles`)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ray_unlearn.analysis.figures.look import MOST_DOTS, thinned
from ray_unlearn.analysis.guidelines.method_findings import MethodFindings
from ray_unlearn.analysis.statistics.good_regions import Region
from ray_unlearn.analysis.statistics.selection import trial_regrets
from ray_unlearn.spec.guideline_file import Value


def region_data(
    method: MethodFindings, params: Sequence[str], setting: Mapping[str, Value]
) -> pd.DataFrame:
    """The numbers of a figure of good values.

    Lines per hyperparameter: `profile`, `core`, `excluded`, `low_edge`, `high_edge`, `trial`, and
    `recommended` (its `x`).

    `regret` of a trial: its score above that of the group's trial which the selection half calls
    best, so it can be negative. `drawn`: whether its dot is in the figure (at most `MOST_DOTS`
    are, chosen at random from a fixed seed).
    """
    known = {region.axis.name: region for region in method.regions if len(region.grid)}
    shown = [known[name] for name in params if name in known]
    if not shown:
        return pd.DataFrame()
    trials = method.trials.assign(
        regret=trial_regrets(method.trials), drawn=thinned(len(method.trials), MOST_DOTS)
    )
    parts = [part for region in shown for part in _lines(region, trials)]
    parts += [
        pd.DataFrame([{"param": name, "kind": "recommended", "x": _place(known[name], value)}])
        for name, value in setting.items()
        if name in params and name in known
    ]
    return pd.concat(parts, ignore_index=True)


def _lines(region: Region, trials: pd.DataFrame) -> list[pd.DataFrame]:
    name = region.axis.name
    curve = {"x": region.grid, "regret": region.profile, "low": region.low, "high": region.high}
    profile = pd.DataFrame({**curve, "p_good": region.p_good}).assign(kind="profile")
    ranges = pd.DataFrame(
        [
            {
                "kind": kind,
                "low": low,
                "high": high,
                "censored_low": kind == "core" and region.low_censored,
                "censored_high": kind == "core" and region.high_censored,
            }
            for kind, (low, high) in _spans(region)
        ]
    )
    values = trials[name]
    categorical = region.axis.scale == "categorical"
    named = trials.rename(columns={"infeasible": "without_score"})
    dots = named[["trial", "group", "regret", "without_score", "drawn"]].assign(
        kind="trial", x=region.axis.to_unit(values) if categorical else values.astype(float)
    )
    return [part.assign(param=name) for part in (profile, ranges, dots) if len(part)]


def _place(region: Region, value: Value) -> float:
    """Where a value is on the axis: a choice by its position."""
    axis = region.axis
    if axis.scale == "categorical":
        return float(axis.to_unit(np.array([value], dtype=object))[0])
    return float(value)  # type: ignore[arg-type]


def _spans(region: Region) -> list[tuple[str, tuple[float, float]]]:
    if region.axis.scale == "categorical":
        code = {choice: float(i) for i, choice in enumerate(region.axis.choices)}
        named = (("core", region.choices_good), ("excluded", region.choices_excluded))
        return [(kind, (code[c], code[c])) for kind, found in named for c in found]
    spans = [
        ("core", region.core),
        *(("excluded", run) for run in region.excluded),
        ("low_edge", region.low_edge),
        ("high_edge", region.high_edge),
    ]
    return [(kind, span) for kind, span in spans if span is not None]

"""The numbers behind each figure of the guidelines, one data frame per figure. A figure draws its
frame and nothing else."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ray_unlearn.analysis.figures.look import MOST_DOTS, thinned
from ray_unlearn.analysis.guidelines.findings import Findings, MethodFindings
from ray_unlearn.analysis.guidelines.grades import THRESHOLDS
from ray_unlearn.analysis.statistics.good_regions import Region
from ray_unlearn.analysis.statistics.interaction import Interaction
from ray_unlearn.analysis.statistics.pareto import front, rarefied_hypervolume
from ray_unlearn.analysis.statistics.selection import best_by_selection
from ray_unlearn.analysis.trials import TrialTable

MOST_RAREFIED = 120


def regions(method: MethodFindings) -> pd.DataFrame:
    """Of each hyperparameter with a profile: `profile`, `core`, `excluded`, `low_edge`, `high_edge`
    and `trial` lines.

    `regret` of a trial: its score above that of the group's trial which the selection half holds
    for best, so it can be negative. `drawn`: whether its dot is in the figure (at most `MOST_DOTS`
    are, chosen at random from a fixed seed).
    """
    shown = [region for region in method.regions if len(region.grid)]
    if not shown:
        return pd.DataFrame()
    trials = method.trials.assign(
        regret=regrets(method.trials), drawn=thinned(len(method.trials), MOST_DOTS)
    )[["trial", "group", "regret", "infeasible", "drawn", *(region.axis.name for region in shown)]]  # fmt: skip
    return pd.concat(
        [part for region in shown for part in _region(region, trials)], ignore_index=True
    )


def _region(region: Region, trials: pd.DataFrame) -> list[pd.DataFrame]:
    name = region.axis.name
    curve = pd.DataFrame(
        {
            "x": region.grid,
            "regret": region.profile,
            "low": region.low,
            "high": region.high,
            "p_good": region.p_good,
        }
    ).assign(kind="profile")
    spans: list[tuple[str, tuple[float, float] | None]] = [
        ("core", region.core), *(("excluded", run) for run in region.excluded), ("low_edge", region.low_edge), ("high_edge", region.high_edge),
    ]  # fmt: skip
    if region.axis.scale == "categorical":
        codes = {choice: float(i) for i, choice in enumerate(region.axis.choices)}
        spans = [(kind, (codes[c], codes[c])) for kind, found in
                 (("core", region.choices_good), ("excluded", region.choices_excluded)) for c in found]  # fmt: skip
    ranges = pd.DataFrame(
        [
            {"kind": kind, "low": span[0], "high": span[1], "censored_low": kind == "core" and region.low_censored,
             "censored_high": kind == "core" and region.high_censored}
            for kind, span in spans if span is not None
        ]
    )  # fmt: skip
    values = trials[name]
    dots = trials[["trial", "group", "regret", "infeasible", "drawn"]].assign(
        kind="trial",
        x=region.axis.to_unit(values)
        if region.axis.scale == "categorical"
        else values.astype(float),
    )
    return [part.assign(param=name) for part in (curve, ranges, dots) if len(part)]


def regrets(trials: pd.DataFrame) -> "pd.Series[float]":
    """Score above that of the group's best trial by selection; NaN where infeasible."""
    level = trials["group"].map(best_by_selection(trials)["score"])
    return trials["score"].astype(float) - level.astype(float)


def importances(findings: Findings) -> pd.DataFrame:
    """A line per method and hyperparameter. `matters`: at 5 % over all hyperparameters and
    methods."""
    lines = [
        {"method": name, "param": line.axis.name, "ped": line.ped, "ped_null_95": line.ped_null_95, "p": (p := findings.family_p(line)),
         "matters": p <= THRESHOLDS.family_error, "n_trials": found.importance.n_trials,
         "n_top": found.importance.n_top, "permutations": found.importance.permutations}
        for name, found in findings.methods.items() if found.importance is not None for line in found.importance.axes
    ]  # fmt: skip
    return pd.DataFrame(lines)


def tuning(findings: Findings) -> pd.DataFrame:
    """`curve` lines (k, expected best regret, band) and `share` lines (share near the own best,
    interval)."""
    lines = []
    for name, found in findings.methods.items():
        if found.curve is not None:
            lines += [
                {
                    "kind": "curve",
                    "method": name,
                    "k": k,
                    "value": value,
                    "low": low,
                    "high": high,
                    "n": found.curve.n,
                }
                for k, value, low, high in zip(
                    found.curve.ks,
                    found.curve.expected_best,
                    found.curve.low,
                    found.curve.high,
                    strict=True,
                )
            ]
        if (near := found.near_own_best) is not None:
            lines.append(
                {
                    "kind": "share",
                    "method": name,
                    "value": near.fraction,
                    "low": near.low,
                    "high": near.high,
                    "n": near.n,
                }
            )
    return pd.DataFrame(lines, columns=["kind", "method", "k", "value", "low", "high", "n"])


def paired(findings: Findings) -> pd.DataFrame:
    """The headline comparison: per statistic a line per group (`group`) and the pooled ones
    (`pooled`)."""
    lines = []
    for difference in findings.headline.differences if findings.headline is not None else ():
        shared = {
            "statistic": difference.statistic,
            "larger_is_better": difference.larger_is_better,
        }
        lines += [
            {
                **shared,
                "kind": "group",
                "row": g.group,
                "a": g.a,
                "b": g.b,
                "n_a": g.n_a,
                "n_b": g.n_b,
                "difference": g.difference,
            }
            for g in difference.groups
        ]
        for name in ("over_trials", "over_groups"):
            interval = getattr(difference, name)
            if interval is not None:
                lines.append(
                    {**shared, "kind": "pooled", "row": name, "difference": difference.mean, "low": interval.low,
                     "high": interval.high, "p": interval.p_value}
                )  # fmt: skip
    columns = [
        "statistic",
        "larger_is_better",
        "kind",
        "row",
        "a",
        "b",
        "n_a",
        "n_b",
        "difference",
        "low",
        "high",
        "p",
    ]
    return pd.DataFrame(lines, columns=columns)


def kappas(findings: Findings) -> pd.DataFrame:
    """A line per method and second quantity."""

    def line(method: str, other: str, found: Interaction) -> dict[str, object]:
        low, high = found.kappa_interval
        return {
            "other": other, "method": method, "kappa": found.kappa, "low": low, "high": high, "at_bound": found.interval_at_bound,
            "rmse_one": found.rmse_one, "rmse_two": found.rmse_two, "equivalent": found.equivalent, "n_trials": found.n_trials,
            "n_rows": found.n_rows,
        }  # fmt: skip

    both = (("update", "trade_off"), ("w_r", "weight_trade_off"))
    return pd.DataFrame(
        [
            line(name, other, found)
            for other, field in both
            for name, method in findings.methods.items()
            if (found := getattr(method, field)) is not None
        ]
    )


def heldout(findings: Findings) -> pd.DataFrame:
    """A line per method and held-out group."""
    lines = [
        {"method": name, "group": group.group, "regret": group.regret, "regret_full_space": group.regret_full_space,
         "regret_default": group.regret_default, "n_inside": group.n_inside, "n_trials": group.n_trials, "k": group.inside_trials,
         "matches": group.matches,
         "region": "; ".join(f"{param} {low:.3g} to {high:.3g}" for param, (low, high) in group.box.items())}
        for name, found in findings.methods.items() for group in found.heldout
    ]  # fmt: skip
    return pd.DataFrame(lines)


def pareto(table: TrialTable) -> pd.DataFrame:
    """Forget gap and utility loss of every finite evaluation, with `front`: not dominated in its
    method and group."""
    if not {"forget_gap", "utility_loss"} <= set(table.rows):
        return pd.DataFrame()
    rows = table.rows[["trial", "update", "forget_gap", "utility_loss"]]
    rows = rows[
        np.isfinite(rows["forget_gap"].astype(float))
        & np.isfinite(rows["utility_loss"].astype(float))
    ]
    rows = rows.merge(table.trials[["trial", "method", "group"]], on="trial").reset_index(drop=True)
    best = np.zeros(len(rows), dtype=bool)
    for _, part in rows.groupby(["method", "group"], sort=False):
        best[part.index[front(part[["forget_gap", "utility_loss"]].to_numpy(dtype=float))]] = True
    return rows.assign(front=best)


def hypervolumes(table: TrialTable) -> pd.DataFrame:
    """Rarefied hypervolume by group and method, as shares of the reference square.

    Both sides of the square are the vanilla model's forget gap in the group: a point beyond is
    worse than doing nothing. All methods and groups get the same number of trials, half of the
    fewest; where there are more than `MOST_RAREFIED`, that many chosen at random stand for all.
    """
    data, references = pareto(table), table.vanilla_gap
    if data.empty or not references:
        return pd.DataFrame()
    trials = table.trials[
        (table.trials["drawn"] == "space") & table.trials["group"].isin(list(references))
    ]
    counts = trials.groupby(["group", "method"]).size()
    size = int(min(counts.min() if len(counts) else 0, MOST_RAREFIED)) // 2
    if size < 2:
        return pd.DataFrame()
    points = _points_by_trial(data)
    lines = []
    for (group, method), own in trials.groupby(["group", "method"], sort=True):
        side = references[str(group)]
        chosen = own[thinned(len(own), MOST_RAREFIED)]
        known = [
            np.empty((0, 2)) if infeasible else points.get(int(trial), np.empty((0, 2)))
            for trial, infeasible in zip(chosen["trial"], chosen["infeasible"], strict=True)
        ]
        found = rarefied_hypervolume(known, (side, side), size)
        shares = {name: getattr(found, name) / side**2 for name in ("expected", "low", "high")}
        lines.append(
            {
                "group": group,
                "method": method,
                **shares,
                "trials": size,
                "n": len(own),
                "reference": side,
            }
        )
    return pd.DataFrame(lines)


def _points_by_trial(data: pd.DataFrame) -> dict[int, NDArray[np.float64]]:
    order = data.sort_values("trial", kind="stable")
    numbers, starts = np.unique(order["trial"].to_numpy(), return_index=True)
    values = order[["forget_gap", "utility_loss"]].to_numpy(dtype=float)
    return dict(zip(numbers.tolist(), np.split(values, starts[1:]), strict=True))

"""All statistics of one method: what its claims are made from and its section draws."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ray_unlearn.analysis.guidelines.evidence_at_hand import (
    evidence_of,
    from_space,
    inside_space,
)
from ray_unlearn.analysis.guidelines.grades import Thresholds
from ray_unlearn.analysis.guidelines.group_parts import group_parts
from ray_unlearn.analysis.guidelines.least_favourable import least_favourable
from ray_unlearn.analysis.guidelines.leave_one_out import (
    Box,
    HeldoutGroup,
    leave_one_out,
)
from ray_unlearn.analysis.statistics.axis_effect import AxisEffect, effects_over_groups
from ray_unlearn.analysis.statistics.fitted_groups import FittedGroup, fit_groups, regrets_of
from ray_unlearn.analysis.statistics.good_regions import Region, good_regions
from ray_unlearn.analysis.statistics.good_share import GoodShare, share_over_groups
from ray_unlearn.analysis.statistics.group_surfaces import fitted_together
from ray_unlearn.analysis.statistics.interaction import (
    Interaction,
    clipped_forget_nll,
    learning_rate_by_steps,
    weight_interaction,
)
from ray_unlearn.analysis.statistics.robustness import (
    TuningCurve,
    curve_ks,
    tuning_curve,
)
from ray_unlearn.analysis.statistics.stopping_regret import StoppingRule, stopping_rule
from ray_unlearn.analysis.statistics.surface_check import SurfaceCheck, checks_together
from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.spec.guideline_file import Evidence
from ray_unlearn.surfaces.axes import Axis, product_axis

MOST_TRAJECTORIES = 240
"""Trials of a method whose rows enter the learning rate x steps fit; more change its interval
little and its time a lot."""


@dataclass(frozen=True)
class MethodFindings:
    """What is known of one method."""

    method: str
    trials: pd.DataFrame
    """Its trials inside the space, adaptive ones too, as in `TrialTable.trials`: the response
    surface rests on all of them, since a regression does not need its inputs drawn at random."""
    drawn: pd.DataFrame
    """Those drawn at random or quasi-randomly: trade-offs, stopping, tuning curves and held-out
    results use these alone."""
    axes: tuple[Axis, ...]
    models: tuple[str, ...]
    domains: tuple[str, ...]
    evidence: Evidence
    """Of claims that need drawn trials."""
    surface_evidence: Evidence
    """Of claims that rest on the response surface."""
    fits: Mapping[str, FittedGroup]
    """By group, its surface and what it says; {} without a hyperparameter that was searched."""
    check: SurfaceCheck | None
    """What the surfaces of all groups predict of trials left out; None without one in each."""
    effects: Mapping[str, AxisEffect]
    """By axis, whether it matters; {} without a surface."""
    regions: tuple[Region, ...]
    trade_off: Interaction | None
    """Learning rate against steps."""
    trade_off_response: str
    """What that fit explains: `forget_nll` where a target is known, else `score`."""
    weight_trade_off: Interaction | None
    """Learning rate against the retain weight."""
    stopping: StoppingRule | None
    good_share: GoodShare | None
    """Share of the space that is within the tolerance of the surface's best; None without one."""
    curve: TuningCurve | None
    """Measured: expected best regret against the best known of any method in the group, after k
    random trials."""
    heldout: tuple[HeldoutGroup, ...]


def find_method(
    table: TrialTable,
    method: str,
    seed: int,
    best: Mapping[str, float],
    budget: int,
    limits: Thresholds,
) -> MethodFindings:
    everything = table.of(method)
    given, axes = with_product(inside_space(everything, table.axes[method]), table.axes[method])
    trials = from_space(given)
    parts = group_parts(table, given, axes) if axes else ()
    fits = {
        fit.part.group: fit
        for fit in (fit_groups(parts, axes, table.score.tolerance, seed) if parts else ())
    }
    regions, heldout = _regions(fits, trials, axes, table, seed, limits)
    heldout = least_favourable(
        heldout,
        trials,
        lambda group: fits[group].default,
        limits.inside_trials,
        table.nothing,
    )
    effects = [fit.effects for fit in fits.values()]
    checks = [fit.check for fit in fits.values() if fit.check is not None]
    check = checks_together(checks) if checks and len(checks) == len(fits) else None
    return MethodFindings(
        method=method,
        trials=given,
        drawn=trials,
        axes=axes,
        models=tuple(sorted(set(everything["model"]) - {""})),
        domains=tuple(sorted(set(everything["domain"]) - {""})),
        evidence=evidence_of(trials, everything),
        surface_evidence=evidence_of(given, everything, check),
        fits=fits,
        check=check,
        effects={}
        if check is None
        else dict(zip((axis.name for axis in axes), effects_over_groups(effects), strict=True)),
        regions=regions,
        trade_off=_trade_off(table, trials, axes, seed),
        trade_off_response="forget_nll" if _target_known(table.rows) else "score",
        weight_trade_off=_weight_trade_off(trials, axes, seed),
        stopping=_stopping(table, trials, seed),
        good_share=share_over_groups([fit.good_shares for fit in fits.values()]),
        curve=_curve(table, trials, best, budget),
        heldout=heldout,
    )


def with_product(
    trials: pd.DataFrame, axes: tuple[Axis, ...]
) -> tuple[pd.DataFrame, tuple[Axis, ...]]:
    """The trials and axes with learning rate times updates beside its factors, where both vary."""
    product = product_axis(axes)
    if product is None:
        return trials, axes
    one, other = (trials[name].astype(float) for name in product.factors)
    return trials.assign(**{product.name: one * other}), (*axes, product)


def _regions(
    fits: Mapping[str, FittedGroup],
    trials: pd.DataFrame,
    axes: tuple[Axis, ...],
    table: TrialTable,
    seed: int,
    limits: Thresholds,
) -> tuple[tuple[Region, ...], tuple[HeldoutGroup, ...]]:
    """Good regions over all groups, and what regions derived without a group buy on it.

    Groups that were fitted together are fitted anew without the one held out.
    """
    if not fits:
        return (), ()
    tolerance = table.score.tolerance
    together = len(fitted_together([fit.part for fit in fits.values()])) < len(fits)

    def derive(groups: tuple[str, ...]) -> Box | None:
        own = [fits[group] for group in groups]
        if together:
            regrets = regrets_of([fit.part for fit in own], axes, tolerance, seed)
            own = [replace(fit, regrets=new) for fit, new in zip(own, regrets, strict=True)]
        found = good_regions(own, axes, tolerance)
        box = {
            region.axis.name: (
                -np.inf if region.low_at_bound else region.core[0],
                np.inf if region.high_at_bound else region.core[1],
            )
            for region in found
            if region.core is not None and not (region.low_censored and region.high_censored)
        }
        return box or None

    regions = good_regions(list(fits.values()), axes, tolerance)
    return regions, leave_one_out(
        trials, derive, lambda group: fits[group].default, limits.inside_trials, table.nothing
    )


def _trade_off(
    table: TrialTable, trials: pd.DataFrame, axes: tuple[Axis, ...], seed: int
) -> Interaction | None:
    if "learning_rate" not in {axis.name for axis in axes}:
        return None
    chosen = trials["trial"].to_numpy()
    if len(chosen) > MOST_TRAJECTORIES:
        chosen = np.random.default_rng(seed).choice(
            np.sort(chosen), MOST_TRAJECTORIES, replace=False
        )
    rows = table.rows[table.rows["trial"].isin(chosen)]
    rows = rows.drop(columns=[name for name in ("learning_rate", "group") if name in rows]).merge(
        trials[["trial", "group", "learning_rate"]], on="trial"
    )
    if rows.empty or rows["update"].nunique() < 3:
        return None
    if not _target_known(table.rows):
        return learning_rate_by_steps(rows.assign(response=rows["score"].fillna(np.inf)), seed)
    # A forget NLL rises throughout; where it is not finite the model is ruined, as one far above
    # the target is.
    rows = rows.assign(forget_nll=rows["forget_nll"].fillna(np.inf))
    return learning_rate_by_steps(
        rows.assign(response=clipped_forget_nll(rows)), seed, winsorise=False
    )


def _target_known(rows: pd.DataFrame) -> bool:
    return (
        {"forget_nll", "target_nll"} <= set(rows)
        and len(rows) > 0
        and bool(rows["target_nll"].notna().all())
    )


def _weight_trade_off(
    trials: pd.DataFrame, axes: tuple[Axis, ...], seed: int
) -> Interaction | None:
    if not {"learning_rate", "w_r"} <= {axis.name for axis in axes}:
        return None
    response = trials["score"].where(~trials["infeasible"], np.inf)
    trials = (
        trials.sort_values("trial").sample(MOST_TRAJECTORIES, random_state=seed)
        if len(trials) > MOST_TRAJECTORIES
        else trials
    )
    return weight_interaction(trials.assign(response=response), seed)


def _stopping(table: TrialTable, trials: pd.DataFrame, seed: int) -> StoppingRule | None:
    rows = table.rows[table.rows["trial"].isin(trials["trial"])]
    if rows.empty or "target_nll" not in rows:
        return None
    rows = rows.drop(columns="group", errors="ignore").merge(trials[["trial", "group"]], on="trial")
    return stopping_rule(rows, seed, nothing=table.nothing)


def _curve(
    table: TrialTable, trials: pd.DataFrame, best: Mapping[str, float], budget: int
) -> TuningCurve | None:
    """The mean over groups of each group's curve, in regret against the best known there."""
    if budget < 2:
        return None
    curves = []
    for group, own in trials.groupby("group", sort=True):
        feasible = table.trials[(table.trials["group"] == group) & ~table.trials["infeasible"]]
        if group not in best or own["infeasible"].all():
            continue
        level = best[str(group)]
        fallback = table.nothing.get(str(group), float(feasible["score"].max())) - level
        regret, selection = (
            own[name].to_numpy(dtype=float) - level for name in ("score", "score_selection")
        )
        curves.append(
            tuning_curve(
                regret,
                own["infeasible"].to_numpy(dtype=bool),
                curve_ks(budget),
                fallback,
                selection=selection,
            )
        )
    if not curves:
        return None
    means = np.mean([curve.expected_best for curve in curves], axis=0)
    halves = [(np.array(curve.high) - np.array(curve.low)) / 2 for curve in curves]
    margin = np.sqrt(np.sum(np.square(halves), axis=0)) / len(curves)
    return TuningCurve(
        ks=curves[0].ks,
        expected_best=tuple(means.tolist()),
        low=tuple((means - margin).tolist()),
        high=tuple((means + margin).tolist()),
        fallback=float(np.mean([curve.fallback for curve in curves])),
        n=sum(curve.n for curve in curves),
        n_infeasible=sum(curve.n_infeasible for curve in curves),
    )

"""The setting of each method to use: always there, whatever is claimed or withheld."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.guidelines.group_parts import unit_points
from ray_unlearn.analysis.guidelines.method_findings import MethodFindings, with_product
from ray_unlearn.analysis.numerals import rounded
from ray_unlearn.analysis.statistics.recommended_point import (
    RegretBound,
    recommended_point,
)
from ray_unlearn.analysis.statistics.selection import best_by_selection
from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.spec.guideline_file import (
    AtStrength,
    Guideline,
    Recommendation,
    RegretAtMost,
    Updates,
    Value,
)
from ray_unlearn.store.schema import AS_TRAINED
from ray_unlearn.surfaces.axes import Axis
from ray_unlearn.surfaces.processors import each, one_blas_thread

Array = NDArray[np.float64]

NEAREST = 5
ROUNDING = 1e-6
"""Unit coordinates that the six digits of a file may be off by."""


@one_blas_thread
def recommendations(
    findings: Findings, guidelines: Sequence[Guideline] = ()
) -> tuple[Recommendation, ...]:
    """One recommendation per method that has a finite score, the best expected score first.

    All trials count, adaptive ones too: the surface is a regression on the settings.

    Args:
        findings: of all methods; what is recommended rests on the surfaces of its claims.
        guidelines: statements about the same trials; a setting lies in the claimed and likely
            ranges, so that nothing recommends what something else says to leave.
    """
    table = findings.table
    scored = table.trials[~table.trials["infeasible"]]
    groups = {
        method: frozenset(own["group"]) for method, own in scored.groupby("method", sort=False)
    }
    tasks = [
        (table, own, findings.seed, guidelines)
        for method, own in findings.methods.items()
        if method in groups
    ]
    found = each(_recommendation, tasks, len(table.trials))
    # Means over different groups are no rank.
    alike = len(set(groups.values())) <= 1
    sign = 1 if table.score.direction == "minimize" else -1
    order = {one.method: math.inf if one.score is None else sign * one.score for one in found}
    return tuple(sorted(found, key=lambda one: order[one.method]) if alike else found)


def _recommendation(
    table: TrialTable, findings: MethodFindings, seed: int, guidelines: Sequence[Guideline]
) -> Recommendation:
    method, axes = findings.method, findings.axes
    best = best_by_selection(with_product(table.of(method), table.axes[method])[0])
    trials = findings.trials[findings.trials["group"].isin(best.index)]
    fits = [findings.fits[group] for group in best.index if group in findings.fits]
    own = [g for g in guidelines if (g.scope.method or "") == method]
    point = (
        recommended_point(
            fits,
            list(unit_points(best, axes)),
            axes,
            table.score.tolerance,
            seed,
            _limits(own, axes),
            # A score of ours is a sum of a distance and losses that count above 0 alone.
            -math.inf if table.score.weights is None else 0.0,
        )
        if len(fits) == len(best)
        else None
    )
    setting = _setting_of_best(best, axes) if point is None else setting_at(point.point, axes)
    near = _nearest(_first(best) if point is None else trials, axes, setting)
    score = float(best["score"].mean()) if point is None else point.score
    return Recommendation(
        method=method or None,
        setting=setting,
        updates=None if "steps" in setting else _updates(near),
        strength=None if table.score.strength == "trained" else _strength(near),
        source="best_trial" if point is None else "surface",
        score=rounded(table.as_given(score)),
        regret=None if point is None else _at_most(point.regret),
        best_trial_regret=None if point is None else _at_most(point.best_regret),
        n_trials=len(trials),
        n_groups=len(best),
    )


def _limits(
    guidelines: Sequence[Guideline], axes: Sequence[Axis]
) -> dict[int, tuple[float, float]]:
    """By index of an axis, unit coordinates of its claimed or likely range."""
    found: dict[int, tuple[float, float]] = {}
    for j, axis in enumerate(axes):
        for guideline in guidelines:
            space = guideline.search_space
            if guideline.kind != "range" or guideline.param != axis.name or space is None:
                continue
            if space.low is not None and space.high is not None:
                low, high = axis.to_unit([space.low, space.high])
                found[j] = (float(low) - ROUNDING, float(high) + ROUNDING)
            elif space.choices is not None and len(space.choices) == 1:
                (code,) = axis.to_unit(np.array(space.choices, dtype=object))
                found[j] = (float(code), float(code))
    return found


def setting_at(point: Array, axes: Sequence[Axis]) -> dict[str, Value]:
    """Values of the hyperparameters at unit coordinates [d]; a product of two is none of them."""
    return {
        axis.name: _value(axis, at)
        for axis, at in zip(axes, point, strict=True)
        if not axis.factors
    }


def _setting_of_best(best: pd.DataFrame, axes: tuple[Axis, ...]) -> dict[str, Value]:
    first = _first(best).iloc[0]
    return {
        axis.name: str(first[axis.name])
        if axis.scale == "categorical"
        else rounded(float(first[axis.name]))
        for axis in axes
        if not axis.factors
    }


def _first(best: pd.DataFrame) -> pd.DataFrame:
    """The trial that is best in its group; of several groups, in the one with the best score."""
    return best.sort_values(["score_selection", "trial"], kind="stable").head(1)


def _value(axis: Axis, coordinate: float) -> Value:
    if axis.scale == "categorical":
        return axis.choices[round(coordinate)]
    value = float(np.clip(axis.from_unit(coordinate), axis.low, axis.high))
    return round(value) if axis.whole else float(f"{value:.3g}")


def _at_most(found: RegretBound) -> RegretAtMost:
    expected, high = (float(f"{max(0.0, value):.6g}") for value in (found.expected, found.high))
    return RegretAtMost(expected=expected, high=high, p_good=found.p_good)


def _nearest(
    trials: pd.DataFrame, axes: tuple[Axis, ...], setting: dict[str, Value]
) -> pd.DataFrame:
    """The scored trials nearest to the setting, the nearest first."""
    known = trials[~trials["infeasible"]]
    away = np.zeros(len(known))
    for axis in (axis for axis in axes if not axis.factors):
        there = axis.to_unit(np.array([setting[axis.name]], dtype=object))
        apart = axis.to_unit(known[axis.name]) - there
        away += np.minimum(apart**2, 1.0)
    return known.iloc[np.argsort(away, kind="stable")]


def _updates(near: pd.DataFrame) -> Updates | None:
    """Updates of the evaluations that score the trials nearest to the setting."""
    known = near["update"].dropna().astype(float)[:NEAREST]
    if known.empty:
        return None
    return Updates(typical=known.median(), low=known.min(), high=known.max())


def _strength(near: pd.DataFrame) -> AtStrength:
    """The strength of those evaluations: of the larger part of them, calibrated or as trained."""
    known = near["strength"].dropna() if "strength" in near else pd.Series([AS_TRAINED])
    known = known.astype(float)[:NEAREST]
    calibrated = known[known != AS_TRAINED]
    if 2 * len(calibrated) <= len(known):
        return AtStrength(meets_target=False, typical=1.0, low=1.0, high=1.0)
    low, typical, high = (rounded(float(calibrated.quantile(q))) for q in (0.0, 0.5, 1.0))
    return AtStrength(meets_target=True, typical=typical, low=low, high=high)

"""Planted truth: trial tables whose every optimum, cliff and exponent is known."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from ray_unlearn.analysis.guidelines.claims import guidelines_of
from ray_unlearn.analysis.guidelines.findings import find
from ray_unlearn.analysis.guidelines.recommendations import recommendations
from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.spec.guideline_file import Guideline, ScoreInfo
from ray_unlearn.spec.narrowed_range import RATE_BY_STEPS
from ray_unlearn.surfaces.axes import Axis

RATE = Axis("learning_rate", "log", 1e-6, 1e-3)
WEIGHT = Axis("w_r", "log", 0.5, 8.0)
STEPS = Axis("steps", "log", 10, 1000)
TOLERANCE = 0.1

Score = Callable[[pd.DataFrame, np.random.Generator], np.ndarray]
"""From hyperparameters (one column per axis, log10 on log axes) to noise-free scores; inf where the
model diverges."""


def planted(
    scores: dict[str, Score],
    *,
    trials: int = 100,
    groups: Sequence[str] = ("books",),
    axes: Sequence[Axis] = (RATE, WEIGHT),
    noise: float = 0.05,
    seed: int = 0,
    drawn: str = "space",
    shift: Callable[[str], float] = lambda group: 0.0,
    tolerance: float = TOLERANCE,
    models: Callable[[str], Sequence[str]] = lambda domain: ("m",),
) -> TrialTable:
    """`trials` random trials of each method in each domain, three seeds in turn.

    They are dealt to the domain's trained models; several make several groups of it.

    `shift(group)` moves the learning rate at which a group's surface is looked up, in decades: 0 is
    a shared optimum.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for method, score in scores.items():
        for group in groups:
            unit = rng.random((trials, len(axes)))
            values = {axis.name: axis.from_unit(unit[:, j]) for j, axis in enumerate(axes)}
            logs = pd.DataFrame(
                {
                    a.name: np.log10(values[a.name]) if a.scale == "log" else values[a.name]
                    for a in axes
                }
            )
            logs["learning_rate"] -= shift(group)
            trained = np.resize(np.array(models(group), dtype=object), trials)
            clean = np.asarray(score(logs, rng), dtype=float)
            parts.append(
                pd.DataFrame(values).assign(
                    study=group,
                    domain=group,
                    model=trained,
                    group=group
                    if len(models(group)) == 1
                    else [f"{group} ({model})" for model in trained],
                    method=method,
                    seed=np.arange(trials) % 3,
                    infeasible=~np.isfinite(clean),
                    drawn=drawn,
                    update=8.0,
                    crossed=None,
                    score=np.where(
                        np.isfinite(clean), clean + rng.normal(0, noise, trials), np.nan
                    ),
                    score_selection=np.where(
                        np.isfinite(clean), clean + rng.normal(0, noise, trials), np.nan
                    ),
                )
            )
    frame = pd.concat(parts, ignore_index=True)
    frame["status"] = np.where(frame["infeasible"], "diverged", "complete")
    frame.insert(0, "trial", range(len(frame)))
    rows = frame[["trial", "update", "score", "score_selection"]].assign(forget_nll=np.nan)
    info = ScoreInfo(
        name="score",
        direction="minimize",
        tolerance=tolerance,
        tolerance_source="planted",
        checkpoint_rule="last step",
    )
    return TrialTable(frame, rows, {method: tuple(axes) for method in scores}, info)


def flat(logs: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Pure noise: nothing matters."""
    return np.full(len(logs), 0.5)


def valley(best: float = -4.5, width: float = 0.5, power: float = 2.0) -> Score:
    """A valley in log10 learning rate, smooth with power 2, with a sharp bottom below; the other
    axes are null."""

    def score(logs: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        away = np.abs(logs["learning_rate"].to_numpy() - best) / width
        return 0.2 + 0.3 * np.minimum(away, 3) ** power

    return score


def ridge(best: float = -2.5, width: float = 0.5) -> Score:
    """A valley in log10 of learning rate times updates: a ridge over the two."""

    def score(logs: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        away = np.abs(logs["learning_rate"].to_numpy() + logs["steps"].to_numpy() - best) / width
        return 0.2 + 0.3 * np.minimum(away, 3) ** 2

    return score


def good_share_of(score: Score, axes: Sequence[Axis] = (RATE, WEIGHT)) -> float:
    """Share of the space whose noise-free score is within the tolerance of the least one."""
    rng = np.random.default_rng(0)
    values = {axis.name: axis.from_unit(rng.random(100_000)) for axis in axes}
    scores = score(pd.DataFrame({name: np.log10(value) for name, value in values.items()}), rng)
    return float(np.mean(scores <= scores.min() + TOLERANCE))


def reach(width: float = 0.5, power: float = 2.0) -> float:
    """How far from its bottom, in decades, such a valley is within the tolerance of it."""
    return width * (TOLERANCE / 0.3) ** (1 / power)


def cliff(best: float = -4.5, edge: float = -3.8) -> Score:
    """A slow rise below the optimum, divergence beyond `edge`."""

    def score(logs: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        away = logs["learning_rate"].to_numpy() - best
        return np.where(
            away + best > edge, np.inf, 0.2 + np.where(away < 0, 0.25 * away**2, 1.0 * away**2)
        )

    return score


def contradictions(table: TrialTable) -> list[str]:
    """Pairs of statements about one hyperparameter of method "a" that exclude each other."""
    findings = find(table)
    found = guidelines_of(findings)
    (setting,) = (one.setting for one in recommendations(findings, found))
    if RATE_BY_STEPS not in setting and "steps" in setting:
        setting = setting | {RATE_BY_STEPS: setting["learning_rate"] * setting["steps"]}
    pairs = []
    for one in (g for g in found if g.kind == "range"):
        at, space = setting[one.param], one.search_space
        bad = [_avoided(g) for g in found if g.kind == "avoid" and g.param == one.param]
        if bad and one.status == "leave_alone":
            pairs.append(f"{one.param}: leave it alone, avoid {bad}")
        if any(low < at < high for low, high in bad):
            pairs.append(f"{one.param}: use {at}, avoid {bad}")
        if space is None:
            continue
        if any(low < space.high and space.low < high for low, high in bad):
            pairs.append(f"{one.param}: {one.text}, avoid {bad}")
        if not 0.99 * space.low <= at <= 1.01 * space.high:  # settings have three digits
            pairs.append(f"{one.param}: {one.text}, use {at}")
    return pairs


def _avoided(guideline: Guideline) -> tuple[float, float]:
    low, high = (guideline.estimates[side] for side in ("low", "high"))
    return (-np.inf if low is None else low, np.inf if high is None else high)

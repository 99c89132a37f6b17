"""fANOVA: the share of a score's variance that each hyperparameter explains by itself, over the
whole search space.

Hutter, Hoos, Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance" (ICML
2014), by Optuna. It says what avoids disaster: infeasible trials are part of the data.
"""

from collections.abc import Sequence

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import create_trial

from ray_unlearn.analysis.axes import Axis

Floats = NDArray[np.float64]

TREES, DEPTH = 64, 6
"""0.9 s for 2,000 trials, where the default depth of 64 takes 183 s."""

MOST_TRIALS = 2_000
"""Of more trials, this many are drawn."""

FENCE = 3.0
"""Scores are winsorised at this many interquartile ranges above the upper quartile: Tukey's outer
fence."""


def fanova_shares(
    points: Floats, scores: Floats, groups: NDArray[np.int64], axes: Sequence[Axis], seed: int
) -> Floats:
    """Shares [axes] of the variance by main effects; they sum to less than 1 by what interacts.

    The measure is even over each axis's scale (Optuna's own, on a log axis, is even over raw values
    and sees the top decade alone) and over choices. NaN: all scores equal, or a hyperparameter that
    some trials lack. More than `MOST_TRIALS` trials are subsampled, by `seed`.

    Args:
        points: [trials, axes], unit coordinates.
        scores: [trials], infinite where infeasible: such a trial gets the worst winsorised score of
            its group.
        groups: [trials]; scores are standardised within.
        axes: the hyperparameters.
        seed: of subsample and forest.
    """
    shares = np.full(len(axes), np.nan)
    rows = np.arange(len(scores))
    if len(rows) > MOST_TRIALS:
        rows = np.sort(np.random.default_rng(seed).choice(len(rows), MOST_TRIALS, replace=False))
    complete = [j for j in range(len(axes)) if np.isfinite(points[:, j]).all()]
    values = standardised(scores, groups)[rows]
    if not complete or np.ptp(values) == 0:
        return shares
    columns = {str(j): _even(axes[j], points[rows, j]) for j in complete}
    space = {name: FloatDistribution(0.0, 1.0) for name in columns}
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of every study made otherwise
    study = optuna.create_study()
    study.add_trials(
        [
            create_trial(
                params={name: float(c[i]) for name, c in columns.items()},
                distributions=space,
                value=value,
            )
            for i, value in enumerate(values.tolist())
        ]
    )
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, max_depth=DEPTH, seed=seed % 2**32)
    found = evaluator.evaluate(study, params=list(columns))
    shares[complete] = [found[str(j)] for j in complete]
    return shares


def standardised(scores: Floats, groups: NDArray[np.int64]) -> Floats:
    """Winsorised scores [trials] with mean 0 and SD 1 in each group; 0 in a group that tells
    nothing apart."""
    values = np.zeros(len(scores))
    for group in np.unique(groups):
        members = groups == group
        raw = scores[members]
        feasible = raw[np.isfinite(raw)]
        if not len(feasible):
            continue
        lower, upper = np.quantile(feasible, [0.25, 0.75])
        fence = upper + FENCE * (upper - lower) if upper > lower else feasible.max()
        winsorised = np.minimum(raw, min(fence, feasible.max()))
        if np.ptp(winsorised) > 0:
            centred = winsorised - winsorised.mean()
            values[members] = centred / np.sqrt((centred**2).mean())
    return values


def _even(axis: Axis, coordinates: Floats) -> Floats:
    """Coordinates in [0, 1]; each choice an equal stretch."""
    if axis.scale == "categorical":
        return np.asarray((coordinates + 0.5) / len(axis.choices))
    return np.clip(coordinates, 0.0, 1.0)

"""Planted truth with evaluations: what unlearning does to each set of text is a known function.

The learning rate that is best, the weight that is best, and the sum of learning rates at which the
forget set meets its target are known, and so is the expected score of every setting.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from surfaces import RATE, TOLERANCE, WEIGHT

from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.spec.guideline_file import ScoreInfo
from ray_unlearn.spec.score_weights import ScoreWeights
from ray_unlearn.surfaces.axes import Axis
from ray_unlearn.surfaces.trajectories import COMPONENTS, ScoreOfChanges

UPDATES = np.array([4.0, 8.0, 16.0, 32.0, 64.0])
TARGET = 0.7
UNIT = 0.05
AXES = (RATE, WEIGHT)
SCORE = ScoreOfChanges((1.0, 1.0, 1.0), TARGET, TARGET)
BEST_RATE = -4.9
"""log10: general text suffers least there."""
WEIGHT_GIVEN = 2.0
"""Where it is not searched."""


def curves(points: np.ndarray, best_rate: float = BEST_RATE, bend: float = 0.6) -> np.ndarray:
    """Changes [3, m, t] at points [m, 2], transformed: asinh(nats / 0.05), without noise."""
    rate = np.log10(RATE.from_unit(points[:, :1]))
    weight = np.log10(WEIGHT.from_unit(points[:, 1:2]))
    effort = rate + np.log10(UPDATES) + 3.7
    bent = 1 + bend * (rate - best_rate) ** 2
    forget = TARGET * 10**effort / (1 + 0.25 * weight)
    retain = 0.15 * 10 ** (1.1 * effort) * bent * 10 ** (-0.4 * weight)
    general = 0.25 * 10 ** (1.1 * effort) * bent * (1 + 0.5 * (weight - 0.3) ** 2)
    return np.arcsinh(np.stack([forget, retain, general]) / UNIT)


def expected_score(points: np.ndarray, seed_sd: float, **shape: float) -> np.ndarray:
    """The score [m] that a trial at each point is given, in the mean over 256 seeds."""
    clean, rng = curves(points, **shape), np.random.default_rng(1)
    total = np.zeros(len(points))
    for _ in range(256):
        total += SCORE.deployed(_nats(clean + seed_sd * rng.standard_normal((3, 1, 1))))
    return total / 256


def planted_with_curves(
    trials: int,
    seed: int,
    *,
    seed_sd: float = 0.1,
    groups: Sequence[str] = ("books",),
    axes: tuple[Axis, ...] = AXES,
    **shape: float,
) -> TrialTable:
    """A table of one method: `trials` random trials in each group, each with five evaluations.

    Args:
        trials: per group.
        seed: of all draws.
        seed_sd: what a seed adds to each transformed change, all updates alike.
        groups: of trials with the same truth.
        axes: those of the curves first, or the learning rate alone (then w_r is 2); any others do
            nothing.
        shape: of the curves.
    """
    rng = np.random.default_rng(seed)
    frames, rows = [], []
    for i, group in enumerate(groups):
        points = rng.random((trials, len(axes)))
        values = [axis.from_unit(points[:, j]) for j, axis in enumerate(axes)]
        noise = seed_sd * rng.standard_normal((3, trials, 1))
        noise = noise + 0.15 * seed_sd * rng.standard_normal((3, trials, len(UPDATES)))
        place = np.column_stack([points, np.full(trials, WEIGHT.to_unit(WEIGHT_GIVEN))])[:, :2]
        changes = _nats(curves(place, **shape) + noise)
        scores = SCORE.of(changes, TARGET)
        numbers = i * trials + np.arange(trials)
        frames.append(
            pd.DataFrame(
                {
                    "trial": numbers,
                    "study": group,
                    "domain": group,
                    "model": "m",
                    "group": group,
                    "method": "a",
                    "seed": numbers % 3,
                    "status": "complete",
                    "infeasible": False,
                    "drawn": "space",
                    "update": UPDATES[scores.argmin(1)],
                    "crossed": True,
                    "score": scores.min(1),
                    "score_selection": scores.min(1),
                    **{axis.name: at for axis, at in zip(axes, values, strict=True)},
                }
            )
        )
        flat = {name: part.ravel() for name, part in zip(COMPONENTS, changes, strict=True)}
        rows.append(
            pd.DataFrame(
                {
                    "trial": np.repeat(numbers, len(UPDATES)),
                    "update": np.tile(UPDATES, trials),
                    "score": scores.ravel(),
                    "score_selection": scores.ravel(),
                    "forget_nll": 3.7 + flat["forget_change"],
                    "target_nll": 3.7 + TARGET,
                    "learning_rate_sum": (values[0][:, None] * UPDATES).ravel(),
                    "candidate": True,
                    "chosen_by": TARGET,
                    "valued_by": TARGET,
                    **flat,
                }
            )
        )
    info = ScoreInfo(
        name="score",
        direction="minimize",
        tolerance=TOLERANCE,
        tolerance_source="planted",
        checkpoint_rule="planted",
        weights=ScoreWeights(),
    )
    return TrialTable(
        pd.concat(frames, ignore_index=True),
        pd.concat(rows, ignore_index=True),
        {"a": axes},
        info,
    )


def _nats(transformed: np.ndarray) -> np.ndarray:
    return UNIT * np.sinh(np.clip(transformed, -7.0, 7.0))

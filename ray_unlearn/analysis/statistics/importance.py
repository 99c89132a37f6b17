"""Which hyperparameters matter: PED-ANOVA importance against a permutation null.

PED-ANOVA says what distinguishes the best trials from all others. Its value for pure noise is well
above zero, and one of several hyperparameters always leads. It is therefore compared with the
values that shuffled trials give (max-T; Westfall & Young, "Resampling-Based Multiple Testing",
1993).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.analysis.axes import Axis
from ray_unlearn.analysis.statistics.exchangeable import (
    Bools,
    Trials,
    Units,
    share_configurations,
    units,
)
from ray_unlearn.analysis.statistics.ped_anova import memberships, ped

Floats = NDArray[np.float64]

FEW_TRIALS, TOP_OF_FEW, TOP_OF_MANY = 500, 0.25, 0.1
"""Share of trials that are "top": of fewer than `FEW_TRIALS`, and of more (Optuna's default)."""

LEAST_TOP = 8
"""Top trials below which their density says nothing."""


@dataclass(frozen=True)
class Importance:
    """One hyperparameter.

    axis: the hyperparameter.
    ped: PED-ANOVA importance, unnormalised, as Optuna's evaluator gives it (0: top trials lie as
        all trials do).
    ped_p: permutation p-value, family-wise over the axes: (1 + null >= observed) / (1 +
    permutations). ped_null_95: what `ped` has to exceed to be claimed at 0.05: the 95 % quantile of
    the greatest statistic of a
        shuffle, on this axis's scale.
    """

    axis: Axis
    ped: float
    ped_p: float
    ped_null_95: float


@dataclass(frozen=True)
class ImportanceResult:
    """All hyperparameters of a method, in the order given.

    n_trials: trials given.
    n_top: those in the top fraction; where trials share configurations, each once per group.
    top_fraction: nominal; ties enlarge it, and infeasible trials, which are never in it, may leave
        less.
    permutations: shuffles behind `ped_p`. family_size: hyperparameters tested together.
    """

    axes: tuple[Importance, ...]
    n_trials: int
    n_top: int
    top_fraction: float
    permutations: int
    family_size: int


def importance(
    points: Floats,
    scores: Floats,
    infeasible: Bools,
    groups: NDArray[np.str_] | NDArray[np.object_],
    axes: Sequence[Axis],
    seed: int,
    permutations: int = 999,
) -> ImportanceResult | None:
    """Importance of each hyperparameter of a method, with the evidence that it is no accident.

    The top fraction is taken within each group (domain, model), by rank, and these are pooled:
    scores of different groups are never compared. Trials are shuffled within groups. The statistics
    of an axis are centred and scaled by its null before the greatest over the axes is taken, or an
    axis of 50 cells would set the bar for one of two choices (a difference of 0.8 SD between them,
    at 200 trials, was found in 42 % of studies without and in 95 % with it).

    Configurations tried more than once (with several seeds, or in each group) are no independent
    evidence: they are shuffled as wholes among those tried in the same groups, and count once per
    group, with their median score.

    Args:
        points: coordinates [trials, axes] as `Axis.to_unit` gives them; NaN where a trial lacks the
            hyperparameter.
        scores: [trials], lower is better; ignored where infeasible.
        infeasible: [trials]; such trials are part of what was searched, and worse than all others.
        groups: [trials], names of the strata.
        axes: the hyperparameters.
        seed: of the shuffles.
        permutations: shuffles.

    Returns:
        None with fewer than 8 trials in the top fraction, or without an axis.
    """
    assert points.shape == (len(scores), len(axes))
    assert len(infeasible) == len(groups) == len(scores)
    values = np.where(infeasible | ~np.isfinite(scores), np.inf, scores)
    if not len(axes) or not np.isfinite(values).any():
        return None
    codes = np.unique(np.asarray(groups).astype(str), return_inverse=True)[1].astype(np.int64)
    order, trials = _canonical(Trials(points, values, codes), axes)
    ordered = [axes[j] for j in order]
    rng = np.random.default_rng(seed)

    shared = share_configurations(trials, rng)
    evidence = trials.by_configuration() if shared else trials
    fraction = _top_fraction(evidence)
    evidence = evidence.informative(fraction)
    top = evidence.top(fraction)
    if top.sum() < LEAST_TOP:
        return None
    statistics = _statistics(
        evidence, top, units(evidence, top, shared), ordered, permutations, rng
    )
    p_values, null_95 = _max_t(statistics[0], statistics[1:])

    place = {j: i for i, j in enumerate(order)}
    by_axis = tuple(
        Importance(axis, float(statistics[0, i]), float(p_values[i]), float(null_95[i]))
        for axis, i in ((axes[j], place[j]) for j in range(len(axes)))
    )
    return ImportanceResult(by_axis, len(values), int(top.sum()), fraction, permutations, len(axes))


def _top_fraction(trials: Trials) -> float:
    return TOP_OF_FEW if len(trials.scores) < FEW_TRIALS else TOP_OF_MANY


def _canonical(trials: Trials, axes: Sequence[Axis]) -> tuple[list[int], Trials]:
    """The axes and the trials in an order that follows from content alone.

    Neither names nor the order of the input matter.

    Axes go by importance, which counts of trials decide to the last bit, then by their coordinates.
    """
    top = trials.top(_top_fraction(trials))
    plain = _statistics(
        trials, top, Units(trials.points, top.astype(np.int64), trials.groups), axes, 0, None
    )[0]
    order = sorted(
        range(len(axes)), key=lambda j: (plain[j], np.sort(trials.points[:, j]).tobytes())
    )
    columns = trials.points[:, order]
    rows = np.lexsort((*columns.T[::-1], trials.scores, trials.groups))
    return order, Trials(columns, trials.scores, trials.groups).take(rows)


def _statistics(
    trials: Trials,
    top: Bools,
    shuffled: Units,
    axes: Sequence[Axis],
    permutations: int,
    rng: np.random.Generator | None,
) -> Floats:
    """PED-ANOVA [1 + permutations, axes]: observed, then of shuffles."""
    cells = [memberships(axis, shuffled.points[:, j]) for j, axis in enumerate(axes)]
    regions = [
        trials.region(top, memberships(axis, trials.points[:, j])) for j, axis in enumerate(axes)
    ]
    blocks: Iterable[NDArray[np.float32]] = [shuffled.tops[None].astype(np.float32)]
    if rng is not None:
        blocks = chain(blocks, shuffled.shuffles(permutations, rng))
    n_top, n = int(top.sum()), len(top)
    return np.concatenate(
        [
            np.stack(
                [
                    ped(axis, (block @ c).astype(float), r, n_top, n)
                    for axis, c, r in zip(axes, cells, regions, strict=True)
                ],
                axis=1,
            )
            for block in blocks
        ]
    )


def _max_t(observed: Floats, null: Floats) -> tuple[Floats, Floats]:
    """Single-step max-T over axes, each scaled by its null.

    Args:
        observed: statistics [axes].
        null: of shuffles [permutations, axes].

    Returns:
        p-values [axes], and the value of each statistic at the 95 % quantile of the greatest one.
    """
    centre, scale = null.mean(axis=0), null.std(axis=0)
    varies = scale > 1e-9 * (centre + observed) + 1e-15
    scale = np.where(varies, scale, 1.0)
    greatest = np.where(varies, (null - centre) / scale, 0.0).max(axis=1)
    t = np.where(varies, (observed - centre) / scale, -np.inf)
    # The slack keeps rounding from breaking a tie.
    p_values = (1 + (greatest[:, None] >= t - 1e-9).sum(axis=0)) / (1 + len(null))
    return p_values, centre + np.where(varies, scale, 0.0) * np.quantile(greatest, 0.95)

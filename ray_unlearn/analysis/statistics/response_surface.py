"""A score as a smooth function of the hyperparameters, with how uncertain that function is.

Gaussian process, Matern-5/2 kernel with one length scale per hyperparameter, white noise. The
length scales are not known from 12 to 40 trials, so they are not fixed at their best values: draws
come from several settings that the trials support (Laplace approximation at the mode,
importance-resampled; Rubin 1988). Draws are whole functions (`posterior_paths`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from ray_unlearn.surfaces.embedding import axis_of_columns, of_group
from ray_unlearn.surfaces.group_points import GroupPoints
from ray_unlearn.surfaces.kernel_posterior import Array, KernelSetting
from ray_unlearn.surfaces.kernel_settings import kernel_settings
from ray_unlearn.surfaces.posterior_paths import posterior_paths

MOST_POINTS = 300
"""Trials of one group that its fit rests on at most: the cost grows with their cube."""
SETTINGS = 8
REFITTED = 40
"""Trials up to which the kernel's settings are found anew for each fold of a check."""


@dataclass(frozen=True)
class ResponseSurface:
    """The fitted score surface of one method in one group.

    The fit may rest on trials of other groups too; the group is then one more input.

    categorical: choices of each axis that holds codes, 0 for a numeric axis.
    inputs: trials that the fit rests on [n, k], embedded (see `of_group`).
    targets: their standardised scores [n]: (score - centre of its group) / scale.
    capped: [n], trials at the winsorising limit of their group.
    groups: code [n] of each trial's group.
    settings: kernel settings that the trials support.
    group: code of the surface's own group, and centre: of its scores.
    """

    categorical: tuple[int, ...]
    inputs: Array
    targets: Array
    capped: NDArray[np.bool_]
    groups: NDArray[np.int_]
    settings: tuple[KernelSetting, ...]
    group: int
    centre: float
    scale: float

    @property
    def n_used(self) -> int:
        """Trials of the group that the fit rests on."""
        return len(self.own)

    @property
    def own(self) -> NDArray[np.int_]:
        """Indices [n_used] of the group's trials among those that the fit rests on."""
        return np.flatnonzero(self.groups == self.group)

    def _inputs(self, points: Array) -> Array:
        return of_group(points, self.categorical, self.group, int(self.groups.max()) + 1)

    def mean(self, points: Array) -> Array:
        """Posterior mean of the noise-free score at points [m, d], as [m]."""
        inputs = self._inputs(points)
        means = [setting.expected(inputs, self.inputs) for setting in self.settings]
        return np.asarray(self.centre + self.scale * np.mean(means, axis=0))

    def rough_mean(self, points: Array) -> Array:
        """Posterior mean [m] under one setting of the kernel.

        An eighth of the price of `mean`; good enough for choosing points.
        """
        inputs = self._inputs(points)
        return np.asarray(self.centre + self.scale * self.settings[0].expected(inputs, self.inputs))

    def draws(self, points: Array, seed: int, count: int) -> Array:
        """Joint posterior draws [count, m] of the noise-free score at points [m, d].

        The same seed and count give the same functions at whatever points they are asked for.
        """
        inputs = self._inputs(points)
        parts_of = np.array_split(np.arange(count), len(self.settings))
        parts = [
            posterior_paths(
                setting,
                self.inputs,
                self.targets,
                np.random.default_rng([seed, i]),
                len(part),
            )(inputs).T
            for i, (setting, part) in enumerate(zip(self.settings, parts_of, strict=True))
        ]
        order = np.random.default_rng(seed).permutation(count)
        return np.asarray(self.centre + self.scale * np.concatenate(parts)[order])

    def predicted(self, points: Array, seed: int, count: int) -> Array:
        """Draws [count, m] of the score that a new trial at each point would be given."""
        noises = np.sqrt([setting.noise for setting in self.settings])
        rng = np.random.default_rng([seed, 9])
        drawn = self.draws(points, seed, count)
        return np.asarray(
            drawn + self.scale * rng.choice(noises, (count, 1)) * rng.standard_normal(drawn.shape)
        )

    def left_out_draws(self, left: NDArray[np.int_], seed: int, count: int) -> Array:
        """Predictive draws [count, left] of the standardised scores of own trials left out.

        Of few trials the kernel's settings are found again without those left out; of many they
        are those of the fit to all, which a fifth of the trials hardly moves. What is predicted is
        what would be seen: with noise, and winsorised.
        """
        parts_of = np.array_split(np.arange(count), len(self.settings))
        rng = np.random.default_rng([seed, 5])
        out = self.own[left]
        kept = np.setdiff1d(np.arange(len(self.inputs)), out)
        settings = self._settings_without_left_out(kept, rng)
        limit = self.targets[self.own].max() if self.capped[self.own].any() else math.inf
        at, inputs = self.inputs[out], self.inputs[kept]
        parts = []
        for setting, part in zip(settings, parts_of, strict=True):
            covariance = setting.covariances(inputs, inputs)
            covariance[np.diag_indices_from(covariance)] += setting.noises
            factor = cho_factor(covariance, lower=True)
            across = setting.covariances(at, inputs)
            mean = across @ cho_solve(factor, self.targets[kept])
            explained = (across * cho_solve(factor, across.T).T).sum(1)
            variance = np.maximum(setting.variances(at) - explained, 0) + setting.noise
            parts.append(mean + np.sqrt(variance) * rng.standard_normal((len(part), len(left))))
        return np.minimum(np.concatenate(parts), limit)

    def _settings_without_left_out(
        self, kept: NDArray[np.int_], rng: np.random.Generator
    ) -> tuple[KernelSetting, ...]:
        if len(self.inputs) > REFITTED:
            return tuple(replace(s, noises=s.noises[kept]) for s in self.settings)
        inputs, lengths = (
            self.inputs[kept],
            axis_of_columns(self.categorical, self.settings[0].groups),
        )
        count = len(self.settings)
        some = inputs, self.targets[kept], self.capped[kept], lengths
        return kernel_settings(*some, rng, count, groups=self.settings[0].groups)


def fit_response_surfaces(
    parts: Sequence[GroupPoints],
    seed: int,
    categorical: tuple[int, ...] = (),
    tolerance: float = 0.0,
) -> tuple[ResponseSurface, ...]:
    """Fit one model to the trials of one method in all groups given; lower scores are better.

    What a group's scores are about, their mean, is its own; how alike the rest is in any two groups
    is a length scale like any other.

    Args:
        parts: one per group; infeasible trials count as the worst score of their group that is
            still distinguished.
        seed: of thinning and of the kernel settings.
        categorical: choices of each axis that holds codes 0 ... n-1, 0 for a numeric axis; () if
            all are numeric.
        tolerance: differences this small must stay visible, so winsorising leaves six times as
            much.

    Returns:
        One surface per group.
    """
    categorical = categorical or (0,) * parts[0].points.shape[1]
    seen = [_as_fitted(part, categorical, i, len(parts), tolerance) for i, part in enumerate(parts)]
    inputs, values, capped = (np.concatenate(each) for each in zip(*seen, strict=True))
    groups = np.repeat(np.arange(len(parts)), [len(part.scores) for part in parts])
    columns = len(parts) if len(parts) > 1 else 0
    lengths = axis_of_columns(categorical, columns)
    if len(parts) == 1 and len(values) > MOST_POINTS:
        kept = _thinned(inputs, values, capped, lengths, seed)
        inputs, values, capped, groups = inputs[kept], values[kept], capped[kept], groups[kept]
    centres = np.array([values[groups == i].mean() for i in range(len(parts))])
    values = values - centres[groups]
    scale = float(values.std()) or 1.0
    targets = values / scale
    settings = kernel_settings(
        *(inputs, targets, capped, lengths, np.random.default_rng([seed, 1]), SETTINGS),
        groups=columns,
    )
    return tuple(
        ResponseSurface(
            *(categorical, inputs, targets, capped, groups, settings, i, float(centre), scale)
        )
        for i, centre in enumerate(centres)
    )


def _as_fitted(
    part: GroupPoints, categorical: tuple[int, ...], group: int, groups: int, tolerance: float
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Inputs, winsorised scores, and whether they lie at the limit, in an order of their own."""
    assert np.isfinite(part.points).all()
    values, capped = as_seen(part.scores, part.infeasible, tolerance)
    order = np.lexsort((*part.points.T, values))
    inputs = of_group(part.points[order], categorical, group, groups)
    return inputs, values[order], capped[order]


def as_seen(
    scores: Array, infeasible: NDArray[np.bool_], tolerance: float
) -> tuple[Array, NDArray[np.bool_]]:
    """Scores [n] as the surface sees them, and which [n] of them lie at the limit."""
    bad = infeasible | ~np.isfinite(scores)
    assert not bad.all()
    cap = winsorising_limit(scores[~bad], tolerance)
    values = np.minimum(np.where(bad, cap, scores), cap)
    return values, values >= cap


def winsorising_limit(scores: Array, tolerance: float) -> float:
    """The worst score that is still distinguished from worse ones.

    Where runs diverge, scores are large by orders of magnitude, and one of them would set the scale
    of everything. How bad a bad run was does not matter for where the good ones are; that it was
    bad does. The limit lies above the median by three times the distance from the median down to
    the tenth percentile (normal scores: 3.8 SD above the mean), at least six tolerances above the
    fifth percentile. Lower limits make a plateau whose rim the surface rounds off into the region.
    """
    fifth, tenth, median = np.quantile(scores, [0.05, 0.1, 0.5])
    return float(max(median + 3 * (median - tenth), fifth + 6 * tolerance))


def _thinned(
    inputs: Array,
    values: Array,
    capped: NDArray[np.bool_],
    lengths: NDArray[np.int_],
    seed: int,
) -> NDArray[np.int_]:
    """Indices of `MOST_POINTS` trials: a random half, and where that half says it is good.

    Choosing trials by their own score would keep the lucky ones and pull the surface down where
    trials are many. The second half is therefore chosen by the score that the first half predicts
    for it, which knows nothing of its noise.
    """
    half = MOST_POINTS // 2
    shuffled = np.random.default_rng([seed, 2]).permutation(len(inputs))
    first, rest = shuffled[:half], shuffled[half:]
    centre, scale = values[first].mean(), values[first].std() or 1.0
    some = inputs[first], (values[first] - centre) / scale, capped[first], lengths
    (setting,) = kernel_settings(*some, np.random.default_rng(seed), 1)
    predicted = setting.covariances(inputs[rest], inputs[first]) @ setting.weights
    second = rest[np.argsort(predicted, kind="stable")[: MOST_POINTS - half]]
    return np.sort(np.concatenate([first, second]))

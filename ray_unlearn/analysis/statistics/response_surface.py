"""A score as a smooth function of the hyperparameters, with how uncertain that function is.

Gaussian process, Matern-5/2 kernel with one length scale per hyperparameter, white noise. The
length scales are not known from 12 to 40 trials, so they are not fixed at their best values: draws
come from several settings that the trials support (Laplace approximation at the mode,
importance-resampled; Rubin 1988). Draws are whole functions (Matern features and Matheron's rule;
Wilson et al. 2020, "Efficiently sampling functions from Gaussian process posteriors"), so that a
minimum and a profile can be taken from the same draw and thousands of points cost one matrix
product.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from ray_unlearn.analysis.statistics.kernel_posterior import Array, KernelSetting, blocks_of
from ray_unlearn.analysis.statistics.kernel_settings import kernel_settings

MOST_POINTS = 300
"""Trials a fit rests on at most: its cost grows with their cube."""
SETTINGS = 8
FREQUENCIES = 128
REFITTED = 40
"""Trials up to which the kernel's settings are found anew for each fold of a check."""


@dataclass(frozen=True)
class ResponseSurface:
    """The fitted score surface of one method in one group.

    categorical: choices of each axis that holds codes, 0 for a numeric axis.
    inputs: trials that the fit rests on [n_used, d], embedded (see `embedded`).
    targets: their standardised scores [n_used]: (score - centre) / scale.
    capped: [n_used], trials at the winsorising limit.
    settings: kernel settings that the trials support.
    n_used: trials the fit rests on (at most `MOST_POINTS`).
    """

    categorical: tuple[int, ...]
    inputs: Array
    targets: Array
    capped: NDArray[np.bool_]
    settings: tuple[KernelSetting, ...]
    centre: float
    scale: float
    n_used: int

    def mean(self, points: Array) -> Array:
        """Posterior mean of the noise-free score at points [m, d], as [m]."""
        inputs = embedded(points, self.categorical)
        means = [setting.expected(inputs, self.inputs) for setting in self.settings]
        return np.asarray(self.centre + self.scale * np.mean(means, axis=0))

    def rough_mean(self, points: Array) -> Array:
        """Posterior mean [m] under one setting of the kernel.

        An eighth of the price of `mean`; good enough for choosing points.
        """
        inputs = embedded(points, self.categorical)
        return np.asarray(self.centre + self.scale * self.settings[0].expected(inputs, self.inputs))

    def draws(self, points: Array, seed: int, count: int) -> Array:
        """Joint posterior draws [count, m] of the noise-free score at points [m, d].

        The same seed and count give the same functions at whatever points they are asked for.
        """
        inputs = embedded(points, self.categorical)
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

    def left_out_draws(
        self, kept: NDArray[np.int_], left: NDArray[np.int_], seed: int, count: int
    ) -> Array:
        """Predictive draws [count, left] of the standardised scores of trials left out.

        Of few trials the kernel's settings are found again without those left out; of many they
        are those of the fit to all, which a fifth of the trials hardly moves. What is predicted is
        what would be seen: with noise, and winsorised.
        """
        parts_of = np.array_split(np.arange(count), len(self.settings))
        rng = np.random.default_rng([seed, 5])
        settings = self._settings_without_left_out(kept, rng)
        limit = self.targets.max() if self.capped.any() else math.inf
        at, inputs = self.inputs[left], self.inputs[kept]
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
        inputs, lengths = self.inputs[kept], _lengths(self.categorical)
        count = len(self.settings)
        return kernel_settings(inputs, self.targets[kept], self.capped[kept], lengths, rng, count)


def fit_response_surface(
    points: Array,
    scores: Array,
    infeasible: NDArray[np.bool_],
    seed: int,
    categorical: tuple[int, ...] = (),
    tolerance: float = 0.0,
) -> ResponseSurface:
    """Fit the surface to trials at points [n, d] in unit coordinates, lower scores better.

    Args:
        points: coordinates [n, d], finite.
        scores: [n]; ignored where infeasible.
        infeasible: [n]; such trials count as the worst score that is still distinguished.
        seed: of thinning and of the kernel settings.
        categorical: choices of each axis that holds codes 0 ... n-1, 0 for a numeric axis; () if
            all are numeric.
        tolerance: differences this small must stay visible, so winsorising leaves six times as
            much.
    """
    n, d = points.shape
    assert scores.shape == infeasible.shape == (n,)
    assert np.isfinite(points).all()
    categorical = categorical or (0,) * d
    values, at_limit = as_seen(scores, infeasible, tolerance)
    cap = float(values.max()) if at_limit.any() else math.inf
    order = np.lexsort((*points.T, values))
    inputs, values = embedded(points, categorical)[order], values[order]
    lengths = _lengths(categorical)
    if n > MOST_POINTS:
        kept = _thinned(inputs, values, cap, lengths, seed)
        inputs, values = inputs[kept], values[kept]
    centre, scale = float(values.mean()), float(values.std()) or 1.0
    targets = (values - centre) / scale
    capped = values >= cap
    settings = kernel_settings(
        inputs, targets, capped, lengths, np.random.default_rng([seed, 1]), SETTINGS
    )
    return ResponseSurface(
        categorical, inputs, targets, capped, settings, centre, scale, len(inputs)
    )


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


def embedded(points: Array, categorical: tuple[int, ...]) -> Array:
    """Numeric axes as they are, categorical ones one-hot over sqrt(2).

    Any two choices have distance 1.
    """
    columns = [
        column[:, None] if not k else (column[:, None] == np.arange(k)) / math.sqrt(2)
        for column, k in zip(points.T, categorical, strict=True)
    ]
    return np.concatenate(columns, axis=1).astype(float)


def _lengths(categorical: tuple[int, ...]) -> NDArray[np.int_]:
    """The axis of each embedded column."""
    return np.repeat(np.arange(len(categorical)), [max(k, 1) for k in categorical])


def posterior_paths(
    setting: KernelSetting,
    inputs: Array,
    targets: Array,
    rng: np.random.Generator,
    count: int,
    trials: NDArray[np.int_] | None = None,
    stretch: float = 1.0,
) -> Callable[[Array], Array]:
    """Draws of whole functions: a prior function, corrected by what it misses at the observations.

    The prior function is a sum of random Fourier features.

    Args:
        setting: of the kernel.
        inputs: of the observations [n, k].
        targets: observations [n], standardised.
        rng: of the draws.
        count: draws.
        trials: code [n] of each observation's trial, where trials have several rows.
        stretch: factor of every draw's distance from the posterior mean.

    Returns:
        The draws as one function: of inputs [m, k] their values [m, count] there.
    """
    # The spectral density of Matern-5/2 is a multivariate t with 5 degrees of freedom (Rasmussen &
    # Williams 2006, 4.2.1).
    shape = (FREQUENCIES, inputs.shape[1])
    frequencies = rng.standard_normal(shape) * np.sqrt(5 / rng.chisquare(5, FREQUENCIES))[:, None]
    amplitudes = rng.standard_normal((2 * FREQUENCIES, count)) * math.sqrt(
        setting.signal / FREQUENCIES
    )
    noise = rng.standard_normal((len(inputs), count)) * np.sqrt(setting.noises)[:, None]
    if trials is not None:
        codes = np.unique(trials, return_inverse=True)[1]
        noise += rng.standard_normal((codes.max() + 1, count))[codes] * math.sqrt(setting.trial)
    slopes = rng.standard_normal(count) * math.sqrt(setting.slope)
    phases = frequencies * setting.inverse_lengths
    # Single precision, eightfold faster: the features are random to 6 % anyway.
    narrow = amplitudes.astype(np.float32)

    def prior(x: Array) -> Array:
        angles = (x @ phases.T).astype(np.float32)
        smooth = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) @ narrow
        if setting.kink is None:
            return np.asarray(smooth, dtype=float)
        return np.asarray(smooth + np.outer(setting.kink.at(x), slopes), dtype=float)

    missed = cho_solve((setting.cholesky, True), targets[:, None] - prior(inputs) - noise)
    solved = stretch * missed + (1 - stretch) * setting.weights[:, None]

    def drawn(at: Array) -> Array:
        values = np.empty((len(at), count))
        for block in blocks_of(len(at)):
            values[block] = stretch * prior(at[block])
            values[block] += setting.covariances(at[block], inputs) @ solved
        return values

    return drawn


def _thinned(
    inputs: Array, values: Array, cap: float, lengths: NDArray[np.int_], seed: int
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
    targets, capped = (values[first] - centre) / scale, values[first] >= cap
    (setting,) = kernel_settings(
        inputs[first], targets, capped, lengths, np.random.default_rng(seed), 1
    )
    predicted = setting.covariances(inputs[rest], inputs[first]) @ setting.weights
    second = rest[np.argsort(predicted, kind="stable")[: MOST_POINTS - half]]
    return np.sort(np.concatenate([first, second]))

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
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, lapack
from scipy.optimize import minimize
from scipy.special import logsumexp

Array = NDArray[np.float64]

MOST_POINTS = 300
"""Trials a fit rests on at most: its cost grows with their cube."""
SETTINGS = 8
PROPOSALS = 128
FREQUENCIES = 128
FEW = 100
# Prior mean and SD of the logarithms, and bounds, of: length scales (unit coordinates), signal
# variance, noise variance (standardised scores), and the noise of trials at the winsorising limit
# as a share of that. Noise near 0 and wiggles between neighbouring trials need evidence; a flat
# function does not.
LENGTH, SIGNAL, NOISE, CAPPED = (0.0, 1.3), (math.log(0.3), 2.0), (math.log(0.1), 2.0), (0.0, 1.5)
BOUNDS = ((0.05, 50.0), (1e-4, 10.0), (1e-5, 4.0), (0.03, 2.0))


@dataclass(frozen=True)
class _Setting:
    """One setting of the kernel, with the trials solved for it. Scores are standardised."""

    inverse_lengths: Array
    signal: float
    noise: float
    noises: Array
    cholesky: Array
    weights: Array


@dataclass(frozen=True)
class ResponseSurface:
    """The fitted score surface of one method in one group.

    categorical: choices of each axis that holds codes, 0 for a numeric axis.
    inputs: trials that the fit rests on [n_used, d], embedded (see `_embedded`).
    targets: their standardised scores [n_used]: (score - centre) / scale.
    settings: kernel settings that the trials support.
    n_used: trials the fit rests on (at most `MOST_POINTS`).
    """

    categorical: tuple[int, ...]
    inputs: Array
    targets: Array
    settings: tuple[_Setting, ...]
    centre: float
    scale: float
    n_used: int

    def mean(self, points: Array) -> Array:
        """Posterior mean of the noise-free score at points [m, d], as [m]."""
        inputs = _embedded(points, self.categorical)
        means = [_kernel(inputs, self.inputs, s) @ s.weights for s in self.settings]
        return np.asarray(self.centre + self.scale * np.mean(means, axis=0))

    def rough_mean(self, points: Array) -> Array:
        """The posterior mean [m] under one setting of the kernel: for choosing points, at an eighth
        of the price."""
        inputs = _embedded(points, self.categorical)
        setting = self.settings[0]
        return np.asarray(
            self.centre + self.scale * (_kernel(inputs, self.inputs, setting) @ setting.weights)
        )

    def draws(self, points: Array, seed: int, count: int) -> Array:
        """Joint posterior draws [count, m] of the noise-free score at points [m, d].

        The same seed and count give the same functions at whatever points they are asked for.
        """
        inputs = _embedded(points, self.categorical)
        parts_of = np.array_split(np.arange(count), len(self.settings))
        parts = [
            _paths(
                setting,
                self.inputs,
                self.targets,
                inputs,
                np.random.default_rng([seed, i]),
                len(part),
            )
            for i, (setting, part) in enumerate(zip(self.settings, parts_of, strict=True))
        ]
        order = np.random.default_rng(seed).permutation(count)
        return np.asarray(self.centre + self.scale * np.concatenate(parts)[order])


def fit_response_surface(
    points: Array,
    scores: Array,
    infeasible: NDArray[np.bool_],
    seed: int,
    categorical: tuple[int, ...] = (),
    tolerance: float = 0.0,
) -> ResponseSurface:
    """Fit the surface to trials at points [n, d] in unit coordinates, lower scores better.

    categorical: choices of each axis that holds codes 0 ... n-1, 0 for a numeric axis; () if all
        are numeric.
    tolerance: differences this small must stay visible, so that winsorising leaves six times as
        much.
    """
    n, d = points.shape
    assert scores.shape == infeasible.shape == (n,)
    assert np.isfinite(points).all()
    categorical = categorical or (0,) * d
    bad = infeasible | ~np.isfinite(scores)
    assert not bad.all()
    cap = winsorising_limit(scores[~bad], tolerance)
    values = np.where(bad, cap, np.minimum(np.where(bad, cap, scores), cap))
    order = np.lexsort((*points.T, values))
    inputs, values = _embedded(points, categorical)[order], values[order]
    lengths = np.concatenate([np.full(max(k, 1), i) for i, k in enumerate(categorical)])
    if n > MOST_POINTS:
        kept = _thinned(inputs, values, cap, lengths, seed)
        inputs, values = inputs[kept], values[kept]
    centre, scale = float(values.mean()), float(values.std()) or 1.0
    targets = (values - centre) / scale
    capped = values >= cap
    settings = _settings(
        inputs, targets, capped, lengths, np.random.default_rng([seed, 1]), SETTINGS
    )
    return ResponseSurface(categorical, inputs, targets, settings, centre, scale, len(inputs))


def winsorising_limit(scores: Array, tolerance: float) -> float:
    """The worst score that is still told from worse ones, of finite scores [n].

    Where runs diverge, scores are large by orders of magnitude, and one of them would set the scale
    of everything. How bad a bad run was does not matter for where the good ones are; that it was
    bad does. The limit lies above the median by three times the distance from the median down to
    the tenth percentile (normal scores: 3.8 SD above the mean), at least six tolerances above the
    fifth percentile. Lower limits make a plateau whose rim the surface rounds off into the region.
    """
    fifth, tenth, median = np.quantile(scores, [0.05, 0.1, 0.5])
    return float(max(median + 3 * (median - tenth), fifth + 6 * tolerance))


def _embedded(points: Array, categorical: tuple[int, ...]) -> Array:
    """Numeric axes as they are, categorical ones one-hot over sqrt(2): distance 1 between any two
    choices."""
    columns = [
        column[:, None] if not k else (column[:, None] == np.arange(k)) / math.sqrt(2)
        for column, k in zip(points.T, categorical, strict=True)
    ]
    return np.concatenate(columns, axis=1).astype(float)


def _kernel(left: Array, right: Array, setting: _Setting) -> Array:
    """Matern-5/2 covariances [len(left), len(right)]."""
    a, b = left * setting.inverse_lengths, right * setting.inverse_lengths
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return _matern(np.maximum(squares, 0.0), setting.signal)


def _matern(squares: Array, signal: float) -> Array:
    r = np.sqrt(5 * squares)
    return np.asarray(signal * (1 + r + r * r / 3) * np.exp(-r))


def _paths(
    setting: _Setting,
    inputs: Array,
    targets: Array,
    at: Array,
    rng: np.random.Generator,
    count: int,
) -> Array:
    """Draws [count, m]: a prior function from random Fourier features, corrected by what it misses
    at the trials."""
    # The spectral density of Matern-5/2 is a multivariate t with 5 degrees of freedom (Rasmussen &
    # Williams 2006, 4.2.1).
    shape = (FREQUENCIES, inputs.shape[1])
    frequencies = rng.standard_normal(shape) * np.sqrt(5 / rng.chisquare(5, FREQUENCIES))[:, None]
    amplitudes = rng.standard_normal((2 * FREQUENCIES, count)) * math.sqrt(
        setting.signal / FREQUENCIES
    )
    noise = rng.standard_normal((len(inputs), count)) * np.sqrt(setting.noises)[:, None]
    phases = frequencies * setting.inverse_lengths
    # Single precision, eightfold faster: the features are random to 6 % anyway.
    narrow = amplitudes.astype(np.float32)

    def prior(x: Array) -> Array:
        angles = (x @ phases.T).astype(np.float32)
        return np.asarray(
            np.concatenate([np.cos(angles), np.sin(angles)], axis=1) @ narrow, dtype=float
        )

    missed = cho_solve((setting.cholesky, True), targets[:, None] - prior(inputs) - noise)
    return np.asarray((prior(at) + _kernel(at, inputs, setting) @ missed).T)


class _Posterior:
    """Log posterior density of the logarithms of length scales, signal, noise, and share of noise
    at the limit.

    Trials at the winsorising limit look alike however noisy the score is; counted with the others
    they would make it look quiet, and every interval too narrow. They get a noise of their own, by
    default the same.
    """

    def __init__(
        self, inputs: Array, targets: Array, capped: NDArray[np.bool_], lengths: NDArray[np.int_]
    ) -> None:
        d = int(lengths.max()) + 1
        self.targets, self.capped, self.lengths = targets, capped, lengths
        gaps = [
            (inputs[:, lengths == k][:, None] - inputs[:, lengths == k][None]) for k in range(d)
        ]
        self.squares = np.stack([(gap**2).sum(-1) for gap in gaps])
        self.prior = np.array([LENGTH] * d + [SIGNAL, NOISE, CAPPED])
        self.bounds = np.log([BOUNDS[0]] * d + [*BOUNDS[1:]])

    def covariance(self, theta: Array) -> tuple[Array, Array]:
        """Covariances of the trials' scores, and scaled squared distances, both [n, n]."""
        squares = np.tensordot(np.exp(-2 * theta[:-3]), self.squares, 1)
        covariance = _matern(squares, math.exp(theta[-3]))
        covariance[np.diag_indices_from(covariance)] += self.noises(theta)
        return covariance, squares

    def noises(self, theta: Array) -> Array:
        """Noise variance of each trial [n]."""
        return np.exp(theta[-2] + np.where(self.capped, theta[-1], 0.0))

    def log_density(self, theta: Array) -> float:
        covariance, _ = self.covariance(theta)
        cholesky, info = lapack.dpotrf(covariance, lower=1)
        assert info == 0
        half = lapack.dtrtrs(cholesky, self.targets, lower=1)[0]
        prior = -0.5 * float((((theta - self.prior[:, 0]) / self.prior[:, 1]) ** 2).sum())
        return -0.5 * float(half @ half) - float(np.log(np.diag(cholesky)).sum()) + prior

    def loss_and_gradient(self, theta: Array) -> tuple[float, Array]:
        """Negative log density and its gradient (Rasmussen & Williams 2006, equation 5.9)."""
        covariance, squares = self.covariance(theta)
        cholesky, info = lapack.dpotrf(covariance, lower=1)
        assert info == 0
        weights = cho_solve((cholesky, True), self.targets)
        lower = np.tril(lapack.dpotri(cholesky, lower=1)[0])
        inner = lower + lower.T
        inner[np.diag_indices_from(inner)] /= 2
        inner -= np.outer(weights, weights)
        r = np.sqrt(5 * squares)
        slope = inner * (math.exp(theta[-3]) * 5 / 3 * (1 + r) * np.exp(-r))
        by_length = np.tensordot(self.squares, slope, 2) * np.exp(-2 * theta[:-3])
        by_noise = inner.diagonal() * self.noises(theta)
        by_signal = float((inner * covariance).sum()) - by_noise.sum()
        gradient = 0.5 * np.array(
            [*by_length, by_signal, by_noise.sum(), by_noise[self.capped].sum()]
        )
        standardised = (theta - self.prior[:, 0]) / self.prior[:, 1]
        loss = 0.5 * float(self.targets @ weights) + float(np.log(np.diag(cholesky)).sum())
        return loss + 0.5 * float(
            standardised @ standardised
        ), gradient + standardised / self.prior[:, 1]

    def mode(self, starts: Sequence[Sequence[float] | Array] | None = None) -> Array:
        """The best of the climbs, unless told otherwise from mostly signal and from mostly
        noise."""
        d = len(self.prior) - 3
        if starts is None:
            starts = [
                [math.log(0.5)] * d + [0.0, math.log(0.05), 0.0],
                [0.0] * d + [math.log(0.1), math.log(0.8), 0.0],
            ]
        ends = [
            minimize(
                self.loss_and_gradient,
                np.array(start),
                jac=True,
                method="L-BFGS-B",
                bounds=self.bounds,
                options={"maxiter": 60, "ftol": 1e-6},
            )
            for start in starts
        ]
        return np.asarray(min(ends, key=lambda end: float(end.fun)).x)

    def solved(self, theta: Array) -> _Setting:
        cholesky = lapack.dpotrf(self.covariance(theta)[0], lower=1)[0]
        inverse_lengths = np.exp(-theta[:-3])[self.lengths]
        weights = cho_solve((cholesky, True), self.targets)
        return _Setting(
            inverse_lengths,
            math.exp(theta[-3]),
            math.exp(theta[-2]),
            self.noises(theta),
            cholesky,
            weights,
        )


def _settings(
    inputs: Array,
    targets: Array,
    capped: NDArray[np.bool_],
    lengths: NDArray[np.int_],
    rng: np.random.Generator,
    count: int,
) -> tuple[_Setting, ...]:
    """Kernel settings drawn from their posterior; with count 1 its mode."""
    posterior = _Posterior(inputs, targets, capped, lengths)
    few = rng.permutation(len(inputs))[:FEW]
    rough = (
        [_Posterior(inputs[few], targets[few], capped[few], lengths).mode()]
        if len(inputs) > FEW
        else None
    )
    mode = posterior.mode(rough)
    if count == 1:
        return (posterior.solved(mode),)
    low, high = posterior.bounds.T
    step = 0.05
    size = len(mode)
    hessian = np.empty((size, size))
    for i in range(size):
        shift = step * np.eye(size)[i]
        up, down = (posterior.loss_and_gradient(mode + sign * shift)[1] for sign in (1, -1))
        hessian[i] = (up - down) / (2 * step)
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    spread = vectors / np.sqrt(np.maximum(values, 0.25))
    # Student-t proposals with 5 degrees of freedom: heavier tails than the posterior's, so that
    # weights stay bounded.
    standard = rng.standard_normal((PROPOSALS, size))
    stretch = 5 / rng.chisquare(5, PROPOSALS)
    proposals = np.clip(mode + (standard * np.sqrt(stretch)[:, None]) @ spread.T, low, high)
    log_proposal = -0.5 * (5 + size) * np.log1p((standard**2).sum(1) * stretch / 5)
    log_weights = np.array([posterior.log_density(theta) for theta in proposals]) - log_proposal
    cumulative = np.cumsum(np.exp(log_weights - logsumexp(log_weights)))
    ticks = (np.arange(count) + rng.uniform()) / count
    chosen = np.minimum(np.searchsorted(cumulative, ticks), PROPOSALS - 1)
    return tuple(posterior.solved(proposals[i]) for i in chosen)


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
    (setting,) = _settings(inputs[first], targets, capped, lengths, np.random.default_rng(seed), 1)
    predicted = _kernel(inputs[rest], inputs[first], setting) @ setting.weights
    second = rest[np.argsort(predicted, kind="stable")[: MOST_POINTS - half]]
    return np.sort(np.concatenate([first, second]))

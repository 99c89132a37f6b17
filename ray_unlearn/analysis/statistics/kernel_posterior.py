"""Settings of a Gaussian process kernel that the trials support: length scales, signal, noise.

The settings are not known from 12 to 40 trials, so they are not fixed at their best values. They
are drawn from their posterior: Laplace approximation at the mode, importance-resampled (Rubin
1988).
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

PROPOSALS = 128

FEW = 100

# Prior mean and SD of the logarithms, and bounds, of: length scales (unit coordinates), signal
# variance, noise variance (standardised scores), and the noise of trials at the winsorising limit
# as a fraction of that. Noise near 0 and wiggles between neighbouring trials need evidence; a flat
# function does not.
LENGTH, SIGNAL, NOISE, CAPPED = (0.0, 1.3), (math.log(0.3), 2.0), (math.log(0.1), 2.0), (0.0, 1.5)

BOUNDS = ((0.05, 50.0), (1e-4, 10.0), (1e-5, 4.0), (0.03, 2.0))


@dataclass(frozen=True)
class KernelSetting:
    """One setting of the kernel, with the trials solved for it and standardised scores."""

    inverse_lengths: Array
    signal: float
    noise: float
    noises: Array
    cholesky: Array
    weights: Array


def matern(squares: Array, signal: float) -> Array:
    r = np.sqrt(5 * squares)
    return np.asarray(signal * (1 + r + r * r / 3) * np.exp(-r))


class KernelPosterior:
    """Posterior density of the logarithms of length scales, signal and noise.

    The last parameter is the noise of trials at the winsorising limit, as a fraction of that of the
    others.

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
        covariance = matern(squares, math.exp(theta[-3]))
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
        """The highest density found by climbing from `starts`.

        By default one start is mostly signal and one mostly noise.
        """
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

    def solved(self, theta: Array) -> KernelSetting:
        cholesky = lapack.dpotrf(self.covariance(theta)[0], lower=1)[0]
        inverse_lengths = np.exp(-theta[:-3])[self.lengths]
        weights = cho_solve((cholesky, True), self.targets)
        return KernelSetting(
            inverse_lengths,
            math.exp(theta[-3]),
            math.exp(theta[-2]),
            self.noises(theta),
            cholesky,
            weights,
        )


def kernel_settings(
    inputs: Array,
    targets: Array,
    capped: NDArray[np.bool_],
    lengths: NDArray[np.int_],
    rng: np.random.Generator,
    count: int,
) -> tuple[KernelSetting, ...]:
    """Kernel settings drawn from their posterior; with `count` 1, its mode."""
    posterior = KernelPosterior(inputs, targets, capped, lengths)
    few = rng.permutation(len(inputs))[:FEW]
    rough = (
        [KernelPosterior(inputs[few], targets[few], capped[few], lengths).mode()]
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

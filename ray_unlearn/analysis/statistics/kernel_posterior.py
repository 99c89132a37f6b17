"""Settings of a Gaussian process kernel that the trials support.

Length scales, signal and noise are not known from 12 to 40 trials, so they are not fixed at their
best values. They are drawn from their posterior: Laplace approximation at the mode,
importance-resampled (Rubin 1988). A score that is an absolute difference has a kink at its best
value, which a Matern kernel of any smoothness rounds off. Half of the prior probability therefore
lies on functions with a kink across one axis; where it is, and how sharp, is drawn too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, lapack
from scipy.optimize import minimize

Array = NDArray[np.float64]

PROPOSALS = 128

FEW = 100

# Prior mean and SD of the logarithms, and bounds, of: length scales (unit coordinates), signal
# variance, noise variance (standardised scores), and the noise of trials at the winsorising limit
# as a fraction of that. Noise near 0 and wiggles between neighbouring trials need evidence; a flat
# function does not.
LENGTH, SIGNAL, NOISE, CAPPED = (0.0, 1.3), (math.log(0.3), 2.0), (math.log(0.1), 2.0), (0.0, 1.5)

BOUNDS = ((0.05, 50.0), (1e-4, 10.0), (1e-5, 4.0), (0.03, 2.0))

# The same of the variance of a kink's slope (standardised scores per unit coordinate).
SLOPE, SLOPE_BOUNDS = (math.log(4.0), 1.5), (1e-2, 400.0)

PLACES, FINER = 32, 8
"""Places of a kink along an axis; each of the likely ones is divided once more where they are few.
"""


@dataclass(frozen=True)
class Kink:
    """A function of one embedded column, |x - place| - centre."""

    column: int
    place: float
    centre: float

    def at(self, inputs: Array) -> Array:
        """Its values [n] at inputs [n, columns]."""
        return np.asarray(np.abs(inputs[:, self.column] - self.place) - self.centre)


def kink_of(inputs: Array, column: int, place: float) -> Kink:
    """The kink whose mean over the trials is 0."""
    return Kink(column, place, float(np.abs(inputs[:, column] - place).mean()))


@dataclass(frozen=True)
class KernelSetting:
    """One setting of the kernel, with the trials solved for it and standardised scores."""

    inverse_lengths: Array
    signal: float
    noise: float
    noises: Array
    cholesky: Array
    weights: Array
    kink: Kink | None = None
    slope: float = 0.0
    """Variance of the kink's slope."""

    def covariances(self, left: Array, right: Array) -> Array:
        """Covariances [len(left), len(right)] of the noise-free function."""
        a, b = left * self.inverse_lengths, right * self.inverse_lengths
        squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        smooth = matern(np.maximum(squares, 0.0), self.signal)
        if self.kink is None:
            return smooth
        return smooth + self.slope * np.outer(self.kink.at(left), self.kink.at(right))

    def variances(self, at: Array) -> Array:
        """Prior variances [len(at)] of the noise-free function."""
        bent = 0.0 if self.kink is None else self.slope * self.kink.at(at) ** 2
        return np.full(len(at), self.signal) + bent


def matern(squares: Array, signal: float) -> Array:
    r = np.sqrt(5 * squares)
    return np.asarray(signal * (1 + r + r * r / 3) * np.exp(-r))


class KernelPosterior:
    """Posterior density of the logarithms of length scales, signal, noise, and a kink's slope.

    The last parameter but for the slope is the noise of trials at the winsorising limit, as a
    fraction of that of the others.

    Trials at the winsorising limit look alike however noisy the score is; counted with the others
    they would make it look quiet, and every interval too narrow. They get a noise of their own, by
    default the same.
    """

    def __init__(
        self,
        inputs: Array,
        targets: Array,
        capped: NDArray[np.bool_],
        lengths: NDArray[np.int_],
        kink: Kink | None = None,
    ) -> None:
        self.d = d = int(lengths.max()) + 1
        self.targets, self.capped, self.lengths = targets, capped, lengths
        gaps = [
            (inputs[:, lengths == k][:, None] - inputs[:, lengths == k][None]) for k in range(d)
        ]
        self.squares = np.stack([(gap**2).sum(-1) for gap in gaps])
        self.kink = kink
        self.bend = None if kink is None else kink.at(inputs)
        slope = [] if kink is None else [SLOPE]
        self.prior = np.array([LENGTH] * d + [SIGNAL, NOISE, CAPPED, *slope])
        steepest = [] if kink is None else [SLOPE_BOUNDS]
        self.bounds = np.log([BOUNDS[0]] * d + [*BOUNDS[1:], *steepest])

    def covariance(self, theta: Array) -> tuple[Array, Array]:
        """Covariances of the trials' scores, and scaled squared distances, both [n, n]."""
        squares = np.tensordot(np.exp(-2 * theta[: self.d]), self.squares, 1)
        covariance = matern(squares, math.exp(theta[self.d]))
        covariance[np.diag_indices_from(covariance)] += self.noises(theta)
        if self.bend is not None:
            covariance += math.exp(theta[-1]) * np.outer(self.bend, self.bend)
        return covariance, squares

    def noises(self, theta: Array) -> Array:
        """Noise variance of each trial [n]."""
        return np.exp(theta[self.d + 1] + np.where(self.capped, theta[self.d + 2], 0.0))

    def log_prior(self, theta: Array) -> float:
        """Log prior density, but for a constant."""
        return -0.5 * float((((theta - self.prior[:, 0]) / self.prior[:, 1]) ** 2).sum())

    def log_density(self, theta: Array) -> float:
        covariance, _ = self.covariance(theta)
        cholesky, info = lapack.dpotrf(covariance, lower=1)
        assert info == 0
        half = lapack.dtrtrs(cholesky, self.targets, lower=1)[0]
        determinant = float(np.log(np.diag(cholesky)).sum())
        return -0.5 * float(half @ half) - determinant + self.log_prior(theta)

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
        slope = inner * (math.exp(theta[self.d]) * 5 / 3 * (1 + r) * np.exp(-r))
        by_length = np.tensordot(self.squares, slope, 2) * np.exp(-2 * theta[: self.d])
        by_noise = inner.diagonal() * self.noises(theta)
        by_bend = []
        if self.bend is not None:
            by_bend = [math.exp(theta[-1]) * float(self.bend @ inner @ self.bend)]
        by_signal = float((inner * covariance).sum()) - by_noise.sum() - sum(by_bend)
        gradient = 0.5 * np.array(
            [*by_length, by_signal, by_noise.sum(), by_noise[self.capped].sum(), *by_bend]
        )
        loss = 0.5 * float(self.targets @ weights) + float(np.log(np.diag(cholesky)).sum())
        pull = (theta - self.prior[:, 0]) / self.prior[:, 1] ** 2
        return loss - self.log_prior(theta), gradient + pull

    def mode(self, starts: Sequence[Sequence[float] | Array] | None = None) -> Array:
        """The highest density found by climbing from `starts`.

        By default one start is mostly signal and one mostly noise.
        """
        if starts is None:
            assert self.kink is None
            starts = [
                [math.log(0.5)] * self.d + [0.0, math.log(0.05), 0.0],
                [0.0] * self.d + [math.log(0.1), math.log(0.8), 0.0],
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

    def proposals(self, mode: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Proposals [PROPOSALS, size] around the mode, and their log density but for a constant.

        Student's t with 5 degrees of freedom: heavier tails than the posterior's, so that weights
        stay bounded.
        """
        low, high = self.bounds.T
        step, size = 0.05, len(mode)
        hessian = np.empty((size, size))
        for i in range(size):
            shift = step * np.eye(size)[i]
            up, down = (self.loss_and_gradient(mode + sign * shift)[1] for sign in (1, -1))
            hessian[i] = (up - down) / (2 * step)
        values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
        widths = 1 / np.sqrt(np.maximum(values, 0.25))
        standard = rng.standard_normal((PROPOSALS, size))
        stretch = 5 / rng.chisquare(5, PROPOSALS)
        found = mode + (standard * np.sqrt(stretch)[:, None]) @ (vectors * widths).T
        log_density = -0.5 * (5 + size) * np.log1p((standard**2).sum(1) * stretch / 5)
        # Densities of different sizes are compared: constants of t and prior count.
        constant = (
            math.lgamma((5 + size) / 2)
            - math.lgamma(2.5)
            - size / 2 * math.log(5 * math.pi)
            - float(np.log(widths).sum())
        )
        prior = float(np.log(self.prior[:, 1]).sum()) + size / 2 * math.log(2 * math.pi)
        return np.clip(found, low, high), log_density + constant + prior

    def solved(self, theta: Array) -> KernelSetting:
        cholesky = lapack.dpotrf(self.covariance(theta)[0], lower=1)[0]
        return KernelSetting(
            np.exp(-theta[: self.d])[self.lengths],
            math.exp(theta[self.d]),
            math.exp(theta[self.d + 1]),
            self.noises(theta),
            cholesky,
            cho_solve((cholesky, True), self.targets),
            self.kink,
            0.0 if self.kink is None else math.exp(theta[-1]),
        )

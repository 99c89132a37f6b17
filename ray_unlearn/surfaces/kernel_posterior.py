"""Settings of a Gaussian process kernel that the trials support.

Length scales, signal and noise are not known from 12 to 40 trials, so they are not fixed at their
best values. They are drawn from their posterior: Laplace approximation at the mode,
importance-resampled (Rubin 1988). A score that is an absolute difference has a kink at its best
value, which a Matern kernel of any smoothness rounds off. Half of the prior probability therefore
lies on functions with a kink across one axis; where it is, and how sharp, is drawn too.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, lapack
from scipy.optimize import minimize

Array = NDArray[np.float64]

PROPOSALS, PROPOSALS_OF_MANY = 128, 48
"""Of more than `FEW` trials the posterior is nearly normal, and each proposal costs more."""

FEW = 100


@dataclass(frozen=True)
class Belief:
    """What is believed of the logarithm of a positive number: mean and SD, and its bounds."""

    typical: float
    sd: float
    low: float
    high: float

    @property
    def normal(self) -> tuple[float, float]:
        """Mean and SD of the logarithm."""
        return math.log(self.typical), self.sd

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds of the logarithm."""
        return math.log(self.low), math.log(self.high)


@dataclass(frozen=True)
class KernelPrior:
    """What is believed of a kernel before any trial.

    Length scales (unit coordinates), signal and noise variance (standardised observations), and the
    noise of observations at the limit as a fraction of that; trial: variance that the rows of one
    trial share, None where each trial is one observation; level: variance of what all observations
    of a group share, where there are several.
    """

    length: Belief
    signal: Belief
    noise: Belief
    capped: Belief
    trial: Belief | None = None
    level: float = 0.0

    def of(self, d: int) -> list[Belief]:
        """In the order of the parameters, with d length scales."""
        last = [] if self.trial is None else [self.trial]
        return [*[self.length] * d, self.signal, self.noise, self.capped, *last]


SCORE = KernelPrior(
    length=Belief(1.0, 1.3, 0.05, 50.0),
    signal=Belief(0.3, 2.0, 1e-4, 10.0),
    noise=Belief(0.1, 2.0, 1e-5, 4.0),
    capped=Belief(1.0, 1.5, 0.03, 2.0),
    level=1.0,
)
"""Of a score: noise near 0 and wiggles between neighbouring trials need evidence; a flat function
does not."""
CHANGE = KernelPrior(
    length=Belief(2.0, 1.0, 0.05, 50.0),
    signal=Belief(2.0, 1.5, 1e-4, 100.0),
    noise=Belief(0.01, 2.0, 1e-5, 4.0),
    capped=Belief(3.0, 1.5, 0.03, 1000.0),
    trial=Belief(0.01, 1.5, 1e-6, 4.0),
)
"""Of one change that unlearning makes (`component_surface`): nearly straight lines on these scales;
rows of ruined models are noisier by far."""


SLOPE = Belief(4.0, 1.5, 1e-2, 400.0)
"""Of the variance of a kink's slope (standardised scores per unit coordinate)."""

BLOCK = 1024
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
    """One setting of the kernel, with the observations solved for it.

    Observations are standardised. trial: variance that the rows of one trial share; 0 where each
    trial is one observation.
    """

    inverse_lengths: Array
    signal: float
    noise: float
    trial: float
    noises: Array
    cholesky: Array
    weights: Array
    kink: Kink | None = None
    slope: float = 0.0
    """Variance of the kink's slope."""
    groups: int = 0
    """Last columns of the inputs, which say the group; 0 where there is one."""
    level: float = 0.0
    """Variance of what all observations of a group share."""

    def covariances(self, left: Array, right: Array) -> Array:
        """Covariances [len(left), len(right)] of the noise-free function."""
        a, b = left * self.inverse_lengths, right * self.inverse_lengths
        squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        found = matern(np.maximum(squares, 0.0), self.signal)
        if self.groups and self.level:
            found += 2 * self.level * left[:, -self.groups :] @ right[:, -self.groups :].T
        if self.kink is not None:
            found += self.slope * np.outer(self.kink.at(left), self.kink.at(right))
        return found

    def expected(self, at: Array, inputs: Array) -> Array:
        """Posterior mean [len(at)], standardised, from the observations at `inputs`."""
        found = np.empty(len(at))
        for block in blocks_of(len(at)):
            found[block] = self.covariances(at[block], inputs) @ self.weights
        return found

    def variances(self, at: Array) -> Array:
        """Prior variances [len(at)] of the noise-free function."""
        bent = 0.0 if self.kink is None else self.slope * self.kink.at(at) ** 2
        return np.full(len(at), self.signal + (self.level if self.groups else 0.0)) + bent


def blocks_of(count: int, size: int = BLOCK) -> Iterator[slice]:
    """`count` points in blocks, so that what is made of one stays in the processor's cache."""
    return (slice(start, start + size) for start in range(0, count, size))


def matern(squares: Array, signal: float) -> Array:
    """Matern-5/2 covariances from squared distances in length scales, without spare copies."""
    r = np.sqrt(5 * squares)
    covariance = r / 3
    covariance += 1
    covariance *= r
    covariance += 1
    np.negative(r, out=r)
    covariance *= np.exp(r, out=r)
    covariance *= signal
    return np.asarray(covariance)


class KernelPosterior:
    """Posterior density of the logarithms of length scales, signal and noise.

    After the length scales come signal, noise, the noise of observations at the winsorising limit
    as a fraction of that of the others, and, where trials have several rows, the variance that
    these share, or that of a kink's slope.

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
        prior: KernelPrior = SCORE,
        trials: NDArray[np.int_] | None = None,
        kink: Kink | None = None,
        groups: int = 0,
    ) -> None:
        assert (trials is None) == (prior.trial is None)
        assert trials is None or kink is None
        self.d = d = int(lengths.max()) + 1
        self.targets, self.capped, self.lengths = targets, capped, lengths
        gaps = [
            (inputs[:, lengths == k][:, None] - inputs[:, lengths == k][None]) for k in range(d)
        ]
        self.squares = np.stack([(gap**2).sum(-1) for gap in gaps])
        beliefs = [*prior.of(d), *([] if kink is None else [SLOPE])]
        self.kink = kink
        self.bend = None if kink is None else kink.at(inputs)
        self.prior = np.array([belief.normal for belief in beliefs])
        self.bounds = np.array([belief.bounds for belief in beliefs])
        self.shared = None if trials is None else np.equal.outer(trials, trials).astype(float)
        self.groups, self.level = groups, prior.level
        own = inputs[:, inputs.shape[1] - groups :]
        self.levels = 2 * prior.level * own @ own.T if groups and prior.level else None

    def covariance(self, theta: Array) -> tuple[Array, Array]:
        """Covariances of the trials' scores, and scaled squared distances, both [n, n]."""
        squares = np.tensordot(np.exp(-2 * theta[: self.d]), self.squares, 1)
        covariance = matern(squares, math.exp(theta[self.d]))
        if self.shared is not None:
            covariance += math.exp(theta[-1]) * self.shared
        if self.bend is not None:
            covariance += math.exp(theta[-1]) * np.outer(self.bend, self.bend)
        if self.levels is not None:
            covariance += self.levels
        covariance[np.diag_indices_from(covariance)] += self.noises(theta)
        return covariance, squares

    def noises(self, theta: Array) -> Array:
        """Noise variance of each trial [n]."""
        _, noise, capped = theta[self.d : self.d + 3]
        return np.exp(noise + np.where(self.capped, capped, 0.0))

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
        by_last = []
        if self.shared is not None:
            by_last = [math.exp(theta[-1]) * float((inner * self.shared).sum())]
        if self.bend is not None:
            by_last = [math.exp(theta[-1]) * float(self.bend @ inner @ self.bend)]
        by_signal = float((inner * covariance).sum()) - by_noise.sum() - sum(by_last)
        if self.levels is not None:
            by_signal -= float((inner * self.levels).sum())
        gradient = 0.5 * np.array(
            [*by_length, by_signal, by_noise.sum(), by_noise[self.capped].sum(), *by_last]
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
            tail = [] if self.shared is None else [self.prior[-1, 0]]
            starts = [
                [math.log(0.5)] * self.d + [0.0, math.log(0.05), 0.0, *tail],
                [0.0] * self.d + [math.log(0.1), math.log(0.8), 0.0, *tail],
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
        """Proposals [m, size] around the mode, and their log density but for a constant.

        Student's t with 5 degrees of freedom: heavier tails than the posterior's, so that weights
        stay bounded.
        """
        low, high = self.bounds.T
        step, size = 0.05, len(mode)
        count = PROPOSALS if len(self.targets) <= FEW else PROPOSALS_OF_MANY
        hessian = np.empty((size, size))
        for i in range(size):
            shift = step * np.eye(size)[i]
            up, down = (self.loss_and_gradient(mode + sign * shift)[1] for sign in (1, -1))
            hessian[i] = (up - down) / (2 * step)
        values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
        widths = 1 / np.sqrt(np.maximum(values, 0.25))
        standard = rng.standard_normal((count, size))
        stretch = 5 / rng.chisquare(5, count)
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
        inverse_lengths = np.exp(-theta[: self.d])[self.lengths]
        weights = cho_solve((cholesky, True), self.targets)
        signal, noise = np.exp(theta[self.d : self.d + 2])
        return KernelSetting(
            inverse_lengths,
            float(signal),
            float(noise),
            0.0 if self.shared is None else math.exp(theta[-1]),
            self.noises(theta),
            cholesky,
            weights,
            self.kink,
            0.0 if self.kink is None else math.exp(theta[-1]),
            self.groups,
            self.level,
        )

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
    trial share, None where each trial is one observation.
    """

    length: Belief
    signal: Belief
    noise: Belief
    capped: Belief
    trial: Belief | None = None

    def of(self, d: int) -> list[Belief]:
        """In the order of the parameters, with d length scales."""
        last = [] if self.trial is None else [self.trial]
        return [*[self.length] * d, self.signal, self.noise, self.capped, *last]


SCORE = KernelPrior(
    length=Belief(1.0, 1.3, 0.05, 50.0),
    signal=Belief(0.3, 2.0, 1e-4, 10.0),
    noise=Belief(0.1, 2.0, 1e-5, 4.0),
    capped=Belief(1.0, 1.5, 0.03, 2.0),
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


def matern(squares: Array, signal: float) -> Array:
    r = np.sqrt(5 * squares)
    return np.asarray(signal * (1 + r + r * r / 3) * np.exp(-r))


class KernelPosterior:
    """Posterior density of the logarithms of length scales, signal and noise.

    After the length scales come signal, noise, the noise of observations at the winsorising limit
    as a fraction of that of the others, and, where trials have several rows, the variance that
    these share.

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
    ) -> None:
        assert (trials is None) == (prior.trial is None)
        self.d = d = int(lengths.max()) + 1
        self.targets, self.capped, self.lengths = targets, capped, lengths
        gaps = [
            (inputs[:, lengths == k][:, None] - inputs[:, lengths == k][None]) for k in range(d)
        ]
        self.squares = np.stack([(gap**2).sum(-1) for gap in gaps])
        beliefs = prior.of(d)
        self.prior = np.array([belief.normal for belief in beliefs])
        self.bounds = np.array([belief.bounds for belief in beliefs])
        self.shared = None if trials is None else np.equal.outer(trials, trials).astype(float)

    def covariance(self, theta: Array) -> tuple[Array, Array]:
        """Covariances of the trials' scores, and scaled squared distances, both [n, n]."""
        squares = np.tensordot(np.exp(-2 * theta[: self.d]), self.squares, 1)
        covariance = matern(squares, math.exp(theta[self.d]))
        if self.shared is not None:
            covariance += math.exp(theta[-1]) * self.shared
        covariance[np.diag_indices_from(covariance)] += self.noises(theta)
        return covariance, squares

    def noises(self, theta: Array) -> Array:
        """Noise variance of each trial [n]."""
        _, noise, capped = theta[self.d : self.d + 3]
        return np.exp(noise + np.where(self.capped, capped, 0.0))

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
        slope = inner * (math.exp(theta[self.d]) * 5 / 3 * (1 + r) * np.exp(-r))
        by_length = np.tensordot(self.squares, slope, 2) * np.exp(-2 * theta[: self.d])
        by_noise = inner.diagonal() * self.noises(theta)
        by_trial = (
            []
            if self.shared is None
            else [math.exp(theta[-1]) * float((inner * self.shared).sum())]
        )
        by_signal = float((inner * covariance).sum()) - by_noise.sum() - sum(by_trial)
        gradient = 0.5 * np.array(
            [*by_length, by_signal, by_noise.sum(), by_noise[self.capped].sum(), *by_trial]
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
        if starts is None:
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
        )


def kernel_settings(
    inputs: Array,
    targets: Array,
    capped: NDArray[np.bool_],
    lengths: NDArray[np.int_],
    rng: np.random.Generator,
    count: int,
    prior: KernelPrior = SCORE,
    trials: NDArray[np.int_] | None = None,
) -> tuple[KernelSetting, ...]:
    """Kernel settings drawn from their posterior; with `count` 1, its mode.

    Args:
        inputs: of the observations [n, k], embedded.
        targets: observations [n], standardised.
        capped: [n], whether an observation lies at the winsorising limit.
        lengths: index [k] of the length scale of each column of `inputs`.
        rng: of the draws.
        count: settings.
        prior: what is believed of them.
        trials: code [n] of each observation's trial, where trials have several rows.
    """
    posterior = KernelPosterior(inputs, targets, capped, lengths, prior, trials)
    few = rng.permutation(len(inputs))[:FEW]
    some = None if trials is None else trials[few]
    rough = (
        [KernelPosterior(inputs[few], targets[few], capped[few], lengths, prior, some).mode()]
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

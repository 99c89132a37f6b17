"""Draws of kernel settings: with or without a kink, and where the kink is.

Given the other settings, a kink adds a matrix of rank one to the covariance, so that the evidence
for each of many places costs one triangular solve.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.special import logsumexp

from ray_unlearn.surfaces.kernel_posterior import (
    FEW,
    FINER,
    PLACES,
    SCORE,
    SLOPE,
    Array,
    KernelPosterior,
    KernelPrior,
    KernelSetting,
    Kink,
    kink_of,
)

LIKELY = 8.0
"""Log evidence below the best at which a place is left out."""
KINK = 0.04
"""Probability, before any trial, that the score has a kink across one axis. At 0.5, 13 % of truly
good values of a smooth valley looked excluded (24 trials, noise SD = tau); at 0.005 the edges of a
bottom of power 1.5 were held in 2 of 10 (docs/findings.md)."""
MOST_LIKELY = 12
"""Likely places that are few enough to be divided."""


def kernel_settings(
    inputs: Array,
    targets: Array,
    capped: NDArray[np.bool_],
    lengths: NDArray[np.int_],
    rng: np.random.Generator,
    count: int,
    prior: KernelPrior = SCORE,
    trials: NDArray[np.int_] | None = None,
    groups: int = 0,
) -> tuple[KernelSetting, ...]:
    """Kernel settings drawn from their posterior; with `count` 1, the mode without a kink.

    A component of the score is smooth: rows of several per trial have no kink.

    Args:
        inputs: of the observations [n, k], embedded.
        targets: observations [n], standardised.
        capped: [n], whether an observation lies at the winsorising limit.
        lengths: index [k] of the length scale of each column of `inputs`.
        rng: of the draws.
        count: settings.
        prior: what is believed of them.
        trials: code [n] of each observation's trial, where trials have several rows.
        groups: last columns of the inputs, which say the group; 0 where there is one.
    """

    def posterior(some: NDArray[np.int_] | slice, kink: Kink | None = None) -> KernelPosterior:
        of = None if trials is None else trials[some]
        own = inputs[some], targets[some], capped[some]
        return KernelPosterior(*own, lengths, prior, of, kink, groups)

    smooth = posterior(slice(None))
    few = rng.permutation(len(inputs))[:FEW]
    rough = [posterior(few).mode()] if len(inputs) > FEW else None
    mode = smooth.mode(rough)
    if count == 1:
        return (smooth.solved(mode),)
    plain, log_proposal = smooth.proposals(mode, rng)
    log_weights = np.array([smooth.log_density(theta) for theta in plain]) - log_proposal
    if trials is not None or not _kinks(inputs, groups):
        return tuple(smooth.solved(plain[i]) for i in _resampled(log_weights, rng, count))
    bent, bent_weights, kinks, odds = _bent(smooth, mode, inputs, posterior, rng)
    joint = np.concatenate([log_weights + math.log1p(-KINK), bent_weights + math.log(KINK)])
    settings = []
    for i in _resampled(joint, rng, count):
        if i < len(plain):
            settings.append(smooth.solved(plain[i]))
            continue
        own = odds[i - len(plain)]
        kink = kinks[rng.choice(len(kinks), p=np.exp(own - logsumexp(own)))]
        settings.append(posterior(slice(None), kink).solved(bent[i - len(plain)]))
    return tuple(settings)


def _resampled(log_weights: Array, rng: np.random.Generator, count: int) -> list[int]:
    """Indices drawn with these weights, evenly."""
    cumulative = np.cumsum(np.exp(log_weights - logsumexp(log_weights)))
    ticks = (np.arange(count) + rng.uniform()) / count
    return [int(i) for i in np.minimum(np.searchsorted(cumulative, ticks), len(cumulative) - 1)]


def _bent(
    smooth: KernelPosterior,
    mode: Array,
    inputs: Array,
    with_kink: Callable[[slice, Kink], KernelPosterior],
    rng: np.random.Generator,
) -> tuple[Array, Array, list[Kink], Array]:
    """Settings with a kink: proposals, their log weights, kinks, and the log odds of these.

    The odds are [proposals, kinks].
    """
    kinks = _kinks(inputs, smooth.groups)
    masses = np.full(len(kinks), -math.log(len(kinks)))
    slopes = np.log([1.0, 4.0, 16.0, 64.0])
    first = [_log_odds(smooth, np.append(mode, slope), kinks, inputs) for slope in slopes]
    start, place = np.unravel_index(np.argmax(first), (len(slopes), len(kinks)))
    top = with_kink(slice(None), kinks[place]).mode([np.append(mode, slopes[start])])
    kinks, masses = _finer(kinks, masses, _log_odds(smooth, top, kinks, inputs), inputs)
    best = kinks[int(np.argmax(_log_odds(smooth, top, kinks, inputs)))]
    posterior = with_kink(slice(None), best)
    proposals, log_proposal = posterior.proposals(posterior.mode([top]), rng)
    found = [_evidence(smooth, theta, kinks, inputs) for theta in proposals]
    base, odds = np.array([own for own, _ in found]), np.array([odds for _, odds in found])
    odds += masses
    slope_prior = -0.5 * ((proposals[:, -1] - SLOPE.normal[0]) / SLOPE.sd) ** 2
    return proposals, base + slope_prior + logsumexp(odds, axis=1) - log_proposal, kinks, odds


def _kinks(inputs: Array, groups: int) -> list[Kink]:
    """Kinks at even places of each column but those of the group.

    None where the observations lie at one point.
    """
    places = (np.arange(PLACES) + 0.5) / PLACES
    return [
        kink_of(inputs, column, float(place))
        for column in range(inputs.shape[1] - groups)
        for place in places
        if np.ptp(np.abs(inputs[:, column] - place)) > 0
    ]


def _finer(
    kinks: list[Kink], masses: Array, odds: Array, inputs: Array
) -> tuple[list[Kink], Array]:
    """The likely kinks, divided where they are few, with their log prior masses."""
    likely = np.flatnonzero(odds >= odds.max() - LIKELY)
    if len(likely) > MOST_LIKELY:
        return [kinks[i] for i in likely], masses[likely]
    shifts = ((np.arange(FINER) + 0.5) / FINER - 0.5) / PLACES
    finer = [
        kink_of(inputs, kinks[i].column, kinks[i].place + float(shift))
        for i in likely
        for shift in shifts
    ]
    return finer, np.repeat(masses[likely] - math.log(FINER), FINER)


def _log_odds(smooth: KernelPosterior, theta: Array, kinks: list[Kink], inputs: Array) -> Array:
    """Log evidence [kinks] of each kink with the slope `theta[-1]` against none."""
    return _evidence(smooth, theta, kinks, inputs)[1]


def _evidence(
    smooth: KernelPosterior, theta: Array, kinks: list[Kink], inputs: Array
) -> tuple[float, Array]:
    """Log density of the settings `theta[:-1]` without a kink, and `_log_odds`."""
    cholesky = lapack.dpotrf(smooth.covariance(theta[:-1])[0], lower=1)[0]
    right = np.column_stack([smooth.targets, *(kink.at(inputs) for kink in kinks)])
    half = lapack.dtrtrs(cholesky, right, lower=1)[0]
    density = -0.5 * float(half[:, 0] @ half[:, 0]) - float(np.log(np.diag(cholesky)).sum())
    slope = math.exp(theta[-1])
    own = 1 + slope * (half[:, 1:] ** 2).sum(0)
    odds = -0.5 * np.log(own) + 0.5 * slope * (half[:, 0] @ half[:, 1:]) ** 2 / own
    return density + smooth.log_prior(theta[:-1]), np.asarray(odds)

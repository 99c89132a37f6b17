"""Draws of whole functions from a Gaussian process.

A minimum and a profile can be taken from the same draw, and thousands of points cost one matrix
product (Wilson et al. 2020, "Efficiently sampling functions from Gaussian process posteriors").
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve

from ray_unlearn.surfaces.kernel_posterior import Array, KernelSetting, blocks_of

FREQUENCIES = 128


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

    levels = rng.standard_normal((setting.groups, count)) * math.sqrt(2 * setting.level)

    def prior(x: Array) -> Array:
        angles = (x @ phases.T).astype(np.float32)
        smooth = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) @ narrow
        found = np.asarray(smooth, dtype=float)
        if setting.kink is not None:
            found += np.outer(setting.kink.at(x), slopes)
        if setting.groups:
            found += x[:, -setting.groups :] @ levels
        return found

    missed = cho_solve((setting.cholesky, True), targets[:, None] - prior(inputs) - noise)
    solved = stretch * missed + (1 - stretch) * setting.weights[:, None]

    def drawn(at: Array) -> Array:
        values = np.empty((len(at), count))
        for block in blocks_of(len(at)):
            values[block] = stretch * prior(at[block])
            values[block] += setting.covariances(at[block], inputs) @ solved
        return values

    return drawn

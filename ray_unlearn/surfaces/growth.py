"""How a change grows with effort: a power law, from which the surfaces tell what differs.

Transformed by asinh(y / 0.05 nats) a change is flat while it is small and straight once it is
large. A Gaussian process rounds that bend off, the more the noisier the trials are, and every edge
of a good region moves with it. What is left after the power law has no bend.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Array = NDArray[np.float64]

NOISE = 0.3
"""Transformed; SD of an observation about the power law, against which what is believed of its
parameters is weighed."""
EXPONENT_SD = 0.3
OTHERS_SD = 1.5
"""Of the logarithm of a change from one bound of another hyperparameter to the other."""
LEAST, MOST = -12.0, 12.0
"""Logarithms of changes, in units of the transform: smaller ones are 0, larger ones all alike."""


@dataclass(frozen=True)
class Growth:
    """asinh of exp(at_least + exponent x effort + others . x), at inputs with effort among them.

    effort: its column among the inputs.
    at_least: logarithm of the change at the least effort, in units of the transform.
    exponent: rise of that logarithm over the range of effort.
    others: its rise [k - 1] over the range of each other input.
    """

    effort: int
    at_least: float
    exponent: float
    others: Array

    def at(self, inputs: Array) -> Array:
        """Transformed changes [...] at inputs [..., k]."""
        parameters = np.array([self.at_least, self.exponent, *self.others])
        return _grown(parameters, inputs, self.effort)


def fit_growth(inputs: Array, changes: Array, effort: int, decades: float) -> Growth:
    """The power law of transformed changes [r] at inputs [r, k].

    Args:
        inputs: effort is 0 and 1 where the space ends.
        changes: transformed; one that is below 0 is no power law and counts as it is.
        effort: its column among the inputs.
        decades: range of effort, log10: believed is a change in proportion to it.
    """
    usual = np.log(10) * decades
    start = np.concatenate([[-usual / 2, usual], np.zeros(inputs.shape[1] - 1)])
    sd = np.concatenate([[usual, EXPONENT_SD * usual], np.full(len(start) - 2, OTHERS_SD)])

    def misses(parameters: Array) -> Array:
        about = (parameters - start) / sd
        return np.concatenate([(_grown(parameters, inputs, effort) - changes) / NOISE, about])

    found = least_squares(misses, start, loss="soft_l1").x
    return Growth(effort, float(found[0]), float(found[1]), found[2:])


def _grown(parameters: Array, inputs: Array, effort: int) -> Array:
    others = np.delete(inputs, effort, axis=-1)
    logs = parameters[0] + parameters[1] * inputs[..., effort] + others @ parameters[2:]
    return np.asarray(np.arcsinh(np.exp(np.clip(logs, LEAST, MOST))))

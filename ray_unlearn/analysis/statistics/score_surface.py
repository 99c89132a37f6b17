"""What every surface of the score can tell, whatever it was fitted to."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class ScoreSurface(Protocol):
    """A score as a function of the hyperparameters, with how uncertain that function is."""

    @property
    def categorical(self) -> tuple[int, ...]:
        """Choices of each axis that holds codes, 0 for a numeric axis."""

    @property
    def n_used(self) -> int:
        """Trials that the fit rests on."""

    def mean(self, points: Array) -> Array:
        """Expected score [m] at points [m, d], without the luck of a seed."""

    def rough_mean(self, points: Array) -> Array:
        """The same, faster and rougher: good enough for choosing points."""

    def draws(self, points: Array, seed: int, count: int) -> Array:
        """Joint posterior draws [count, m] of the expected score at points [m, d]."""

    def predicted(self, points: Array, seed: int, count: int) -> Array:
        """Draws [count, m] of the score that a new trial at each point would be given."""


@dataclass(frozen=True)
class ReorderedSurface:
    """A surface whose points have their coordinates in another order.

    surface: the surface itself.
    order: for each of its coordinates, the place of that coordinate in a point given here.
    """

    surface: ScoreSurface
    order: tuple[int, ...]

    @property
    def categorical(self) -> tuple[int, ...]:
        """Choices of each axis that holds codes, 0 for a numeric axis."""
        own = dict(zip(self.order, self.surface.categorical, strict=True))
        return tuple(own[j] for j in range(len(own)))

    @property
    def n_used(self) -> int:
        """Trials that the fit rests on."""
        return self.surface.n_used

    def mean(self, points: Array) -> Array:
        """Expected score [m] at points [m, d], without the luck of a seed."""
        return self.surface.mean(points[:, self.order])

    def rough_mean(self, points: Array) -> Array:
        """The same, faster and rougher: good enough for choosing points."""
        return self.surface.rough_mean(points[:, self.order])

    def draws(self, points: Array, seed: int, count: int) -> Array:
        """Joint posterior draws [count, m] of the expected score at points [m, d]."""
        return self.surface.draws(points[:, self.order], seed, count)

    def predicted(self, points: Array, seed: int, count: int) -> Array:
        """Draws [count, m] of the score that a new trial at each point would be given."""
        return self.surface.predicted(points[:, self.order], seed, count)

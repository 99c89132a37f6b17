"""Hyperparameters as axes of what was searched."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ray_unlearn.spec.narrowed_range import RATE_BY_STEPS

Scale = Literal["linear", "log", "categorical"]


@dataclass(frozen=True)
class KnownRange:
    """What another program says that a hyperparameter was searched over."""

    low: float
    high: float
    log: bool
    whole: bool


@dataclass(frozen=True)
class Axis:
    """One hyperparameter: its scale, its range, and whether the range is known or only seen.

    Numeric axes map to [0, 1] evenly on their scale, categorical ones to 0 ... n-1.
    """

    name: str
    scale: Scale
    low: float = 0.0
    high: float = 1.0
    bounds_known: bool = True
    """True: the bounds of the search space; False: the least and greatest value seen (a foreign
    table)."""
    whole: bool = False
    choices: tuple[str, ...] = ()
    factors: tuple[str, ...] = ()
    """The two hyperparameters that this axis is the product of; () for one that was searched."""

    def to_unit(self, values: ArrayLike) -> NDArray[np.float64]:
        """Values [n] as coordinates [n]: 0 at `low`, 1 at `high`; values outside stay outside."""
        if self.scale == "categorical":
            index = {choice: float(i) for i, choice in enumerate(self.choices)}
            return np.array(
                [index[str(value)] for value in np.asarray(values, dtype=object)], dtype=float
            )
        numbers = np.asarray(values, dtype=float)
        if self.high == self.low:
            return np.full(numbers.shape, 0.5)
        if self.scale == "log":
            span = math.log(self.high / self.low)
            return np.asarray(np.log(numbers / self.low) / span)
        return np.asarray((numbers - self.low) / (self.high - self.low))

    def from_unit(self, coordinates: ArrayLike) -> NDArray[np.float64]:
        """The inverse of `to_unit` for numeric axes."""
        assert self.scale != "categorical"
        unit = np.asarray(coordinates, dtype=float)
        if self.scale == "log":
            return np.asarray(self.low * (self.high / self.low) ** unit)
        return np.asarray(self.low + unit * (self.high - self.low))

    def shown(self, value: Any) -> str:
        """A value for people: three significant digits."""
        return str(value) if self.scale == "categorical" else f"{float(value):.3g}"


def product_axis(axes: Sequence[Axis]) -> Axis | None:
    """Learning rate times updates as an axis; None unless both vary.

    Methods often answer to the product alone (a ridge). On either factor the good values are then
    wide and bent; on the product they are a plain interval.
    """
    by_name = {axis.name: axis for axis in axes}
    rate, steps = by_name.get("learning_rate"), by_name.get("steps")
    if rate is None or steps is None or "categorical" in (rate.scale, steps.scale):
        return None
    if min(rate.low, steps.low) <= 0:
        return None
    return Axis(
        RATE_BY_STEPS,
        "log",
        rate.low * steps.low,
        rate.high * steps.high,
        rate.bounds_known and steps.bounds_known,
        factors=(rate.name, steps.name),
    )

"""Points of a search space, drawn without memory: quasi-random, random, and all of a finite space.

A point is `{hyperparameter: value}` for the sampled parameters. Every draw is a pure function of
its arguments: a study that is resumed, or rebuilt from its ledger, draws the same points again.

Conditional parameters (`when`) are drawn in the full cube, one coordinate each, and dropped where
their condition does not hold. So the points are as even in the unconditional parameters as they
would be without conditions.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ray_unlearn.spec.listed_points import sampled_parameters
from ray_unlearn.spec.search_space import Choice, FloatRange, IntRange, SearchSpace

Point = dict[str, Any]
Sampled = FloatRange | IntRange | Choice

MOST_POINTS = 10_000
"""Largest finite space that is listed; no study exhausts a larger one."""


def applies(parameter: Sampled, chosen: Mapping[str, Any]) -> bool:
    """Whether the condition of `parameter` holds among the values chosen so far."""
    return all(name in chosen and chosen[name] == value for name, value in parameter.when.items())


def active(space: SearchSpace, values: Mapping[str, Any]) -> Point:
    """Values of the sampled parameters whose conditions hold, with choices as in the spec."""
    point: Point = {}
    for name, parameter in sampled_parameters(space).items():
        if applies(parameter, point):
            value = values[name]
            known = parameter.choices if isinstance(parameter, Choice) else ()
            point[name] = next((choice for choice in known if choice == value), value)
    return point


def contains(space: SearchSpace, point: Point) -> bool:
    """Whether all values are inside their ranges and choices.

    If not, the point is from another version of the space.
    """
    return all(
        _inside(parameter, point[name])
        for name, parameter in space.sampled().items()
        if name in point
    )


def _inside(parameter: Sampled, value: Any) -> bool:
    if isinstance(parameter, Choice):
        return value in parameter.choices
    return bool(parameter.low <= value <= parameter.high)


def quasi_random_point(space: SearchSpace, seed: int, index: int) -> Point:
    """Point `index` of a scrambled Sobol sequence (Owen 1998) over the space, without state.

    Optuna's `QMCSampler` has its counter in the study and takes its dimensions from the first
    trial, so it can neither return point `index` nor handle conditions.
    """
    from scipy.stats import qmc  # scipy.stats takes seconds to import

    parameters = sampled_parameters(space)
    if not parameters:
        return {}
    engine = qmc.Sobol(len(parameters), scramble=True, rng=np.random.default_rng(seed))
    if index:
        engine.fast_forward(index)
    return _from_unit_cube(space, engine.random(1)[0].tolist())


def random_point(space: SearchSpace, seed: int) -> Point:
    """A point drawn uniformly on each parameter's scale."""
    return _from_unit_cube(space, np.random.default_rng(seed).random(len(space.sampled())).tolist())


def all_points(space: SearchSpace, grid: bool = False) -> list[Point] | None:
    """Every point of the space or, with `grid`, of its grid; None if there are too many to list."""
    parameters = sampled_parameters(space)
    values = {name: _values(parameter, grid) for name, parameter in parameters.items()}
    if (
        math.prod(len(v) if v is not None else MOST_POINTS + 1 for v in values.values())
        > MOST_POINTS
    ):
        return None
    corners = itertools.product(*(v for v in values.values() if v is not None))
    points = [active(space, dict(zip(parameters, corner, strict=True))) for corner in corners]
    return list({tuple(point.items()): point for point in points}.values())


def _values(parameter: Sampled, grid: bool) -> Sequence[Any] | None:
    """All values of a parameter; None if it is continuous."""
    match parameter:
        case Choice():
            return parameter.choices
        case FloatRange() | IntRange() if grid:
            return parameter.grid
        case IntRange():
            return range(parameter.low, parameter.high + 1)
        case FloatRange():
            return None


def _from_unit_cube(space: SearchSpace, coordinates: Sequence[float]) -> Point:
    parameters = sampled_parameters(space)
    drawn = {n: _value(p, u) for (n, p), u in zip(parameters.items(), coordinates, strict=True)}
    return active(space, drawn)


def _value(parameter: Sampled, u: float) -> Any:
    """The value at fraction `u` in [0, 1) of the parameter's scale.

    Whole numbers and choices have equal fractions.
    """
    match parameter:
        case Choice():
            return parameter.choices[int(u * len(parameter.choices))]
        case FloatRange():
            return _on_scale(parameter.low, parameter.high, parameter.scale, u)
        case IntRange():
            value = round(_on_scale(parameter.low - 0.5, parameter.high + 0.5, parameter.scale, u))
            return min(max(value, parameter.low), parameter.high)


def _on_scale(low: float, high: float, scale: str, u: float) -> float:
    value = low * (high / low) ** u if scale == "log" else low + (high - low) * u
    return min(max(value, low), high)

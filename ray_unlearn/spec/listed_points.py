"""Checks of points that a person or a program lists.

A point is `{hyperparameter: value}` for the sampled parameters whose conditions hold.
"""

import math
from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter

from ray_unlearn.spec.errors import nearest
from ray_unlearn.spec.method_registry import check_uses, method_named
from ray_unlearn.spec.search_space import Choice, FloatRange, IntRange, Scalar, SearchSpace

Listed = Mapping[str, Scalar]


def sampled_parameters(space: SearchSpace) -> dict[str, FloatRange | IntRange | Choice]:
    """The sampled parameters, each after the ones that its `when` names."""
    sampled = space.sampled()
    order = TopologicalSorter(
        {name: sorted(parameter.when) for name, parameter in sampled.items()}
    ).static_order()
    return {name: sampled[name] for name in order if name in sampled}


def middle_of(parameter: FloatRange | IntRange | Choice) -> Scalar:
    """The middle of a range on its scale, or of a list of choices."""
    if isinstance(parameter, Choice):
        return parameter.choices[len(parameter.choices) // 2]
    low, high = parameter.low, parameter.high
    middle = math.sqrt(low * high) if parameter.scale == "log" else (low + high) / 2
    return round(middle) if isinstance(parameter, IntRange) else min(max(middle, low), high)


def check_points(space: SearchSpace, points: Iterable[Listed], where: str) -> None:
    """Refuse a point that is not a configuration of `space`, or that is given twice.

    Args:
        space: the search space of the points' method.
        points: each gives every sampled parameter whose conditions hold.
        where: the place of the list in the study file, for messages.

    Raises:
        ValueError: the message names the point, the value and the remedy.
    """
    seen: list[Listed] = []
    for number, point in enumerate(points):
        place = f"{where}[{number}]"
        _check_point(space, point, place)
        if point in seen:
            raise ValueError(f"{place}: the same point as {where}[{seen.index(point)}]; keep one")
        seen.append(point)


def _check_point(space: SearchSpace, point: Listed, place: str) -> None:
    sampled = sampled_parameters(space)
    check_uses(method_named(space.method), point, place)
    for name in point:
        if name not in sampled:
            raise ValueError(
                f"{place}: {name!r} is not sampled for {space.method}{nearest(name, sampled)}"
            )
    for name, parameter in sampled.items():
        wanted = all(
            other in point and point[other] == value for other, value in parameter.when.items()
        )
        if not wanted and name in point:
            raise ValueError(
                f"{place}: `{name}` does not apply here (its `when` does not hold); remove it"
            )
        if wanted and name not in point:
            raise ValueError(f"{place}: `{name}` is missing; a point gives every sampled parameter")
        if wanted:
            _check_value(parameter, point[name], f"{place}: `{name}`")


def _check_value(parameter: FloatRange | IntRange | Choice, value: Scalar, place: str) -> None:
    if isinstance(parameter, Choice):
        if value not in parameter.choices:
            raise ValueError(f"{place}: must be one of {list(parameter.choices)}, got {value!r}")
        return
    if isinstance(value, (bool, str)) or not parameter.low <= value <= parameter.high:
        raise ValueError(
            f"{place}: must lie in [{parameter.low:g}, {parameter.high:g}], got {value!r}"
        )
    if isinstance(parameter, IntRange) and not isinstance(value, int):
        raise ValueError(f"{place}: must be a whole number, got {value!r}")

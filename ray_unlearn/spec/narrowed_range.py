"""One claimed region applied to one parameter of the next study.

The region replaces the range. Where the region reaches the end of what was searched (a censored
side), the optimum may be beyond: the range is extended there by half the region's width on the
parameter's scale, on a log scale at least by a factor `LEAST_FACTOR`, but never past what the
hyperparameter can be, nor past a bound of the study that is tighter than the earlier one.
"""

import math

from pydantic.fields import FieldInfo

from ray_unlearn.spec.guideline_file import Guideline
from ray_unlearn.spec.method_registry import method_named
from ray_unlearn.spec.search_space import Choice, Fixed, FloatRange, IntRange

LEAST_FACTOR = 3.0
"""Least factor by which a censored side of a log range is extended.

Half the width of a narrow region would hardly move the edge.
"""

POINT_FRACTION = 0.1
"""Fraction of the study's own range on either side of a claimed single value."""

RATE_BY_STEPS = "learning_rate_x_steps"
"""Name of learning rate times updates, an axis of the analysis."""

Range = FloatRange | IntRange


class ClaimNotApplied(Exception):
    """A claim leaves a parameter's range unchanged; the message says why."""


def narrowed_parameter(
    method: str,
    name: str,
    parameter: FloatRange | IntRange | Choice | Fixed | None,
    claim: Guideline,
    grace: int,
) -> tuple[FloatRange | IntRange | Choice, str]:
    """The parameter narrowed to the claim, and what changed in words.

    Args:
        method: whose hyperparameter it is.
        name: the hyperparameter.
        parameter: its range, choices or value in the study; None: the study does not search it.
        claim: a claim about it.
        grace: updates before which no trial is stopped; a range of `steps` reaches beyond it.

    Raises:
        ClaimNotApplied: the claim cannot be applied here.
    """
    region = claim.search_space
    if parameter is None and name == RATE_BY_STEPS:
        raise ClaimNotApplied("a product of two hyperparameters, which a space cannot bound")
    if parameter is None:
        raise ClaimNotApplied("the study does not search it")
    if isinstance(parameter, Fixed):
        raise ClaimNotApplied(f"the study fixes it at {parameter.value}")
    if region is None:
        raise ClaimNotApplied("the claim names no region")
    if isinstance(parameter, Choice):
        if region.type != "choice" or not region.choices:
            raise ClaimNotApplied("a range was claimed, the study has choices")
        choices = tuple(choice for choice in parameter.choices if choice in region.choices)
        if not choices:
            raise ClaimNotApplied(
                f"none of the claimed choices {list(region.choices)} is among the study's"
            )
        return parameter.model_copy(
            update={"choices": choices}
        ), f"{list(parameter.choices)} -> {list(choices)}"
    if region.type == "choice":
        raise ClaimNotApplied("choices were claimed, the study has a range")
    field = method_named(method).values.model_fields[name]
    low, high, said = _bounds(field, parameter, claim)
    if isinstance(parameter, IntRange):
        low, high = math.floor(low + 1e-9), math.ceil(high - 1e-9)
        if parameter.free:
            # Each row from `low` on is a configuration at no cost, so only a lower top saves
            # updates.
            low, high = parameter.low, max(high, parameter.low + 1)
            said.append("free steps keep their low end, rows cost nothing")
        if name == "steps":
            high = max(high, grace + 1)
    if (low, high) == (parameter.low, parameter.high):
        raise ClaimNotApplied(f"what was claimed is the study's own {_shown(low, high)}")
    grid = tuple(value for value in parameter.grid if low <= value <= high)
    new = type(parameter).model_validate(
        parameter.model_dump() | {"low": low, "high": high, "grid": grid}
    )
    return new, "; ".join(
        [f"{_shown(parameter.low, parameter.high)} -> {_shown(low, high)}", *said]
    )


def _bounds(field: FieldInfo, parameter: Range, claim: Guideline) -> tuple[float, float, list[str]]:
    """Low and high end, and remarks."""
    region = claim.search_space
    assert region is not None
    low = parameter.low if region.low is None else region.low
    high = parameter.high if region.high is None else region.high
    if parameter.scale == "log" and low <= 0:
        raise ClaimNotApplied(f"the claimed {_shown(low, high)} does not fit its log scale")
    if low > parameter.high or high < parameter.low:
        raise ClaimNotApplied(
            f"the claimed {_shown(low, high)} lies outside the study's own "
            f"{_shown(parameter.low, parameter.high)}"
        )
    said: list[str] = []
    new_low, new_high = max(low, parameter.low), min(high, parameter.high)
    if claim.low_is_boundary and low >= parameter.low:
        new_low = _within(field, _beyond(low, high, parameter, up=False), low)
        said.append(_widened("low", low, new_low))
    if claim.high_is_boundary and high <= parameter.high:
        new_high = _within(field, _beyond(low, high, parameter, up=True), high)
        said.append(_widened("high", high, new_high))
    if new_low >= new_high:
        new_low, new_high = _around(new_low, parameter)
        said.append("a single value: the range around it")
    return new_low, new_high, said


def _widened(side: str, end: float, now: float) -> str:
    if now == end:
        return f"{side} end is {end:.3g} already, the last possible value"
    return f"{side} end widened: the earlier search ended at {end:.3g}, where it was still good"


def _beyond(low: float, high: float, parameter: Range, up: bool) -> float:
    """The extended end of a censored side: half the region's width further on its scale."""
    if parameter.scale == "log":
        factor = max(LEAST_FACTOR, math.sqrt(high / low))
        return high * factor if up else low / factor
    half = (high - low or parameter.high - parameter.low) / 2
    return high + half if up else low - half


def _within(field: FieldInfo, wanted: float, end: float) -> float:
    """`wanted` within the hyperparameter's bounds; halfway to a bound that is exclusive."""
    for limit in field.metadata:
        for kind in ("ge", "le"):
            bound = getattr(limit, kind, None)
            if bound is not None:
                wanted = max(wanted, bound) if kind == "ge" else min(wanted, bound)
        for kind in ("gt", "lt"):
            bound = getattr(limit, kind, None)
            if bound is not None and (wanted <= bound if kind == "gt" else wanted >= bound):
                wanted = (end + bound) / 2
    return wanted


def _around(value: float, parameter: Range) -> tuple[float, float]:
    if parameter.scale == "log":
        factor = (parameter.high / parameter.low) ** POINT_FRACTION
        low, high = value / factor, value * factor
    else:
        reach = POINT_FRACTION * (parameter.high - parameter.low)
        low, high = value - reach, value + reach
    return max(low, parameter.low), min(high, parameter.high)


def _shown(low: float, high: float) -> str:
    return f"{low:.3g} to {high:.3g}"

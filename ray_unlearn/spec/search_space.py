"""SearchSpace: type, range, scale, condition and role of each hyperparameter of one method."""

import math
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ray_unlearn.spec.bounds import MOST_UPDATES
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.hyperparameters import ANY, Hyperparameters
from ray_unlearn.spec.method_definition import Method
from ray_unlearn.spec.method_registry import (
    WITHOUT_DEFAULT,
    check_uses,
    method_named,
    value_type,
)
from ray_unlearn.spec.strict import Strict, validated

ParameterRole = Literal["scientific", "nuisance", "fixed"]
Scalar = bool | int | float | str


def _no_truth(value: Any) -> Any:
    """Refuse `yes` and `no`, which YAML reads as true and false, and pydantic as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


Real = Annotated[float, BeforeValidator(_no_truth)]
Whole = Annotated[int, BeforeValidator(_no_truth)]


class _Parameter(Strict):
    role: ParameterRole = Field("nuisance", description="as in the Deep Learning Tuning Playbook")
    when: dict[str, Scalar] = Field(
        default_factory=dict,
        description="sampled only where these categorical parameters have these values",
    )


class FloatRange(_Parameter):
    """A real number in [low, high]."""

    type: Literal["float"]
    low: Real
    high: Real
    scale: Literal["linear", "log"] = "linear"
    grid: tuple[float, ...] = Field((), description="values for the grid sampler")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_range(self.low, self.high, self.scale)
        _check_grid(self.grid, self.low, self.high)
        return self


class IntRange(_Parameter):
    """A whole number in [low, high].

    With `free: true` (for `steps` on a constant learning rate) it is not sampled: a trial runs to
    `high`, and each evaluation row from `low` on is the trial with that many steps.
    """

    type: Literal["int"]
    low: Whole = Field(ge=-MOST_UPDATES, le=MOST_UPDATES)
    high: Whole = Field(ge=-MOST_UPDATES, le=MOST_UPDATES)
    scale: Literal["linear", "log"] = "linear"
    free: bool = False
    grid: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_range(self.low, self.high, self.scale)
        _check_grid(self.grid, self.low, self.high)
        return self


class Choice(_Parameter):
    """One of a few values."""

    type: Literal["choice"]
    choices: tuple[Scalar, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.choices)) != len(self.choices):
            raise ValueError(f"choices must differ, got {list(self.choices)}")
        return self


class Fixed(_Parameter):
    """A constant of the study."""

    type: Literal["fixed"]
    value: Scalar
    role: ParameterRole = "fixed"


Parameter = Annotated[FloatRange | IntRange | Choice | Fixed, Field(discriminator="type")]


def _check_range(low: float, high: float, scale: str) -> None:
    if not low < high:
        raise ValueError(f"needs low < high, got low={low:g}, high={high:g}")
    if scale == "log" and low <= 0:
        raise ValueError(f"a log scale needs low > 0, got low={low:g}")
    width = high / low if scale == "log" else high - low
    if not math.isfinite(width):
        raise ValueError(f"the range is too wide to draw from, got low={low:g}, high={high:g}")


def _check_grid(grid: tuple[float, ...], low: float, high: float) -> None:
    outside = [value for value in grid if not low <= value <= high]
    if outside:
        raise ValueError(f"grid values must lie in [{low:g}, {high:g}], got {outside}")


class SearchSpace(Strict):
    """The hyperparameters of one method; any that are not named have their defaults."""

    method: str
    parameters: dict[str, Parameter]

    @field_validator("parameters")
    @classmethod
    def _of_its_type(
        cls, parameters: dict[str, Parameter], info: ValidationInfo
    ) -> dict[str, Parameter]:
        """Choices and fixed values as trials hold them: YAML reads `1e-3` as text."""
        try:
            method = method_named(str(info.data.get("method")))
        except UserError:  # which is said next
            return parameters
        return {name: _typed(method, name, parameter) for name, parameter in parameters.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        try:
            method_named(self.method)
        except UserError as error:
            raise ValueError(str(error)) from None
        for name, parameter in self.parameters.items():
            self._check_parameter(name, parameter)
        if "learning_rate" not in self.parameters:
            raise ValueError(
                "`learning_rate` is missing: it has no default; add it under `parameters`"
            )
        if "steps" not in self.parameters:
            raise ValueError("`steps` is missing: it has no default; add it under `parameters`")
        if self.free_steps:
            self._check_free_steps()
        self._check_conditions()
        self._check_combinations()
        return self

    def _check_parameter(
        self, name: str, parameter: FloatRange | IntRange | Choice | Fixed
    ) -> None:
        method = method_named(self.method)
        check_uses(method, [name])
        if isinstance(parameter, IntRange) and parameter.free and name != "steps":
            raise ValueError(f"`{name}`: only `steps` can be free")
        if isinstance(parameter, FloatRange) and value_type(name) is int:
            raise ValueError(f"`{name}`: takes whole numbers only; use `type: int`")
        for other, value in parameter.when.items():
            condition = self.parameters.get(other)
            if not isinstance(condition, Choice) or value not in condition.choices:
                raise ValueError(
                    f"`{name}`: `when: {{{other}: {value}}}` must name a choice parameter and one "
                    "of its values"
                )
        for value in _edge_values(parameter):
            try:
                _with(method, name, value)
            except ValidationError as error:
                raise ValueError(f"`{name}`: {error.errors()[0]['msg']}, got {value!r}") from None

    def _check_free_steps(self) -> None:
        schedule = self.parameters.get("schedule")
        values = (
            _edge_values(schedule)
            if schedule is not None
            else [Hyperparameters.model_fields["schedule"].default]
        )
        if set(values) != {"constant"}:
            raise ValueError(
                "`steps`: free steps need a constant schedule (a row of a decaying schedule is not "
                "the shorter trial); fix `schedule: constant` or sample steps with `free: false`"
            )

    def _check_conditions(self) -> None:
        try:
            tuple(
                TopologicalSorter(
                    {name: parameter.when for name, parameter in self.parameters.items()}
                ).static_order()
            )
        except CycleError as error:
            raise ValueError(f"`when` runs in a circle: {' -> '.join(error.args[1])}") from None
        for name in WITHOUT_DEFAULT:
            if self.parameters[name].when:
                raise ValueError(
                    f"`{name}`: has no default, so a trial to which `when` does not apply would "
                    "have no value; remove `when`"
                )

    def _check_combinations(self) -> None:
        """Refuse a space that could sample values that exclude each other."""
        defaults = {name: field.default for name, field in Hyperparameters.model_fields.items()}
        for switch, names in EXCLUSIVE.items():
            switching = self.parameters.get(switch)
            values = [defaults[switch]] if switching is None else _edge_values(switching)
            for value in values:
                chosen = {"learning_rate": 1e-3, "steps": 10**9, switch: value}
                for name in names:
                    parameter = self.parameters.get(name)
                    if parameter is not None and parameter.when.get(switch, value) == value:
                        chosen[name] = _unusual(parameter, defaults[name])
                try:
                    Hyperparameters.model_validate(chosen)
                except ValidationError as error:
                    message = error.errors()[0]["msg"].removeprefix("Value error, ")
                    raise ValueError(
                        f"with `{switch}: {value}` the space can draw what is no trial: {message} "
                        f"(or make it conditional: `when: {{{switch}: ...}}`)"
                    ) from None

    @property
    def free_steps(self) -> bool:
        """True when each evaluation row stands for the trial with that many steps."""
        steps = self.parameters.get("steps")
        return isinstance(steps, IntRange) and steps.free

    @property
    def fewest_steps(self) -> int:
        """With free steps, the first update whose row is a candidate; otherwise 1."""
        steps = self.parameters["steps"]
        return steps.low if isinstance(steps, IntRange) and steps.free else 1

    def first_candidate(self, steps: int) -> int:
        """The first update whose row stands for a configuration, in a trial of `steps` updates."""
        return self.fewest_steps if self.free_steps else steps

    def sampled(self) -> dict[str, FloatRange | IntRange | Choice]:
        """The parameters a sampler chooses, in file order."""
        return {
            name: parameter
            for name, parameter in self.parameters.items()
            if not isinstance(parameter, Fixed)
            and not (isinstance(parameter, IntRange) and parameter.free)
        }

    def resolve(self, chosen: dict[str, Any]) -> Hyperparameters:
        """Sampled values, fixed values and defaults together."""
        values: dict[str, Any] = dict(chosen)
        for name, parameter in self.parameters.items():
            if isinstance(parameter, Fixed) and all(
                values.get(k) == v for k, v in parameter.when.items()
            ):
                values[name] = parameter.value
            elif isinstance(parameter, IntRange) and parameter.free:
                values[name] = parameter.high
        model = method_named(self.method).values
        return validated(model, values, f"search space of {self.method}")


def _typed(method: Method, name: str, parameter: Parameter) -> Parameter:
    """Choices and fixed values in the hyperparameter's own type.

    Raises:
        ValueError: true or false where a number is wanted, or two choices that are the same value.
    """
    if name not in method.hyperparameters or not isinstance(parameter, Choice | Fixed):
        return parameter
    if any(isinstance(value, bool) for value in _edge_values(parameter)):
        raise ValueError(f"`{name}`: true and false are no values of it")
    values = tuple(_as_trials_hold_it(method, name, value) for value in _edge_values(parameter))
    if isinstance(parameter, Fixed):
        return parameter.model_copy(update={"value": values[0]})
    if len(set(values)) != len(values):
        raise ValueError(f"`{name}`: choices must differ, got {list(parameter.choices)}")
    return parameter.model_copy(update={"choices": values})


def _as_trials_hold_it(method: Method, name: str, value: Scalar) -> Any:
    """What is no value of the hyperparameter is left as it is: it is refused later, by name."""
    try:
        return getattr(_with(method, name, value), name)
    except ValidationError:
        return value


def _with(method: Method, name: str, value: Scalar) -> Hyperparameters:
    """A configuration with this value, which is valid if the value is."""
    return method.values.model_validate(ANY | {name: value})


EXCLUSIVE = {
    "schedule": ("warmup_steps", "warmup_ratio"),
    "optimizer": ("adam_beta1", "adam_beta2"),
}
"""Hyperparameters that some options of another exclude."""


def _unusual(parameter: Parameter, default: Any) -> Any:
    """The last of its edge values that is not the default, if there is one."""
    values = _edge_values(parameter)
    return next((value for value in reversed(values) if value != default), default)


def _edge_values(parameter: FloatRange | IntRange | Choice | Fixed) -> list[Any]:
    match parameter:
        case FloatRange() | IntRange():
            return [parameter.low, parameter.high]
        case Choice():
            return list(parameter.choices)
        case Fixed():
            return [parameter.value]


def spread(low: float, high: float, scale: str, points: int) -> list[float]:
    """`points` values from low to high, evenly on the scale: a grid for the grid sampler."""
    if points == 1:
        return [low]
    shares = [i / (points - 1) for i in range(points)]
    if scale == "log":
        return [
            math.exp(math.log(low) + share * (math.log(high) - math.log(low))) for share in shares
        ]
    return [low + share * (high - low) for share in shares]

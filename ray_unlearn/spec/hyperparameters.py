"""Hyperparameters: what a search may choose.

`Hyperparameters` defines those of all methods, `Hyperparameter` one that single methods have (which
ones: `method_registry`). Tables, axes, notes and exports derive their lists from these.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal, Self, get_origin

from pydantic import Field, ValidationError, create_model, model_validator

from ray_unlearn.spec.bounds import LARGEST_FACTOR, MOST_SEQUENCES, MOST_UPDATES
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.strict import Strict

Schedule = Literal["constant", "linear", "cosine"]
OptimizerName = Literal["adamw", "sgd", "signsgd"]


class Hyperparameters(Strict):
    """One value for each hyperparameter, with its default, bounds and meaning.

    Names are those of the search space files. A field that is added later needs a default: ledgers
    written before do not have it (see `with_defaults`), and trial ids leave defaults out.
    """

    learning_rate: float = Field(gt=0, le=LARGEST_FACTOR, description="peak learning rate")
    steps: int = Field(ge=1, le=MOST_UPDATES, description="optimizer updates")
    batch_size: int = Field(
        8, ge=1, le=MOST_SEQUENCES, description="forget sequences per update, over all workers"
    )
    retain_ratio: float = Field(
        1.0, gt=0, le=1024, description="retain sequences per forget sequence (mixed methods)"
    )
    w_f: float = Field(
        1.0, gt=0, le=LARGEST_FACTOR, description="weight of the forget loss (mixed methods)"
    )
    w_r: float = Field(
        1.0, gt=0, le=LARGEST_FACTOR, description="weight of the retain loss (mixed methods)"
    )
    schedule: Schedule = Field("constant", description="learning rate after the warm-up")
    warmup_steps: int = Field(0, ge=0, le=MOST_UPDATES, description="updates of linear warm-up")
    warmup_ratio: float = Field(
        0.0, ge=0, lt=1, description="warm-up as a fraction of `steps` (decaying schedules)"
    )
    weight_decay: float = Field(0.0, ge=0, le=LARGEST_FACTOR, description="decoupled weight decay")
    max_grad_norm: float = Field(
        1.0,
        gt=0,
        le=LARGEST_FACTOR,
        description="gradients are clipped to this global L2 norm",
    )
    optimizer: OptimizerName = Field(
        "adamw", description="AdamW; SGD without momentum; its signs alone"
    )
    adam_beta1: float = Field(
        0.9, ge=0, lt=1, description="decay rate of AdamW's mean of gradients"
    )
    adam_beta2: float = Field(
        0.999, ge=0, lt=1, description="decay rate of AdamW's mean of squared gradients"
    )

    @model_validator(mode="after")
    def _one_warm_up(self) -> Self:
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError("give `warmup_steps` or `warmup_ratio`, not both")
        if self.schedule == "constant" and self.warmup_ratio:
            raise ValueError(
                "`warmup_ratio` depends on `steps`, so a constant schedule would lose its free "
                "steps; use `warmup_steps`"
            )
        return self

    @model_validator(mode="after")
    def _betas_of_adamw(self) -> Self:
        fields = type(self).model_fields
        for name in ("adam_beta1", "adam_beta2"):
            if self.optimizer != "adamw" and getattr(self, name) != fields[name].default:
                raise ValueError(
                    f"`{name}` has no effect with `optimizer: {self.optimizer}`; remove it"
                )
        return self

    @property
    def warmup_updates(self) -> int:
        """Updates of linear warm-up, given as a number or as a fraction of `steps`."""
        return self.warmup_steps or round(self.warmup_ratio * self.steps)

    @property
    def retain_batch_size(self) -> int:
        """Retain sequences per update, at least one."""
        return max(1, round(self.retain_ratio * self.batch_size))


HYPERPARAMETERS = tuple(Hyperparameters.model_fields)
"""Names of the hyperparameters of all methods, in the order of their columns."""

MIXING_HYPERPARAMETERS = ("retain_ratio", "w_f", "w_r")
"""Hyperparameters of methods that train on retain data beside the forget set."""

TRAINING_HYPERPARAMETERS = tuple(
    name for name in HYPERPARAMETERS if name not in MIXING_HYPERPARAMETERS
)
"""Hyperparameters of batches, optimizer and schedule: every method uses them."""


@dataclass(frozen=True)
class Hyperparameter:
    """A hyperparameter that single methods have beside those of all: `ru.Hyperparameter`.

    It is a field of each trial of such a method, an axis, and a column of tables of such studies.

    Raises:
        UserError: the name is malformed or that of a hyperparameter of all methods, or the default
            lies outside the bounds.
    """

    name: str
    default: float | int | str
    """Its type is that of all values: a real number, a whole number, or one of `choices`."""
    description: str = ""
    above: float | None = None
    """Bound that no value reaches."""
    at_least: float | None = None
    at_most: float | None = None
    """None: the largest number that a column of tables holds."""
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UserError(
                f"hyperparameter {self.name!r}: a name is up to 64 lower-case letters, digits and "
                "underscores, and begins with a letter"
            )
        if self.name in HYPERPARAMETERS or self.name in NOT_FOR_HYPERPARAMETERS:
            raise UserError(f"hyperparameter {self.name!r}: the name is taken; choose another")
        if not self.choices and type(self.default) not in (int, float):
            raise UserError(
                f"hyperparameter {self.name!r}: default {self.default!r} is no number; give the "
                "options as `choices`"
            )
        try:
            values_class((self,)).model_validate(ANY | {self.name: self.default})
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise UserError(
                f"hyperparameter {self.name!r}: default {self.default!r}: {problem}"
            ) from None

    @property
    def type(self) -> "ValueType":
        """The type of its values."""
        return str if self.choices else type(self.default)

    def field(self) -> tuple[Any, Any]:
        """Type and bounds as pydantic has them."""
        if self.choices:
            return Literal[self.choices], Field(self.default, description=self.description)
        most: float | None = self.at_most
        if most is None:
            most = MOST_UPDATES if self.type is int else LARGEST_FACTOR
        bounds = {"gt": self.above, "ge": self.at_least, "le": most}
        given: dict[str, Any] = {
            name: self.type(bound) for name, bound in bounds.items() if bound is not None
        }
        return self.type, Field(self.default, description=self.description, **given)


NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""Names of methods, terms and hyperparameters."""
NOT_FOR_HYPERPARAMETERS = ("method", "seed", "evaluate_at", "context", "update", "strength")
"""Names that a trial and its rows have already."""
ANY = {"learning_rate": 1e-3, "steps": 10**9, "schedule": "cosine"}
"""A configuration in which any one more value is valid if it is valid at all."""

ValueType = type[int] | type[float] | type[str]


def values_class(own: tuple[Hyperparameter, ...]) -> type[Hyperparameters]:
    """`Hyperparameters` with these fields more."""
    if not own:
        return Hyperparameters
    fields: Any = {one.name: one.field() for one in own}
    return create_model("Hyperparameters", __base__=Hyperparameters, **fields)


def common_type(name: str) -> ValueType:
    """The type of the values of one of `HYPERPARAMETERS`.

    Returns:
        `str` for a hyperparameter that names one of several options.
    """
    annotation = Hyperparameters.model_fields[name].annotation
    if get_origin(annotation) is Literal:
        return str
    known: tuple[ValueType, ...] = (int, float, str)
    return next(kind for kind in known if kind is annotation)

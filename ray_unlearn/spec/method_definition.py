"""One unlearning method as data: its terms, and the hyperparameters it uses."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from ray_unlearn.spec.hyperparameters import (
    ANY,
    TRAINING_HYPERPARAMETERS,
    Hyperparameter,
    Hyperparameters,
    values_class,
)
from ray_unlearn.spec.method_terms import OTHER_ANSWERS, Labels, TermSpec, TrainedSplit


@dataclass(frozen=True)
class Method:
    """One unlearning method: the terms it minimises and the hyperparameters it uses."""

    name: str
    loss: str
    """What is minimised, as a formula for people."""
    terms: tuple[TermSpec, ...]
    common: tuple[str, ...] = TRAINING_HYPERPARAMETERS
    """Which of the hyperparameters of all methods it uses."""
    own: tuple[Hyperparameter, ...] = ()
    """Those that it has beside them."""
    space: Mapping[str, Any] | None = None
    """Of a user's method, its search space beside the shared fragments; None: a file has it."""
    module: str = ""
    """The module that a user's method is defined in."""
    adapters: bool = False
    """It can train adapters alone: a study without `model.lora` is refused."""

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """What a search may choose for this method; anything else is refused."""
        return (*self.common, *(one.name for one in self.own))

    @cached_property
    def values(self) -> type[Hyperparameters]:
        """The class of its configurations: all hyperparameters with type, bounds and default."""
        return values_class(self.own)

    def own_values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A value for each of its own hyperparameters, the default where none is given.

        Raises:
            ValueError: a value of another type, or out of bounds.
        """
        try:
            values = self.values.model_validate(ANY | dict(given))
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"])
            raise ValueError(f"{place}: {problem['msg']}, got {problem['input']!r}") from None
        return {one.name: getattr(values, one.name) for one in self.own}

    @property
    def retain_set(self) -> TrainedSplit | None:
        """The split of the retain term; None for a method without retain data."""
        return next((term.split for term in self.terms if term.name == "retain"), None)

    @property
    def other_answers(self) -> tuple[Labels, ...]:
        """Which other answers to the forget set's prompts it asks for."""
        return tuple(term.labels for term in self.terms if term.labels in OTHER_ANSWERS)

    @property
    def mixed(self) -> bool:
        """True when the method trains on retain data beside the forget set."""
        return self.retain_set is not None

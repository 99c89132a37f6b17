"""TrialConfig: one configuration and seed, fully resolved and frozen before it starts."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from ray_unlearn.spec.bounds import MOST_ROWS, Seed
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.hyperparameters import Hyperparameters
from ray_unlearn.spec.method_definition import Method
from ray_unlearn.spec.method_registry import METHODS, check_uses, method_named
from ray_unlearn.spec.strict import digest


class TrialConfig(Hyperparameters):
    """A trial: hyperparameters, method, seed, updates to evaluate, and the study's context.

    `context` is the digest of everything that changes a result and is the same for a whole study:
    model, data and evaluation. Two trials with one `id` give the same trajectory. Hyperparameters
    that only its method has are fields of their own: `trial.beta`.
    """

    model_config = ConfigDict(extra="allow")

    method: str
    seed: Seed = 0
    evaluate_at: tuple[int, ...] = Field(
        min_length=1,
        max_length=MOST_ROWS,
        description="updates after which all metrics are taken",
    )
    context: str = ""

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        try:
            return method_named(value).name
        except UserError as error:
            raise ValueError(str(error)) from None

    @field_validator("evaluate_at")
    @classmethod
    def _ordered(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)) or value[0] < 1:
            raise ValueError("must be rising updates from 1 on")
        return value

    @model_validator(mode="after")
    def _only_what_the_method_uses(self) -> Self:
        method, given = self.definition, _without_others(self.definition, self.model_extra or {})
        check_uses(method, given)
        self.__pydantic_extra__ = method.own_values(given)
        check_uses(method, self.changed())
        return self

    @property
    def id(self) -> str:
        """12 hex digits that name the trial.

        They are a digest of method, seed, evaluated updates, context and the hyperparameters that
        differ from their defaults, so a hyperparameter or method that is added to the package later
        changes no id. Ledgers of schema 1 and 2 have other ids, see `spec.trial_id`.
        """
        content = self.model_dump(mode="json", include={"method", "seed", "evaluate_at", "context"})
        return digest(content | {"hyperparameters": self.changed()})

    def changed(self) -> dict[str, Any]:
        """Hyperparameters without a default, and those whose value differs from it."""
        return {
            name: getattr(self, name)
            for name, field in self.definition.values.model_fields.items()
            if field.is_required() or getattr(self, name) != field.default
        }

    @property
    def definition(self) -> Method:
        """The method's terms and hyperparameters."""
        return method_named(self.method)


def hyperparameters_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters of a recorded configuration, without what else a trial is told apart by."""
    return {name: value for name, value in config.items() if name not in _OF_THE_TRIAL}


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded configuration, with hyperparameters that were added to the package later."""
    method = METHODS.get(str(config.get("method")))
    fields = (Hyperparameters if method is None else method.values).model_fields
    missing = {
        name: field.default
        for name, field in fields.items()
        if name not in config and not field.is_required()
    }
    return {**config, **missing}


_OF_THE_TRIAL = frozenset(TrialConfig.model_fields) - frozenset(Hyperparameters.model_fields)


def _without_others(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """Without what only other methods have, at its default: once every trial had a value of all."""
    others = {one.name: one.default for other in METHODS.values() for one in other.own}
    own = {one.name for one in method.own}
    return {
        name: value
        for name, value in given.items()
        if name in own or name not in others or value != others[name]
    }

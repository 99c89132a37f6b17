"""Weights of the score's three parts, of a study's objective or given after the fact."""

from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator

from ray_unlearn.spec.bounds import Weight
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.strict import Strict, validated

OPTION = "--objective"


class ScoreWeights(Strict):
    """Weights of the score's parts; `store.row_score.weighted_score` is the formula."""

    forget_gap: Weight = Field(1.0, description="weight of |log ppl(U) - log ppl_0(A)|")
    retain: Weight = Field(1.0, description="weight of the utility loss on held-out retain text")
    general: Weight = Field(1.0, description="weight of the utility loss on general text")

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.forget_gap == 0 or self.retain + self.general == 0:
            raise ValueError(
                "`forget_gap` and one of `retain`, `general` must be above 0: otherwise doing "
                "nothing wins"
            )
        return self

    def as_option(self) -> str:
        """As people write it after `--objective`: `forget_gap=1,retain=1,general=2`."""
        return ",".join(f"{name}={value!r}" for name, value in self._written())

    def in_yaml(self) -> str:
        """As a study file has it: `forget_gap: 1, retain: 1, general: 2`."""
        return ", ".join(f"{name}: {value!r}" for name, value in self._written())

    def in_words(self) -> str:
        """`forget_gap 1, retain 1, general 2`."""
        return ", ".join(f"{name} {value!r}" for name, value in self._written())

    def _written(self) -> list[tuple[str, float | int]]:
        values = ((name, getattr(self, name)) for name in ScoreWeights.model_fields)
        return [(name, int(v) if v == int(v) and v < 1e15 else v) for name, v in values]


def weights_of(given: Mapping[str, float]) -> ScoreWeights:
    """Weights that a user gives; those not named are 1, as in a study file.

    Raises:
        UserError: none is named, a name that is not known, a value that is no number from 0 on, or
            weights for which doing nothing would be best.
    """
    names = ", ".join(ScoreWeights.model_fields)
    if not given:
        raise UserError(f"{OPTION}: names no weight; write NAME=NUMBER of {names}")
    try:
        return validated(ScoreWeights, dict(given), OPTION)
    except UserError as error:
        raise UserError(f"{error}; write NAME=NUMBER, from 0 on, of {names}") from None


def parse_weights(text: str) -> dict[str, float]:
    """`general=2,retain=0.5` as numbers by name; `weights_of` says which names there are.

    Raises:
        UserError: a part without `=` or number, or a name given twice.
    """
    found: dict[str, float] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        try:
            number = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise UserError(f"{OPTION} {text}: {part!r} is no weight; write NAME=NUMBER: general=2")
        if name in found:
            raise UserError(f"{OPTION} {text}: `{name}` is given twice; keep one")
        found[name] = number
    return found

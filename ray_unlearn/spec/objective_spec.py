"""ObjectiveSpec: what a search minimises, and what a configuration must keep to."""

import json
from typing import Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from ray_unlearn.spec.score_weights import ScoreWeights
from ray_unlearn.spec.strict import Strict

ScoreRuleName = Literal["best_row", "stop_rule"]
AIMS = ("minimise", "maximise", "approach")
HALF_SUFFIXES = ("_selection", "_reporting")


class Limits(Strict):
    """Bounds of one metric; either may be left open."""

    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give `at_least`, `at_most` or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(
                f"`at_least` must not be above `at_most`, got {self.at_least} and {self.at_most}"
            )
        return self


class ObjectiveSpec(ScoreWeights):
    """What scores a row, which rows are feasible, and the rule that picks the row to score.

    Without `minimise`, `maximise` or `approach`,
    score = w_forget * forget gap + mean over sets of w_set * utility loss; see METRICS in
    `store.schema`. Metrics are named as columns of rows, without the half that they are measured
    on: the search reads the selection half, reports the reporting half.
    """

    pareto: bool = Field(
        False, description="two objectives, forget gap and utility loss, instead of their sum"
    )
    score_rule: ScoreRuleName = Field(
        "best_row",
        description="the evaluation that scores a trial. best_row: the best one on the selection "
        "half; stop_rule: the first at which the forget set is as surprising as the approximate "
        "set, else the last",
    )
    minimise: str | None = Field(
        None, description="metric that is the score instead of the weighted sum"
    )
    maximise: str | None = Field(None, description="metric whose negative is the score")
    approach: dict[str, float] | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="one metric and its goal; the score is the distance from it, for metrics such "
        "as mia_loss_auc that are best neither low nor high",
    )
    subject_to: dict[str, float | Limits] = Field(
        {},
        description="bounds by metric: rows outside them are infeasible and score no trial. A bare "
        "number is the most of a metric that is better low, the least of one that is better high",
    )

    @field_validator("minimise", "maximise")
    @classmethod
    def _no_half(cls, value: str | None) -> str | None:
        if value is not None:
            _check_no_half(value)
        return value

    @field_validator("approach", "subject_to")
    @classmethod
    def _no_halves(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        for name in value or ():
            _check_no_half(name)
        return value

    @model_validator(mode="after")
    def _one_aim(self) -> Self:
        given = [name for name in AIMS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {', '.join(f'`{name}`' for name in given)}")
        if not given:
            return self
        if self.pareto:
            raise ValueError(f"`pareto` has its own two objectives; leave out `{given[0]}`")
        if self.weights != ScoreWeights():
            raise ValueError(
                f"`{given[0]}` is scored instead of the weighted sum; leave out the weights "
                f"({self.weights.in_yaml()})"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is not given: studies of before there was a choice had no such keys."""
        content: dict[str, Any] = handler(self)
        for name in (*AIMS, "subject_to"):
            if not content.get(name):
                content.pop(name, None)
        for name, limits in content.get("subject_to", {}).items():
            if isinstance(limits, dict):
                content["subject_to"][name] = {k: v for k, v in limits.items() if v is not None}
        return content

    @property
    def weights(self) -> ScoreWeights:
        """The weights alone."""
        return ScoreWeights(forget_gap=self.forget_gap, retain=self.retain, general=self.general)

    @property
    def aim(self) -> tuple[str, str, float] | None:
        """`minimise`, `maximise` or `approach`, its metric and its goal; None: the weighted sum."""
        if self.approach is not None:
            ((metric, goal),) = self.approach.items()
            return "approach", metric, goal
        if self.minimise is not None:
            return "minimise", self.minimise, 0.0
        return None if self.maximise is None else ("maximise", self.maximise, 0.0)

    def beyond_weights(self) -> str:
        """As a study file has it: `minimise: forget_gap, subject_to: {general_kl: 0.01}`.

        Empty for the weighted sum without constraints.
        """
        content = self.model_dump(mode="json")
        shown = {name: content[name] for name in (*AIMS, "subject_to") if name in content}
        return json.dumps(_as_written(shown)).replace('"', "")[1:-1]


def _as_written(value: Any) -> Any:
    """Whole numbers without their fraction: 12, not 12.0."""
    if isinstance(value, dict):
        return {name: _as_written(one) for name, one in value.items()}
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return int(value) if whole else value


def _check_no_half(name: str) -> None:
    for suffix in HALF_SUFFIXES:
        if name.endswith(suffix):
            raise ValueError(
                f"{name!r}: leave out {suffix!r}; the search reads the selection half, reports "
                "the reporting half"
            )

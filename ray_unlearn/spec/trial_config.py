"""TrialConfig: one configuration and seed, fully resolved and frozen before it starts."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.method_registry import Method, method_named
from ray_unlearn.spec.strict import Strict, digest

Schedule = Literal["constant", "linear", "cosine"]


class Hyperparameters(Strict):
    """What a search may choose. Names are those of the search space files; every default stands
    here."""

    learning_rate: float = Field(gt=0, description="peak learning rate of AdamW")
    steps: int = Field(ge=1, description="optimizer updates")
    batch_size: int = Field(8, ge=1, description="forget sequences per update, over all workers")
    retain_ratio: float = Field(
        1.0, gt=0, description="retain sequences per forget sequence (mixed methods)"
    )
    w_f: float = Field(1.0, gt=0, description="weight of the forget loss (mixed methods)")
    w_r: float = Field(1.0, gt=0, description="weight of the retain loss (mixed methods)")
    schedule: Schedule = Field("constant", description="learning rate after the warm-up")
    warmup_steps: int = Field(0, ge=0, description="updates of linear warm-up")
    warmup_ratio: float = Field(
        0.0, ge=0, lt=1, description="warm-up as a share of `steps` (decaying schedules)"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay of AdamW")
    max_grad_norm: float = Field(
        1.0, gt=0, description="gradients are clipped to this global L2 norm"
    )
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)

    @model_validator(mode="after")
    def _one_warm_up(self) -> Self:
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError("give `warmup_steps` or `warmup_ratio`, not both")
        if self.schedule == "constant" and self.warmup_ratio:
            raise ValueError(
                "`warmup_ratio` depends on `steps`, so a constant schedule would lose its free steps; use `warmup_steps`"
            )
        return self

    @property
    def warmup_updates(self) -> int:
        """Updates of linear warm-up, whichever way they were given."""
        return self.warmup_steps or round(self.warmup_ratio * self.steps)

    @property
    def retain_batch_size(self) -> int:
        """Retain sequences per update, at least one."""
        return max(1, round(self.retain_ratio * self.batch_size))


MIXED_ONLY = frozenset({"w_f", "w_r", "retain_ratio"})


class TrialConfig(Hyperparameters):
    """A trial: hyperparameters, method, seed, where to evaluate, and the context they hold in.

    `context` is the digest of all that changes a result and is the same for a whole study: model,
    data and evaluation. Two trials with one `id` give the same trajectory.
    """

    method: str
    seed: int = Field(0, ge=0)
    evaluate_at: tuple[int, ...] = Field(
        min_length=1, description="updates after which all metrics are taken"
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

    @property
    def id(self) -> str:
        """12 hex digits: the digest of everything above."""
        return digest(self.model_dump(mode="json"))

    @property
    def definition(self) -> Method:
        """The method's terms."""
        return method_named(self.method)

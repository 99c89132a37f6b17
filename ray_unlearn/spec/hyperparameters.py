"""Hyperparameters: what a search may choose.

The class is the only definition. Tables, axes, notes and exports derive their lists from it, so a
field that is added here appears in all of them.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self, get_origin

from pydantic import Field, model_validator

from ray_unlearn.spec.bounds import LARGEST_FACTOR, MOST_SEQUENCES, MOST_UPDATES
from ray_unlearn.spec.strict import Strict

Schedule = Literal["constant", "linear", "cosine"]


class Hyperparameters(Strict):
    """One value for each hyperparameter, with its default, bounds and meaning.

    Names are those of the search space files. A field that is added later needs a default: ledgers
    written before do not have it (see `with_defaults`), and trial ids leave defaults out.
    """

    learning_rate: float = Field(gt=0, le=LARGEST_FACTOR, description="peak learning rate of AdamW")
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
    weight_decay: float = Field(
        0.0, ge=0, le=LARGEST_FACTOR, description="decoupled weight decay of AdamW"
    )
    max_grad_norm: float = Field(
        1.0,
        gt=0,
        le=LARGEST_FACTOR,
        description="gradients are clipped to this global L2 norm",
    )
    adam_beta1: float = Field(
        0.9, ge=0, lt=1, description="decay rate of AdamW's mean of gradients"
    )
    adam_beta2: float = Field(
        0.999, ge=0, lt=1, description="decay rate of AdamW's mean of squared gradients"
    )
    beta: float = Field(
        0.1,
        gt=0,
        le=LARGEST_FACTOR,
        description="how sharply NPO and SimNPO stop at documents that are forgotten",
    )
    gamma: float = Field(
        0.0,
        ge=0,
        le=LARGEST_FACTOR,
        description="margin that SimNPO wants below a document's mean log-probability, times beta",
    )
    confidence_power: float = Field(
        1.0, ge=0, le=64, description="power of P(x_t) in a token's weight (WGA, SatImp)"
    )
    doubt_power: float = Field(
        1.0, ge=0, le=64, description="power of 1 - P(x_t) in a token's weight (SatImp)"
    )
    logit_penalty: float = Field(
        10.0,
        gt=0,
        le=LARGEST_FACTOR,
        description="what UNDIAL takes off the vanilla model's logit of each target",
    )
    layer_depth: float = Field(
        0.25,
        gt=0,
        le=1,
        description="layer whose hidden states RMU steers, as a fraction of the model's layers",
    )
    trained_layers: int = Field(
        3,
        ge=1,
        le=1024,
        description="layers that RMU trains, the steered one and those just below it",
    )
    steering: float = Field(
        20.0,
        gt=0,
        le=LARGEST_FACTOR,
        description="length of the vector that forget documents' hidden states (RMU) or residual "
        "features are steered to",
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

    @property
    def warmup_updates(self) -> int:
        """Updates of linear warm-up, given as a number or as a fraction of `steps`."""
        return self.warmup_steps or round(self.warmup_ratio * self.steps)

    @property
    def retain_batch_size(self) -> int:
        """Retain sequences per update, at least one."""
        return max(1, round(self.retain_ratio * self.batch_size))


HYPERPARAMETERS = tuple(Hyperparameters.model_fields)
"""Names of all hyperparameters, in the order of their columns."""

MIXING_HYPERPARAMETERS = ("retain_ratio", "w_f", "w_r")
"""Hyperparameters of methods that train on retain data beside the forget set."""

LOSS_HYPERPARAMETERS = (
    "beta",
    "gamma",
    "confidence_power",
    "doubt_power",
    "logit_penalty",
    "layer_depth",
    "trained_layers",
    "steering",
)
"""Hyperparameters of single losses."""

TRAINING_HYPERPARAMETERS = tuple(
    name for name in HYPERPARAMETERS if name not in MIXING_HYPERPARAMETERS + LOSS_HYPERPARAMETERS
)
"""Hyperparameters of batches, optimizer and schedule: every method uses them."""


def value_type(name: str) -> type[int] | type[float] | type[str]:
    """The type of a hyperparameter's values.

    Args:
        name: one of `HYPERPARAMETERS`.

    Returns:
        `str` for a hyperparameter that names one of several options.
    """
    annotation = Hyperparameters.model_fields[name].annotation
    if get_origin(annotation) is Literal:
        return str
    known: tuple[type[int] | type[float] | type[str], ...] = (int, float, str)
    return next(kind for kind in known if kind is annotation)


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded configuration, with hyperparameters that were added to the package later."""
    fields = Hyperparameters.model_fields
    missing = {
        name: field.default
        for name, field in fields.items()
        if name not in config and not field.is_required()
    }
    return {**config, **missing}

"""ModelSpec: the vanilla model, its precision, and the models retrained to compare with."""

from typing import Literal, Self

from pydantic import Field, model_validator

from ray_unlearn.spec.bounds import (
    LARGEST_FACTOR,
    MOST_SEQUENCES,
)
from ray_unlearn.spec.strict import Strict

Rounding = Literal["exact", "stochastic", "nearest"]


class LoraSpec(Strict):
    """Low-rank adapters (Hu et al. 2022, arXiv 2106.09685) trained instead of the whole model.

    In W + alpha / rank * B A only B and A are trained. The model without its adapters is P_0, so no
    second copy is needed.
    """

    rank: int = Field(16, ge=1, le=MOST_SEQUENCES)
    alpha: int = Field(32, ge=1, le=MOST_SEQUENCES)
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear",
        description="names of the adapted layers (`q_proj` ...); all-linear: all but the output "
        "embedding",
    )


class ModelSpec(Strict):
    """The vanilla model P_0; `source` is a hub id, a local folder, or a demo model."""

    source: str = Field(
        min_length=1,
        description="hub id, local folder, `demo:<domain>`, or `demo:<domain>#<model seed>`: the "
        "demo's model trained from another seed on the same documents",
    )
    revision: str | None = Field(
        None, description="hub revision; pin a commit for a study others should repeat"
    )
    gguf_file: str | None = Field(
        None, description="file inside `source` to load through transformers' GGUF reader"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the weights, policy and reference alike"
    )
    autocast: Literal["bfloat16"] | None = Field(
        None,
        description="compute in this dtype while the weights stay float32; "
        "policy and reference alike",
    )
    rounding: Rounding = Field(
        "stochastic",
        description="how bfloat16 weights are rounded after an update. stochastic: right on "
        "average, so even a few small steps show; exact: what rounding drops is stored beside the "
        "weights (2 bytes each) and shows once it adds up; nearest: small steps are lost",
    )
    lora: LoraSpec | None = Field(
        None, description="train low-rank adapters (PEFT) instead of the whole model"
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    exact_retrain: str | None = Field(
        None, description="model retrained without the forget set; `demo:` brings its own"
    )
    exact_retrain_seeds: tuple[str, ...] = Field(
        (),
        description="like `exact_retrain`, trained from other seeds (`demo:<domain>@<seed>` for "
        "the demo): three retrained models in all say how much a score means, and set the "
        "tolerance of guidelines",
    )
    pretraining_tokens: float | None = Field(
        None,
        gt=0,
        le=LARGEST_FACTOR,
        description="tokens P_0 was trained on: retraining costs 6 x parameters x tokens FLOPs",
    )

    @property
    def has_exact_retrain(self) -> bool:
        """Whether a model retrained without the forget set is given; the demo brings its own."""
        given = self.exact_retrain is not None or bool(self.exact_retrain_seeds)
        return given or self.source.startswith("demo:")

    @model_validator(mode="after")
    def _one_precision(self) -> Self:
        if self.autocast is not None and self.dtype != "float32":
            raise ValueError(
                f"`autocast: {self.autocast}` is for float32 weights, got `dtype: {self.dtype}`; "
                "remove one of the two"
            )
        return self

"""AttackSpec: which attacks on a chosen model to make, and how hard."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from ray_unlearn.spec.bounds import LARGEST_FACTOR, LONGEST_TEMPLATE, MOST_SEQUENCES, MOST_UPDATES
from ray_unlearn.spec.strict import Strict

Attack = Literal["relearn", "quantise", "prompts"]
ATTACK_NAMES: tuple[Attack, ...] = get_args(Attack)
UNPROMPTED: tuple[Attack, ...] = ("relearn", "quantise")
"""Attacks that need nothing from the user."""
LearntText = Literal["forget", "approximate", "retain"]


class AttackSpec(Strict):
    """Attacks on a chosen model; the defaults are those of docs/attacks.md."""

    attacks: tuple[Attack, ...] = Field(UNPROMPTED, min_length=1)
    updates: tuple[Annotated[int, Field(ge=0, le=MOST_UPDATES)], ...] = Field(
        (5, 20, 50), min_length=1, description="relearn: updates after which the rest is measured"
    )
    learning_rate: float = Field(1e-4, gt=0, le=LARGEST_FACTOR, description="relearn: of AdamW")
    batch_size: int = Field(8, ge=1, le=MOST_SEQUENCES, description="relearn: sequences per update")
    share: float = Field(0.25, gt=0, lt=1, description="relearn: fraction of the forget set learnt")
    learnt: tuple[LearntText, ...] = Field(
        ("forget", "approximate"),
        min_length=1,
        description="relearn: what is learnt. forget: a share of the forget set, and the rest is "
        "measured; others: that set, and the whole forget set is measured",
    )
    bits: tuple[Annotated[int, Field(ge=2, le=16)], ...] = Field(
        (8, 4), min_length=1, description="quantise: bits per weight"
    )
    group_size: int = Field(
        64, ge=1, le=MOST_SEQUENCES, description="quantise: weights that share one scale"
    )
    prefixes: tuple[Annotated[str, Field(min_length=1, max_length=LONGEST_TEMPLATE)], ...] = Field(
        (), description="prompts: text before each forget document or prompt"
    )
    paraphrases: str | None = Field(
        None, description="prompts: file or folder with the forget set in other words"
    )

    @model_validator(mode="after")
    def _prompts_are_given(self) -> Self:
        given = bool(self.prefixes) or self.paraphrases is not None
        if "prompts" in self.attacks and not given:
            raise ValueError(
                "the attack `prompts` needs a prefix (`--prefix TEXT`) or paraphrases "
                "(`--paraphrases FILE`)"
            )
        if given and "prompts" not in self.attacks:
            raise ValueError(
                "prefixes and paraphrases are for the attack `prompts`: add it, or remove them"
            )
        return self

"""The parts of a method as data: terms, and what their losses are computed from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

TrainedSplit = Literal["forget", "retain", "general_retain"]
Labels = Literal["true", "random", "adversarial", "alternative", "mismatched"]
OTHER_ANSWERS: tuple[Labels, ...] = ("alternative", "mismatched")
"""Labels that are other answers to the prompts of the forget set."""
Needs = Literal[
    "logprob_sum",
    "kl_sum",
    "distillation_sum",
    "logprobs",
    "reference_logprobs",
    "hidden",
    "reference_hidden",
    "residuals",
    "preference",
]
"""What a loss is computed from.

logprob_sum, kl_sum, distillation_sum: a sum over targets, whose gradient comes from the same pass
    over the head; the last of cross-entropies to P_0 with its logits of the targets lowered.
logprobs: log P of each target, for any differentiable function: the head is passed twice.
reference_logprobs: the same, and those of the vanilla model P_0.
hidden: hidden states of the layer at `layer_depth`, at the places that predict a target.
reference_hidden: the same, and those of the vanilla model.
residuals: what the adapters of each layer add to its output there (`model.lora`).
preference: log P and log P_0 of each target of the documents, and of alternative answers to their
    prompts.
"""


@dataclass(frozen=True)
class Loss:
    """A pure function of what it needs and the trial's hyperparameters."""

    function: Callable[[Any, Any], Any]
    """From `unlearn.methods.losses.Given` and a `TrialConfig` to a scalar tensor."""
    needs: Needs


@dataclass(frozen=True)
class TermSpec:
    """One part of what a method minimises: weight x loss on documents of a split."""

    name: str
    """It names the term's column, `forget_loss` say; each name occurs once in a method."""
    split: TrainedSplit
    loss: str | Loss
    """Name of a function in `ray_unlearn.unlearn.methods.losses`, or a user's own."""
    labels: Labels = "true"
    """What the tokens of the documents are replaced by as targets; `alternative`: by another
    answer to the same prompt, or, where the loss needs `preference`, compared with it;
    `mismatched`: by the answer of a retain document."""
    weight: str | None = None
    """The hyperparameter that multiplies the loss; None: 1."""

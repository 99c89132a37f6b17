"""The seven unlearning methods as terms: documents, labels, a pure loss and a weight.

`ray_unlearn.spec.method_registry.METHODS` says which terms a method has; here are the terms. A loss
receives per-token quantities [n] of this worker's part of a batch and the number of real targets of
the *global* batch, so that the sum over micro-batches and workers is the token mean over the global
batch (Yao et al., ACL 2024, section 3 objectives).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.unlearn.methods.losses import ascent, cross_entropy, kl_divergence

Labels = Literal["true", "random", "adversarial"]
Quantity = Literal["logprob", "kl"]


@dataclass(frozen=True)
class Term:
    """One part of a method's loss: weight * loss(per-token quantity on documents of `split`)."""

    name: Literal["forget", "retain"]
    split: str
    loss: Callable[[Tensor, int], Tensor]
    quantity: Quantity
    labels: Labels
    weight: float
    batch_size: int


FORGET_TERMS: dict[str, tuple[Callable[[Tensor, int], Tensor], Labels]] = {
    "ascent": (ascent, "true"),
    "random_labels": (cross_entropy, "random"),
    "adversarial_labels": (cross_entropy, "adversarial"),
}
RETAIN_TERMS: dict[str, tuple[Callable[[Tensor, int], Tensor], Quantity]] = {
    "descent": (cross_entropy, "logprob"),
    "kl": (kl_divergence, "kl"),
}


def terms(config: TrialConfig) -> tuple[Term, ...]:
    """The terms whose weighted sum the trial minimises.

    The mixing weights appear here and nowhere else.
    """
    method = config.definition
    loss, labels = FORGET_TERMS[method.forget]
    forget = Term("forget", "forget", loss, "logprob", labels, config.w_f, config.batch_size)
    if method.retain is None or method.retain_set is None:
        return (forget,)
    retain_loss, quantity = RETAIN_TERMS[method.retain]
    retain = Term(
        "retain",
        method.retain_set,
        retain_loss,
        quantity,
        "true",
        config.w_r,
        config.retain_batch_size,
    )
    return (forget, retain)

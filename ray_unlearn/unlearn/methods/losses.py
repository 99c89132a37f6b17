"""The losses: pure functions of the log-probabilities of a term's targets.

Each returns the part of the loss that these targets have in the global batch, a scalar: the loss of
a batch is the sum over its micro-batches and workers. Where a source writes a mean over tokens or
documents, it is over all of the global batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import logsigmoid

from ray_unlearn.spec.method_registry import LOGIT_PENALTY, Loss, Needs

OF_REFERENCE: tuple[Needs, ...] = ("kl_sum", "distillation_sum", "reference_logprobs")
"""Needs for which P_0 is asked."""
PENALTY = LOGIT_PENALTY.name
"""What lowers P_0's logits of the targets in a `distillation_sum`."""
BY_TARGET: tuple[Needs, ...] = ("logprobs", "reference_logprobs")
"""Needs for which a loss sees single targets and their documents."""


@dataclass(frozen=True)
class Given:
    """What a loss sees of some sequences: n targets in D documents.

    values: log P(x_t | x_<t), or KL(P_0 || P) or a cross-entropy at that place, [n]; or their sum
        [], where no more is needed.
    targets, documents: their numbers in the *global* batch; 0 documents where only sums are needed.
    document: of each target, 0 ... D-1, [n]; empty where only sums are needed.
    reference: log P_0(x_t | x_<t), [n], where it is needed.
    """

    values: Tensor
    targets: int
    documents: int
    document: Tensor
    reference: Tensor | None = None

    def per_document(self, values: Tensor) -> Tensor:
        """Sums of values [n] over the targets of each document, [D]."""
        count = int(self.document.max()) + 1 if len(self.document) else 0
        return values.new_zeros(count).index_add(0, self.document, values)


LossFunction = Callable[[Given, Any], Tensor]
"""The second is the trial, a `TrialConfig`, with its method's own hyperparameters as fields."""


LOSSES: dict[str, Loss] = {}
"""By the name that `TermSpec.loss` gives."""


def loss(needs: Needs) -> Callable[[LossFunction], LossFunction]:
    """Add a function to `LOSSES` under its own name."""

    def added(function: LossFunction) -> LossFunction:
        LOSSES[function.__name__] = Loss(function, needs)
        return function

    return added


@loss("logprob_sum")
def ascent(given: Given, chosen: Any) -> Tensor:
    """-NLL(U) = mean log P(x_t | x_<t).

    Minimising it is gradient ascent on the language-modelling loss.
    """
    return given.values.sum() / given.targets


@loss("logprob_sum")
def cross_entropy(given: Given, chosen: Any) -> Tensor:
    """NLL = -mean log P(label_t | x_<t).

    Minimising it is descent on true labels, or fits random or adversarial ones.
    """
    return -given.values.sum() / given.targets


@loss("kl_sum")
def kl_divergence(given: Given, chosen: Any) -> Tensor:
    """Mean KL(P_0 || P_theta) over real positions, zero for the vanilla model."""
    return given.values.sum() / given.targets


@loss("distillation_sum")
def undial(given: Given, chosen: Any) -> Tensor:
    """Mean cross-entropy to softmax(z_0 - logit_penalty onehot(x_t)), z_0 the logits of P_0.

    UNDIAL (Dong et al., NAACL 2025, arXiv 2402.10052, eq. 3): the model becomes P_0 that has been
    talked out of each target, and can go no further.
    """
    return given.values.sum() / given.targets


@loss("reference_logprobs")
def npo(given: Given, chosen: Any) -> Tensor:
    """Negative preference optimisation: (2/beta) mean over documents of log(1 + (P / P_0)^beta).

    P of a document is the product over its targets (Zhang et al., COLM 2024, arXiv 2404.05868,
    eq. 3). It goes over into ascent as beta goes to 0, and stops at documents that P_0 likes much
    better.
    """
    assert given.reference is not None
    ratio = given.per_document(given.values - given.reference)
    return -2 / chosen.beta * logsigmoid(-chosen.beta * ratio).sum() / given.documents


@loss("logprobs")
def simnpo(given: Given, chosen: Any) -> Tensor:
    """NPO without a reference, by the mean log-probability of a document.

    -(2/beta) mean over documents of log sigmoid(-beta mean log P - gamma) (Fan et al. 2024, arXiv
    2410.07163, eq. 4).
    """
    mean = given.per_document(given.values) / given.per_document(
        given.values.new_ones(len(given.values))
    )
    return -2 / chosen.beta * logsigmoid(-chosen.beta * mean - chosen.gamma).sum() / given.documents


@loss("logprobs")
def weighted_ascent(given: Given, chosen: Any) -> Tensor:
    """WGA: mean of P^confidence_power log P over targets, the weight without gradient.

    Wang et al., ICLR 2025, arXiv 2502.19301: tokens that are forgotten count less.
    """
    weight = (chosen.confidence_power * given.values.detach()).exp()
    return (weight * given.values).sum() / given.targets


@loss("logprobs")
def saturation_ascent(given: Given, chosen: Any) -> Tensor:
    """SatImp: mean of P^confidence_power (1 - P)^doubt_power log P, the weight without gradient.

    Yang et al. 2025, arXiv 2505.11953: tokens that are forgotten, and those that are certain, count
    less.
    """
    p = given.values.detach().exp()
    weight = p**chosen.confidence_power * (1 - p).clamp(min=0) ** chosen.doubt_power
    return (weight * given.values).sum() / given.targets

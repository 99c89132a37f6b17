"""The losses: pure functions of log-probabilities, or hidden states, at a term's targets.

Each returns the part of the loss that these targets have in the global batch, a scalar: the loss of
a batch is the sum over its micro-batches and workers. Where a source writes a mean over tokens or
documents, it is over all of the global batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ray_unlearn.spec.method_terms import Loss, Needs
from ray_unlearn.spec.own_hyperparameters import LOGIT_PENALTY

OF_REFERENCE: tuple[Needs, ...] = (
    "kl_sum",
    "distillation_sum",
    "reference_logprobs",
    "preference",
)
"""Needs for which P_0's final hidden states are asked for."""
PENALTY = LOGIT_PENALTY.name
"""What lowers P_0's logits of the targets in a `distillation_sum`."""
BY_TARGET: tuple[Needs, ...] = ("logprobs", "reference_logprobs", "preference")
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
    alternative: "Given | None" = None
    """The same of alternative answers to the same documents' prompts, where they are needed."""

    def per_document(self, values: Tensor) -> Tensor:
        """Sums of values [n] over the targets of each document, [D]."""
        count = int(self.document.max()) + 1 if len(self.document) else 0
        return values.new_zeros(count).index_add(0, self.document, values)


@dataclass(frozen=True)
class GivenStates:
    """What a loss sees of hidden states, float32, at n targets of some sequences.

    states: of each layer that is looked at, [n, its width].
    targets: number of targets in the *global* batch.
    directions: a random unit vector [width] for each of them, the same in all of a trial.
    reference: of the same layers of the vanilla model, where they are needed.
    """

    states: list[Tensor]
    targets: int
    directions: list[Tensor]
    reference: list[Tensor]

    def mean_square(self, differences: list[Tensor]) -> Tensor:
        """Mean over layers, targets and width of squares; of differences [n, width] by layer."""
        total = sum(difference.square().mean(-1).sum() for difference in differences)
        return torch.as_tensor(total) / (len(differences) * self.targets)


LossFunction = Callable[[Any, Any], Tensor]
"""From `Given` or `GivenStates`, and the trial, a `TrialConfig`, with its method's own
hyperparameters as fields."""

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


@loss("preference")
def dpo(given: Given, chosen: Any) -> Tensor:
    """-(2/beta) mean over documents of log sigmoid(beta ((s' - s'_0) - (s - s_0))).

    s is the log-probability of a document's answer, s' that of the alternative one (DPO, Rafailov
    et al. 2023, arXiv 2305.18290; for unlearning Maini et al. 2024, arXiv 2401.06121, and Mekala et
    al. 2024, arXiv 2409.13474). The factor is that of `npo`, to which it goes over where the
    alternative does not change.
    """
    other = given.alternative
    assert given.reference is not None
    assert other is not None
    assert other.reference is not None
    ratio = given.per_document(given.values - given.reference)
    preferred = other.per_document(other.values - other.reference) - ratio
    return -2 / chosen.beta * logsigmoid(chosen.beta * preferred).sum() / given.documents


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


@loss("hidden")
def steered(given: GivenStates, chosen: Any) -> Tensor:
    """RMU's forget loss: mean square of h - steering u, h the states of a layer.

    Li et al., ICML 2024, arXiv 2403.03218: documents to be forgotten get the states of none.
    """
    pairs = zip(given.states, given.directions, strict=True)
    return given.mean_square([state - chosen.steering * unit for state, unit in pairs])


@loss("reference_hidden")
def unmoved(given: GivenStates, chosen: Any) -> Tensor:
    """RMU's retain loss: mean square of h - h_0, the same layer's states of the vanilla model."""
    pairs = zip(given.states, given.reference, strict=True)
    return given.mean_square([state - before for state, before in pairs])


@loss("residuals")
def shifted_residuals(given: GivenStates, chosen: Any) -> Tensor:
    """Mean square of r - shift u_k, r what the adapters of layer k add to its output.

    Qin et al. 2024, arXiv 2411.08443: documents to be forgotten get shifted features.
    """
    pairs = zip(given.states, given.directions, strict=True)
    return given.mean_square([state - chosen.shift * unit for state, unit in pairs])


@loss("residuals")
def zero_residuals(given: GivenStates, chosen: Any) -> Tensor:
    """Mean square of what adapters add: documents to be kept get the vanilla model's features."""
    return given.mean_square(given.states)

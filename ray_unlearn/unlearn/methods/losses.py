"""The losses: pure functions of per-token quantities [n].

`targets` is the number of real targets of the global batch, which the loss is a mean over.
"""

from torch import Tensor


def ascent(logprobs: Tensor, targets: int) -> Tensor:
    """-NLL(U) = mean log P(x_t | x_<t).

    Minimising it is gradient ascent on the language-modelling loss.
    """
    return logprobs.sum() / targets


def cross_entropy(logprobs: Tensor, targets: int) -> Tensor:
    """NLL = -mean log P(label_t | x_<t).

    Minimising it is descent on true labels, or fits random or adversarial ones.
    """
    return -logprobs.sum() / targets


def kl_divergence(kl: Tensor, targets: int) -> Tensor:
    """Mean KL(P_0 || P_theta) over real positions, zero for the vanilla model."""
    return kl.sum() / targets

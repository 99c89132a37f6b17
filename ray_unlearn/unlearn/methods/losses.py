"""The losses: pure functions of per-token quantities [n] and the global number of targets they are
a mean over."""

from torch import Tensor


def ascent(logprobs: Tensor, targets: int) -> Tensor:
    """-NLL(U) = mean log P(x_t | x_<t): minimising it is gradient ascent on the language-modelling
    loss."""
    return logprobs.sum() / targets


def cross_entropy(logprobs: Tensor, targets: int) -> Tensor:
    """NLL = -mean log P(label_t | x_<t): descent on true labels, or fitting random or adversarial
    ones."""
    return -logprobs.sum() / targets


def kl_divergence(kl: Tensor, targets: int) -> Tensor:
    """mean KL(P_0 || P_theta) over real positions; a true divergence, zero for the vanilla
    model."""
    return kl.sum() / targets

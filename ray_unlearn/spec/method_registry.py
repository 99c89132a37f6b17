"""What each unlearning method is made of, without torch: a study is validated on a laptop.

A method minimises  w_f * forget term + w_r * retain term  (Yao et al., ACL 2024, arXiv 2402.15159). The terms are pure
functions in `ray_unlearn.unlearn.methods`; this table only says which ones, so that specs, command
line and report can speak of methods without loading a model.
"""

from dataclasses import dataclass
from typing import Literal

from ray_unlearn.spec.errors import UserError, nearest

ForgetTerm = Literal["ascent", "random_labels", "adversarial_labels"]
RetainTerm = Literal["descent", "kl"]
RetainSet = Literal["retain", "general_retain"]


@dataclass(frozen=True)
class Method:
    """One unlearning method: the loss on the forget set U and, for mixed methods, on a retain
    set."""

    name: str
    loss: str
    forget: ForgetTerm
    retain: RetainTerm | None = None
    retain_set: RetainSet | None = None

    @property
    def mixed(self) -> bool:
        """True when retain data takes part; then `w_r` and `retain_ratio` are hyperparameters."""
        return self.retain is not None


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("gradient_ascent", "-NLL(U)", "ascent"),
        Method("random_labels", "CE(U, random labels)", "random_labels"),
        Method(
            "adversarial_samples", "CE(U, argmax_{a != x_t} P_0(a | x_<t))", "adversarial_labels"
        ),
        Method(
            "ascent_descent_general",
            "-w_f NLL(U) + w_r NLL(G)",
            "ascent",
            "descent",
            "general_retain",
        ),
        Method(
            "ascent_kl_general",
            "-w_f NLL(U) + w_r KL(P_0 || P) on G",
            "ascent",
            "kl",
            "general_retain",
        ),
        Method(
            "ascent_descent_in_distribution",
            "-w_f NLL(U) + w_r NLL(R)",
            "ascent",
            "descent",
            "retain",
        ),
        Method(
            "ascent_kl_in_distribution",
            "-w_f NLL(U) + w_r KL(P_0 || P) on R",
            "ascent",
            "kl",
            "retain",
        ),
    )
}


def method_named(name: str) -> Method:
    """The method called `name`.

    Raises:
        UserError: no such method; the message gives the nearest name.
    """
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}{nearest(name, METHODS)}")
    return METHODS[name]

"""The unlearning methods as data, without torch, so that a laptop can validate a study.

A method minimises  w_f * forget term + w_r * retain term  (Yao et al., ACL 2024, arXiv 2402.15159).
The terms are pure functions in `ray_unlearn.unlearn.methods`. The registry says which terms and
hyperparameters a method uses, so that specs, command line and report can name and check methods
without loading a model.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.spec.hyperparameters import (
    HYPERPARAMETERS,
    MIXING_HYPERPARAMETERS,
    TRAINING_HYPERPARAMETERS,
)

ForgetTerm = Literal["ascent", "random_labels", "adversarial_labels"]
RetainTerm = Literal["descent", "kl"]
RetainSet = Literal["retain", "general_retain"]

METHOD_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
WITHOUT_DEFAULT = ("learning_rate", "steps")
"""Hyperparameters that every method uses and every search space names."""


@dataclass(frozen=True)
class Method:
    """One unlearning method: its losses, its retain data and the hyperparameters it uses."""

    name: str
    loss: str
    """The loss to minimise, as a formula for people."""
    forget: ForgetTerm
    """The term on the forget set U."""
    retain: RetainTerm | None = None
    """The term on `retain_set`; both are None for a method without retain data."""
    retain_set: RetainSet | None = None
    hyperparameters: tuple[str, ...] = TRAINING_HYPERPARAMETERS
    """What a search may choose for this method; anything else is refused."""

    @property
    def mixed(self) -> bool:
        """True when the method trains on retain data beside the forget set."""
        return self.retain is not None

    def check_uses(self, names: Iterable[str], place: str = "") -> None:
        """Refuse hyperparameters that have no effect on this method.

        Args:
            names: names of hyperparameters.
            place: where they were given, for the message.

        Raises:
            UserError: one of `names` is unknown, or the method does not use it.
        """
        where = f"{place}: " if place else ""
        for name in names:
            if name not in HYPERPARAMETERS:
                close = nearest(name, self.hyperparameters)
                raise UserError(f"{where}unknown hyperparameter {name!r}{close}")
            if name not in self.hyperparameters:
                raise UserError(
                    f"{where}`{name}`: {self.name} does not use it, so it has no effect; remove it"
                )


_registered: dict[str, Method] = {}

METHODS: Mapping[str, Method] = MappingProxyType(_registered)
"""Every registered method by name, in the order of registration."""


def register(method: Method) -> Method:
    """Add a method to `METHODS`.

    Returns:
        The method.

    Raises:
        UserError: the name is taken or malformed, a hyperparameter is unknown, named twice or
            missing, or only one of `retain` and `retain_set` is given.
    """
    place = f"method {method.name!r}"
    if not METHOD_NAME.fullmatch(method.name):
        raise UserError(
            f"{place}: a name is up to 64 lower-case letters, digits and underscores, and begins "
            "with a letter"
        )
    if method.name in _registered:
        raise UserError(f"{place}: already registered; choose another name")
    if (method.retain is None) != (method.retain_set is None):
        raise UserError(f"{place}: `retain` and `retain_set` need each other; give both or neither")
    _check_hyperparameters(method, place)
    _registered[method.name] = method
    return method


def _check_hyperparameters(method: Method, place: str) -> None:
    used = method.hyperparameters
    for name in used:
        if name not in HYPERPARAMETERS:
            raise UserError(
                f"{place}: unknown hyperparameter {name!r}{nearest(name, HYPERPARAMETERS)}"
            )
        if used.count(name) > 1:
            raise UserError(f"{place}: hyperparameter {name!r} is named twice; keep one")
    for name in WITHOUT_DEFAULT:
        if name not in used:
            raise UserError(f"{place}: every method uses `{name}`; add it to `hyperparameters`")


def method_named(name: str) -> Method:
    """The method called `name`.

    Raises:
        UserError: no such method; the message gives the nearest name.
    """
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}{nearest(name, METHODS)}")
    return METHODS[name]


def _mixed(name: str, loss: str, retain: RetainTerm, retain_set: RetainSet) -> Method:
    """Gradient ascent on the forget set with a retain term beside it."""
    return Method(
        name,
        loss,
        "ascent",
        retain,
        retain_set,
        (*TRAINING_HYPERPARAMETERS, *MIXING_HYPERPARAMETERS),
    )


BUILT_IN = tuple(
    register(method).name
    for method in (
        Method("gradient_ascent", "-NLL(U)", "ascent"),
        Method("random_labels", "CE(U, random labels)", "random_labels"),
        Method(
            "adversarial_samples", "CE(U, argmax_{a != x_t} P_0(a | x_<t))", "adversarial_labels"
        ),
        _mixed("ascent_descent_general", "-w_f NLL(U) + w_r NLL(G)", "descent", "general_retain"),
        _mixed("ascent_kl_general", "-w_f NLL(U) + w_r KL(P_0 || P) on G", "kl", "general_retain"),
        _mixed("ascent_descent_in_distribution", "-w_f NLL(U) + w_r NLL(R)", "descent", "retain"),
        _mixed("ascent_kl_in_distribution", "-w_f NLL(U) + w_r KL(P_0 || P) on R", "kl", "retain"),
    )
)
"""The methods that come with the package: a study file that names none runs these."""

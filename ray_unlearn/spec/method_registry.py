"""The unlearning methods as data, without torch, so that a laptop can validate a study.

A method minimises a sum of terms, each a weight times a loss on documents of one split. The losses
are pure functions in `ray_unlearn.unlearn.methods.losses`. The registry says which terms and
hyperparameters a method has, so that specs, command line and report can name and check methods
without loading a model.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.spec.hyperparameters import (
    ANY,
    HYPERPARAMETERS,
    MIXING_HYPERPARAMETERS,
    NAME,
    TRAINING_HYPERPARAMETERS,
    Hyperparameter,
    Hyperparameters,
    ValueType,
    common_type,
    values_class,
)
from ray_unlearn.spec.method_modules import load_user_methods
from ray_unlearn.spec.method_terms import OTHER_ANSWERS, Labels, TermSpec, TrainedSplit
from ray_unlearn.spec.own_hyperparameters import (
    BETA,
    CONFIDENCE_POWER,
    DOUBT_POWER,
    GAMMA,
    LAYER_DEPTH,
    LOGIT_PENALTY,
    MISMATCH_WEIGHT,
    SHIFT,
    STEERING,
    TRAINED_LAYERS,
)

NOT_FOR_TERMS = ("utility",)
"""Names whose loss is another column."""
WITHOUT_DEFAULT = ("learning_rate", "steps")
"""Hyperparameters that every method uses and every search space names."""


@dataclass(frozen=True)
class Method:
    """One unlearning method: the terms it minimises and the hyperparameters it uses."""

    name: str
    loss: str
    """What is minimised, as a formula for people."""
    terms: tuple[TermSpec, ...]
    common: tuple[str, ...] = TRAINING_HYPERPARAMETERS
    """Which of the hyperparameters of all methods it uses."""
    own: tuple[Hyperparameter, ...] = ()
    """Those that it has beside them."""
    space: Mapping[str, Any] | None = None
    """Of a user's method, its search space beside the shared fragments; None: a file has it."""
    module: str = ""
    """The module that a user's method is defined in."""
    adapters: bool = False
    """It can train adapters alone: a study without `model.lora` is refused."""

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """What a search may choose for this method; anything else is refused."""
        return (*self.common, *(one.name for one in self.own))

    @cached_property
    def values(self) -> type[Hyperparameters]:
        """The class of its configurations: all hyperparameters with type, bounds and default."""
        return values_class(self.own)

    def own_values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A value for each of its own hyperparameters, the default where none is given.

        Raises:
            ValueError: a value of another type, or out of bounds.
        """
        try:
            values = self.values.model_validate(ANY | dict(given))
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"])
            raise ValueError(f"{place}: {problem['msg']}, got {problem['input']!r}") from None
        return {one.name: getattr(values, one.name) for one in self.own}

    @property
    def retain_set(self) -> TrainedSplit | None:
        """The split of the retain term; None for a method without retain data."""
        return next((term.split for term in self.terms if term.name == "retain"), None)

    @property
    def other_answers(self) -> tuple[Labels, ...]:
        """Which other answers to the forget set's prompts it asks for."""
        return tuple(term.labels for term in self.terms if term.labels in OTHER_ANSWERS)

    @property
    def mixed(self) -> bool:
        """True when the method trains on retain data beside the forget set."""
        return self.retain_set is not None

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
            if name not in known_hyperparameters():
                close = nearest(name, self.hyperparameters)
                raise UserError(f"{where}unknown hyperparameter {name!r}{close}")
            if name not in self.hyperparameters:
                raise UserError(
                    f"{where}`{name}`: {self.name} does not use it, so it has no effect; remove it"
                )


SPLITS: tuple[tuple[str, TrainedSplit, str], ...] = (
    ("general", "general_retain", "G"),
    ("in_distribution", "retain", "R"),
)
"""Where a retain term's documents come from: as method names say it, as data does, in formulas."""

_registered: dict[str, Method] = {}

METHODS: Mapping[str, Method] = MappingProxyType(_registered)
"""Every registered method by name, in the order of registration."""


def register(method: Method) -> Method:
    """Add a method to `METHODS`.

    Returns:
        The method.

    Raises:
        UserError: the name is taken or malformed, a hyperparameter is unknown, named twice or
            missing, or the terms have no forget term or two of one name.
    """
    place = f"method {method.name!r}"
    if not NAME.fullmatch(method.name):
        raise UserError(
            f"{place}: a name is up to 64 lower-case letters, digits and underscores, and begins "
            "with a letter"
        )
    if method.name in _registered:
        raise UserError(f"{place}: already registered; choose another name")
    _check_terms(method, place)
    _check_hyperparameters(method, place)
    _registered[method.name] = method
    return method


def _check_terms(method: Method, place: str) -> None:
    names = [term.name for term in method.terms]
    for name in names:
        if not NAME.fullmatch(name) or name in NOT_FOR_TERMS:
            raise UserError(
                f"{place}: a term cannot be named {name!r}; take lower-case letters, digits and "
                "underscores, beginning with a letter"
            )
        if names.count(name) > 1:
            raise UserError(f"{place}: two terms are named {name!r}; give each a name of its own")
    if "forget" not in names:
        raise UserError(f"{place}: no term is named 'forget'; add the one on the forget set")
    for term in method.terms:
        if term.weight is not None and term.weight not in method.hyperparameters:
            raise UserError(
                f"{place}: the weight `{term.weight}` of the {term.name} term is none of its "
                "`hyperparameters`; add it"
            )


def _check_hyperparameters(method: Method, place: str) -> None:
    used = method.hyperparameters
    for name in method.common:
        if name not in HYPERPARAMETERS:
            raise UserError(
                f"{place}: unknown hyperparameter {name!r}{nearest(name, HYPERPARAMETERS)}"
            )
    for one in method.own:
        if one.name in known_hyperparameters() and one.type is not value_type(one.name):
            raise UserError(
                f"{place}: the values of `{one.name}` are of type {one.type.__name__}, and "
                f"{value_type(one.name).__name__} in another method; give it another name"
            )
    for name in used:
        if used.count(name) > 1:
            raise UserError(f"{place}: hyperparameter {name!r} is named twice; keep one")
    for name in WITHOUT_DEFAULT:
        if name not in used:
            raise UserError(f"{place}: every method uses `{name}`; add it to `hyperparameters`")


def known_hyperparameters() -> tuple[str, ...]:
    """Names of all hyperparameters: of all methods, then those of single ones."""
    own = (one.name for method in METHODS.values() for one in method.own)
    return tuple(dict.fromkeys((*HYPERPARAMETERS, *own)))


def own_hyperparameters(methods: Iterable[str]) -> tuple[str, ...]:
    """Names of the hyperparameters that these methods have beside those of all, each once."""
    return tuple(dict.fromkeys(one.name for name in methods for one in method_named(name).own))


def value_type(name: str) -> ValueType:
    """The type of the values of one of `known_hyperparameters`; `str`: one of several options."""
    if name in HYPERPARAMETERS:
        return common_type(name)
    return next(one.type for method in METHODS.values() for one in method.own if one.name == name)


def method_named(name: str) -> Method:
    """The method called `name`, the user's own among them (`method_modules`).

    Raises:
        UserError: no such method; the message gives the nearest name.
    """
    if name not in METHODS:
        load_user_methods()
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}{nearest(name, METHODS)}")
    return METHODS[name]


def _alone(
    name: str, formula: str, loss: str, labels: Labels = "true", *own: Hyperparameter
) -> Method:
    """A method of a forget term alone."""
    return Method(name, formula, (TermSpec("forget", "forget", loss, labels),), own=own)


def _mixed(
    name: str,
    formula: str,
    loss: str,
    retain: str,
    split: TrainedSplit,
    *own: Hyperparameter,
    labels: Labels = "true",
) -> Method:
    """A forget term with a retain term beside it."""
    return Method(
        name,
        formula,
        (
            TermSpec("forget", "forget", loss, labels, "w_f"),
            TermSpec("retain", split, retain, weight="w_r"),
        ),
        (*TRAINING_HYPERPARAMETERS, *MIXING_HYPERPARAMETERS),
        own,
    )


PUBLISHED = tuple(
    register(method).name
    for method in (
        _alone("gradient_ascent", "-NLL(U)", "ascent"),
        _alone("random_labels", "CE(U, random labels)", "cross_entropy", "random"),
        _alone(
            "adversarial_samples",
            "CE(U, argmax_{a != x_t} P_0(a | x_<t))",
            "cross_entropy",
            "adversarial",
        ),
        *(
            _mixed(f"ascent_{name}_{where}", f"-w_f NLL(U) + w_r {formula}", "ascent", loss, split)
            for where, split, letter in SPLITS
            for name, loss, formula in (
                ("descent", "cross_entropy", f"NLL({letter})"),
                ("kl", "kl_divergence", f"KL(P_0 || P) on {letter}"),
            )
        ),
    )
)
"""The seven methods of Yao et al., ACL 2024: a study file that names none runs these."""

for _method in (
    _alone("npo", "NPO(U)", "npo", "true", BETA),
    _mixed(
        "npo_descent_in_distribution",
        "w_f NPO(U) + w_r NLL(R)",
        "npo",
        "cross_entropy",
        "retain",
        BETA,
    ),
    _mixed(
        "npo_kl_in_distribution",
        "w_f NPO(U) + w_r KL(P_0 || P) on R",
        "npo",
        "kl_divergence",
        "retain",
        BETA,
    ),
    _mixed(
        "simnpo_descent_in_distribution",
        "w_f SimNPO(U) + w_r NLL(R)",
        "simnpo",
        "cross_entropy",
        "retain",
        BETA,
        GAMMA,
    ),
    _mixed(
        "wga_descent_in_distribution",
        "-w_f NLL(U), tokens weighted by P^confidence_power, + w_r NLL(R)",
        "weighted_ascent",
        "cross_entropy",
        "retain",
        CONFIDENCE_POWER,
    ),
    _mixed(
        "satimp_descent_in_distribution",
        "-w_f NLL(U), tokens weighted by P^confidence_power (1 - P)^doubt_power, + w_r NLL(R)",
        "saturation_ascent",
        "cross_entropy",
        "retain",
        CONFIDENCE_POWER,
        DOUBT_POWER,
    ),
    _alone(
        "undial",
        "CE(U, softmax(z_0 - logit_penalty onehot(x_t)))",
        "undial",
        "true",
        LOGIT_PENALTY,
    ),
    _mixed(
        "undial_descent_in_distribution",
        "w_f CE(U, softmax(z_0 - logit_penalty onehot(x_t))) + w_r NLL(R)",
        "undial",
        "cross_entropy",
        "retain",
        LOGIT_PENALTY,
    ),
    _alone("dpo", "DPO(U, alternative answers preferred)", "dpo", "alternative", BETA),
    _mixed(
        "dpo_descent_in_distribution",
        "w_f DPO(U, alternative answers preferred) + w_r NLL(R)",
        "dpo",
        "cross_entropy",
        "retain",
        BETA,
        labels="alternative",
    ),
    _alone("idk", "CE(U's prompts, alternative answers)", "cross_entropy", "alternative"),
    _mixed(
        "idk_descent_in_distribution",
        "w_f CE(U's prompts, alternative answers) + w_r NLL(R)",
        "cross_entropy",
        "cross_entropy",
        "retain",
        labels="alternative",
    ),
    *(
        _mixed(
            name,
            f"w_f ||h - steering u||^2 on U + w_r ||h - h_0||^2 on {letter}, h of one layer",
            "steered",
            "unmoved",
            split,
            LAYER_DEPTH,
            TRAINED_LAYERS,
            STEERING,
        )
        for name, (_, split, letter) in zip(("rmu_general", "rmu"), SPLITS, strict=True)
    ),
    replace(
        _mixed(
            "residual_alignment",
            "w_f ||r - shift u||^2 on U + w_r ||r||^2 on R, r = alpha/rank B A x",
            "shifted_residuals",
            "zero_residuals",
            "retain",
            SHIFT,
        ),
        adapters=True,
    ),
    *(
        Method(
            name,
            "-w_f NLL(U) + w_mismatch CE(U's prompts, answers of R) + w_r KL(P_0 || P) on "
            + letter,
            (
                TermSpec("forget", "forget", "ascent", weight="w_f"),
                TermSpec("mismatch", "forget", "cross_entropy", "mismatched", "w_mismatch"),
                TermSpec("retain", split, "kl_divergence", weight="w_r"),
            ),
            (*TRAINING_HYPERPARAMETERS, *MIXING_HYPERPARAMETERS),
            (MISMATCH_WEIGHT,),
        )
        for name, (_, split, letter) in zip(("llmu_general", "llmu"), SPLITS, strict=True)
    ),
):
    register(_method)

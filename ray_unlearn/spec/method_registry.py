"""The unlearning methods by name, without torch, so that a laptop can validate a study.

A method minimises a sum of terms, each a weight times a loss on documents of one split. The losses
are pure functions in `ray_unlearn.unlearn.methods.losses`. The registry says which terms and
hyperparameters a method has, so that specs, command line and report can name and check methods
without loading a model.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.spec.hyperparameters import HYPERPARAMETERS, NAME, ValueType, common_type
from ray_unlearn.spec.known_elsewhere import METHOD_NAMES, SETTINGS, elsewhere
from ray_unlearn.spec.method_definition import Method
from ray_unlearn.spec.method_modules import load_user_methods
from ray_unlearn.spec.shipped_methods import BESIDE_THEM, PAPER

NOT_FOR_TERMS = ("utility",)
"""Names whose loss is another column."""
WITHOUT_DEFAULT = ("learning_rate", "steps")
"""Hyperparameters that every method uses and every search space names."""

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
        known = elsewhere(METHOD_NAMES, name.casefold()) or nearest(name, METHODS)
        raise UserError(f"unknown method {name!r}{known}")
    return METHODS[name]


def check_uses(method: Method, names: Iterable[str], place: str = "") -> None:
    """Refuse hyperparameters that have no effect on a method.

    Args:
        method: the method.
        names: names of hyperparameters.
        place: where they were given, for the message.

    Raises:
        UserError: one of `names` is unknown, or the method does not use it.
    """
    where = f"{place}: " if place else ""
    for name in names:
        if name not in known_hyperparameters():
            close = elsewhere(SETTINGS, name) or nearest(name, method.hyperparameters)
            raise UserError(f"{where}unknown hyperparameter {name!r}{close}")
        if name not in method.hyperparameters:
            raise UserError(
                f"{where}`{name}`: {method.name} does not use it, so it has no effect"
                f"{elsewhere(SETTINGS, name) or '; remove it'}"
            )


PUBLISHED = tuple(register(method).name for method in PAPER)
"""The seven methods of Yao et al., ACL 2024: a study file that names none runs these."""

for _method in BESIDE_THEM:
    register(_method)

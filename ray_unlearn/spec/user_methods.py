"""A user's own unlearning methods: one function in a module of theirs.

`method_modules` says how the module is found. A digest of its source is part of the study.
"""

import hashlib
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.hyperparameters import (
    MIXING_HYPERPARAMETERS,
    TRAINING_HYPERPARAMETERS,
    Hyperparameter,
)
from ray_unlearn.spec.method_definition import Method
from ray_unlearn.spec.method_modules import ENVIRONMENT, named_modules
from ray_unlearn.spec.method_registry import method_named, register
from ray_unlearn.spec.method_terms import Loss, Needs, TermSpec
from ray_unlearn.spec.shipped_methods import SPLITS

RETAIN = {"descent": "cross_entropy", "kl": "kl_divergence"}

Function = TypeVar("Function", bound=Callable[..., Any])


def method(
    *,
    needs: Needs = "logprobs",
    retain: Literal["descent", "kl"] | None = None,
    retain_from: Literal["in_distribution", "general"] = "in_distribution",
    terms: Sequence[TermSpec] = (),
    hyperparameters: Sequence[Hyperparameter] = (),
    space: Mapping[str, Any] | None = None,
) -> Callable[[Function], Function]:
    """Make a function an unlearning method of the same name.

    The function is the loss on the forget set: from `given` (what it needs, see
    `unlearn.methods.losses.Given`) and `chosen` (the trial's hyperparameters) to a scalar tensor,
    which is minimised. It is pure: the same for the same tensors. The first line of its docstring
    is the formula that `ray-unlearn methods` shows.

    Args:
        needs: what the loss is computed from.
        retain: a second term beside it, weighted by w_r, the loss itself by w_f.
        retain_from: where that term's documents come from.
        terms: more terms, each with a name, a split, a loss (a name of ours, or a `Loss` of
            another function), labels and the hyperparameter that weights it.
        hyperparameters: what the function reads of `chosen`, beside those of all methods.
        space: their search space, and others that differ from the shared fragments, as in a search
            space file.

    Raises:
        UserError: the name is taken or malformed, a hyperparameter is named twice or is of another
            type in another method, or the function is in a script and not in a module.

    Examples:
        >>> cap = ru.Hyperparameter("cap", 8.0, "nats at which a token is let go", above=0)
        >>> @ru.method(needs="logprobs", retain="descent", hyperparameters=[cap])
        ... def capped_ascent(given, chosen):
        ...     '''-w_f min(NLL, cap) on U + w_r NLL(R)'''
        ...     return given.values.clamp(min=-chosen.cap).sum() / given.targets
    """

    def made(function: Function) -> Function:
        name, module = function.__name__, function.__module__
        if module == "__main__":
            raise UserError(
                f"method {name!r}: it is defined in a script, which other processes cannot import; "
                f"put it into a module (my_methods.py), and name that in {ENVIRONMENT}"
            )
        whole = [TermSpec("forget", "forget", Loss(function, needs))]
        used: tuple[str, ...] = TRAINING_HYPERPARAMETERS
        if retain is not None:
            split = {where: split for where, split, _ in SPLITS}[retain_from]
            whole = [
                TermSpec("forget", "forget", Loss(function, needs), weight="w_f"),
                TermSpec("retain", split, RETAIN[retain], weight="w_r"),
            ]
            used += MIXING_HYPERPARAMETERS
        own, searched = tuple(hyperparameters), dict(space or {})
        formula = (function.__doc__ or name).strip().splitlines()[0]
        register(Method(name, formula, (*whole, *terms), used, own, searched, module))
        return function

    return made


def source_digests(methods: Collection[str]) -> dict[str, str]:
    """By name, digests of the source files of a user's methods among these; of ours none."""
    own = {name: module for name in methods if (module := method_named(name).module)}
    return {name: _digest(module) for name, module in sorted(own.items())}


def modules_of(methods: Collection[str]) -> str:
    """What other processes must have in `RAY_UNLEARN_METHODS` for these methods."""
    own = (module for name in methods if (module := method_named(name).module))
    return ",".join(dict.fromkeys([*named_modules(), *own]))


def shipped_files(methods: Collection[str]) -> list[Path]:
    """Files and package folders that other nodes need for these methods.

    An installed module is not among them: it is on the nodes as this package is.
    """
    found = {module.partition(".")[0] for name in methods if (module := method_named(name).module)}
    paths = [path for module in sorted(found) if (path := _source(module)) is not None]
    packages = [path.parent if path.name == "__init__.py" else path for path in paths]
    return [path for path in packages if not {"site-packages", "dist-packages"} & set(path.parts)]


def _source(module: str) -> Path | None:
    path = getattr(sys.modules[module], "__file__", None)
    return None if path is None else Path(path).resolve()


def _digest(module: str) -> str:
    path = _source(module)
    return "" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()[:12]

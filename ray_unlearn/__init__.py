"""Hyperparameter studies of machine unlearning for pre-trained language models.

    import ray_unlearn as ru

    study = ru.run("my_study.yaml", "results/my-study", lanes=2)
    print(study.best)

Importing the package loads nothing else: each name loads what it needs at its first use. See
`ray_unlearn.api`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray_unlearn.api import (
        Guide,
        Report,
        Study,
        guidelines,
        memorise,
        methods,
        narrow,
        open,
        report,
        run,
    )
    from ray_unlearn.spec.errors import StorageError, UserError
    from ray_unlearn.spec.hyperparameters import Hyperparameter
    from ray_unlearn.spec.method_terms import Loss, TermSpec
    from ray_unlearn.spec.user_methods import method

__version__ = "0.1.0"

__all__ = [
    "Guide",
    "Hyperparameter",
    "Loss",
    "Report",
    "StorageError",
    "Study",
    "TermSpec",
    "UserError",
    "__version__",
    "guidelines",
    "memorise",
    "method",
    "methods",
    "narrow",
    "open",
    "report",
    "run",
]

_HOMES = {
    "Hyperparameter": "spec.hyperparameters",
    "Loss": "spec.method_terms",
    "StorageError": "spec.errors",
    "TermSpec": "spec.method_terms",
    "UserError": "spec.errors",
    "method": "spec.user_methods",
}

if not TYPE_CHECKING:  # a type checker must see a misspelt name as an error

    def __getattr__(name: str) -> object:
        """A public name, imported at its first use (PEP 562)."""
        from importlib import import_module

        if name not in __all__:
            from ray_unlearn.spec.known_elsewhere import FUNCTIONS, elsewhere

            known = elsewhere(FUNCTIONS, name)
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}{known}")
        home = _HOMES.get(name, "api")
        found = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

"""Modules with a user's own methods: named by the user's environment, never by a study.

They are imported by name, in each process of a study that meets a method it does not know: named in
the environment variable `RAY_UNLEARN_METHODS`, or an entry point `ray_unlearn.methods` of an
installed package. A study file and a study's storage are data, and name no code.
"""

import os
from importlib import import_module
from importlib.metadata import entry_points

from ray_unlearn.spec.errors import UserError

ENVIRONMENT = "RAY_UNLEARN_METHODS"
"""Names of modules, with commas between them."""
GROUP = "ray_unlearn.methods"


def named_modules() -> tuple[str, ...]:
    """What the environment names."""
    parts = (part.strip() for part in os.environ.get(ENVIRONMENT, "").split(","))
    return tuple(part for part in parts if part)


def load_user_methods() -> None:
    """Import the modules with a user's methods, once in a process.

    Raises:
        UserError: one cannot be imported.
    """
    installed = [point.module for point in entry_points(group=GROUP)]
    for name in (*named_modules(), *installed):
        try:
            import_module(name)
        except UserError as error:
            raise UserError(f"{ENVIRONMENT}: {name}: {error}") from None
        except Exception as error:  # whatever a user's module raises
            raise UserError(
                f"{ENVIRONMENT}: {name} cannot be imported: {type(error).__name__}: {error}; is it "
                "on PYTHONPATH, or installed, on each node?"
            ) from None

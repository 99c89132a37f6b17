"""`-v`: what is done, on stderr, as it is done."""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Annotated, Any

import typer

Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="log what is read and done to stderr")
]


def log_to_stderr() -> None:
    """Show the package's log, each line with the seconds since the start and the module."""
    logger = logging.getLogger("ray_unlearn")
    if any(getattr(handler, "ours", False) for handler in logger.handlers):
        return
    handler = logging.StreamHandler()
    handler.ours = True  # type: ignore[attr-defined]
    handler.setFormatter(_Seconds("%(seconds)7.2f s  %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


class _Seconds(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.seconds = record.relativeCreated / 1000
        return super().format(record)


def with_verbose(command: Callable[..., None]) -> Callable[..., None]:
    """The command with `-v`, which people write behind its name as often as before it."""
    own = inspect.signature(command)

    @functools.wraps(command)
    def wrapped(*, verbose: bool = False, **given: Any) -> None:
        if verbose:
            log_to_stderr()
        command(**given)

    added = inspect.Parameter(
        "verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Verbose
    )
    parameters = [*own.parameters.values(), added]
    # Typer reads both.
    wrapped.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    )
    wrapped.__annotations__ = {one.name: one.annotation for one in parameters}
    return wrapped

"""`ray-unlearn`: parse, call, show.

Logs and progress go to stderr, results to stdout.
"""

import os
import re
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ray_unlearn.cli import COMMANDS, HEADINGS, command_named
from ray_unlearn.cli.verbose import Verbose, log_to_stderr, with_verbose
from ray_unlearn.spec.errors import EXIT_INTERRUPTED, UserError
from ray_unlearn.spec.known_elsewhere import COMMANDS as COMMANDS_ELSEWHERE
from ray_unlearn.spec.known_elsewhere import FLAGS, IN_THE_FILE, elsewhere
from ray_unlearn.spec.printable import printable

SETTINGS: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


class _Commands(MutableMapping[str, Any]):
    """The commands by name, each made when it is asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            if name not in COMMANDS:
                raise KeyError(name)
            one = typer.Typer(add_completion=False, **SETTINGS)
            one.command(name, cls=_Command)(with_verbose(command_named(name)))
            self._made[name] = typer.main.get_command(one)
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Command(TyperCommand):
    """A command that answers options and overrides of other programs with what they are here."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and say more where that fails."""
        given = list(args)  # click empties it
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # the parser's, whichever click it is; raised again
            if hasattr(error, "message") and (known := words_of_others(given)):
                error.message = f"{str(error.message).rstrip('. ')}{known}"
            raise


def words_of_others(arguments: Sequence[str]) -> str:
    """What the first option of Optuna, or the first override of Hydra, is here; empty: none."""
    before = ""
    for one in arguments:
        name = one.partition("=")[0]
        if name in FLAGS:
            return elsewhere(FLAGS, name)
        if OVERRIDE.match(one) and not before.startswith("-"):
            return f"; here `{one}` is {IN_THE_FILE}"
        before = one
    return ""


OVERRIDE = re.compile(r"[+~]{0,2}[\w./@]+=")
"""An argument of Hydra, such as `trainer=GradAscent`."""


class _Group(TyperGroup):
    """The commands under headings, without importing any of them for it."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = _Commands()

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command; one of another program is answered with ours."""
        if args and (known := elsewhere(COMMANDS_ELSEWHERE, args[0])):
            ctx.fail(f"No such command {args[0]!r}{known}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names, in the order of `--help`."""
        return list(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each group with whole sentences; click would cut them at the line's end."""
        for heading, commands in HEADINGS.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [(name, entry.summary) for name, entry in commands.items()], col_max=10
                )

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Complete names without making the commands, which would import them all."""
        made, self.commands = (
            self.commands,
            {name: TyperCommand(name, help=entry.summary) for name, entry in COMMANDS.items()},
        )
        try:
            return super().shell_complete(ctx, incomplete)
        finally:
            self.commands = made


app = typer.Typer(name="ray-unlearn", cls=_Group, no_args_is_help=True, **SETTINGS)


def _show_version(asked: bool) -> None:
    """Print the versions that a report of a fault needs, from what is installed."""
    if not asked:
        return
    from importlib.metadata import PackageNotFoundError, version
    from platform import python_version

    from ray_unlearn import __version__

    parts = [f"ray-unlearn {__version__}", f"Python {python_version()}"]
    for name in ("torch", "ray"):
        try:
            parts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            parts.append(f"no {name}")
    print(", ".join(parts))
    raise typer.Exit


@app.callback(epilog="First: ray-unlearn plan STUDY.yaml, then run; COMMAND -h shows its options.")
def _whole(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="print versions and exit"
        ),
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Hyperparameter studies of machine unlearning for pre-trained language models."""
    if verbose:
        log_to_stderr()


def main() -> None:
    """Run the command line.

    A user's error ends in one plain message and its exit code, never in a traceback.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        app()
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)

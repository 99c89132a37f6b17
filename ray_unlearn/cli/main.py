"""`ray-unlearn`: parse, call, show. Logs and progress go to stderr, results to stdout."""

import os
import sys

import typer

from ray_unlearn.spec.errors import EXIT_INTERRUPTED, UserError

app = typer.Typer(
    name="ray-unlearn",
    help="Hyperparameter studies of machine unlearning for pre-trained language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line; user errors end in one plain message and their exit code, never in a
    traceback."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from ray_unlearn.cli import (  # noqa: F401  (they add their commands to `app`)
        confirm_command,
        diff_command,
        study_commands,
        table_commands,
        trial_commands,
        verify_command,
    )

    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)

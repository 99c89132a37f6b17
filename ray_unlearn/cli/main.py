"""`ray-unlearn`: parse, call, show.

Logs and progress go to stderr, results to stdout.
"""

import os
import sys
from collections.abc import Callable

import typer

from ray_unlearn.cli.attack_command import attack_command
from ray_unlearn.cli.confirm_command import confirm_command
from ray_unlearn.cli.diff_command import diff_command
from ray_unlearn.cli.doctor_command import doctor_command
from ray_unlearn.cli.evaluate_command import evaluate_command
from ray_unlearn.cli.memorise_command import memorise_command
from ray_unlearn.cli.plan_command import plan_command
from ray_unlearn.cli.study_commands import resume_command, run_command, status_command
from ray_unlearn.cli.table_commands import (
    methods_command,
    report_command,
    schema_command,
    spaces_command,
)
from ray_unlearn.cli.trial_commands import export_command, unlearn_command
from ray_unlearn.cli.verify_command import migrate_command, verify_command
from ray_unlearn.cli.why_command import why_command
from ray_unlearn.spec.errors import EXIT_INTERRUPTED, UserError
from ray_unlearn.spec.printable import printable

COMMANDS: dict[str, Callable[..., None]] = {
    "run": run_command,
    "resume": resume_command,
    "status": status_command,
    "plan": plan_command,
    "report": report_command,
    "why": why_command,
    "confirm": confirm_command,
    "attack": attack_command,
    "export": export_command,
    "evaluate": evaluate_command,
    "verify": verify_command,
    "migrate": migrate_command,
    "diff": diff_command,
    "unlearn": unlearn_command,
    "memorise": memorise_command,
    "methods": methods_command,
    "spaces": spaces_command,
    "schema": schema_command,
    "doctor": doctor_command,
}
"""The commands in the order of `--help`, which stays fast as each imports what it needs itself."""

app = typer.Typer(
    name="ray-unlearn",
    help="Hyperparameter studies of machine unlearning for pre-trained language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


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

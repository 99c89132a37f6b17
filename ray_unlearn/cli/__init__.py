"""The command line. A command's module is imported when the command is used: `--help` is fast."""

from collections.abc import Callable
from typing import NamedTuple


class CommandEntry(NamedTuple):
    """Where a command is, and what `--help` says of it."""

    module: str
    function: str
    summary: str
    """The first line of the function's docstring, here so that `--help` need not import it."""


STUDIES, RESULTS, MODELS, HELP = "Run a study", "Look at results", "Make models", "Find out"

HEADINGS: dict[str, dict[str, CommandEntry]] = {
    STUDIES: {
        "demo": CommandEntry(
            "demo_command",
            "demo_command",
            "See it work: seven methods on Shakespeare scenes, a report, and what to do next.",
        ),
        "init": CommandEntry(
            "init_command",
            "init_command",
            "Write a short study file: from a model and documents to forget, with ranges for its "
            "size.",
        ),
        "plan": CommandEntry(
            "plan_command",
            "plan_command",
            "What a study will take, what its checks find, and what it can find out. Starts "
            "nothing.",
        ),
        "run": CommandEntry(
            "study_commands",
            "run_command",
            "Run a study from its file to its result table. Ctrl-C stops it cleanly; `resume` goes "
            "on.",
        ),
        "resume": CommandEntry(
            "study_commands",
            "resume_command",
            "Go on with a stopped study, or extend a finished one; finished trials are never run "
            "again.",
        ),
        "status": CommandEntry(
            "study_commands",
            "status_command",
            "Where a study stands: outcomes and the best configuration of each method (selection "
            "half).",
        ),
        "watch": CommandEntry(
            "watch_command",
            "watch_command",
            "Watch a study until its run has ended: in the terminal, or as a page for a browser.",
        ),
        "log": CommandEntry(
            "log_command",
            "log_command",
            "Send a study to W&B or MLflow: one run per trial, while it runs or long after.",
        ),
        "ls": CommandEntry(
            "ls_command",
            "ls_command",
            "List the studies below a folder or an address: state, trials, best score, size.",
        ),
        "confirm": CommandEntry(
            "confirm_command",
            "confirm_command",
            "Run the best configurations of a study again with new seeds.",
        ),
        "verify": CommandEntry(
            "verify_command",
            "verify_command",
            "Check that a study is whole: rows, outcomes, trials, best weights, leftovers.",
        ),
        "migrate": CommandEntry(
            "verify_command",
            "migrate_command",
            "Give a study in an object store, written by an older version, the form of this one.",
        ),
    },
    RESULTS: {
        "report": CommandEntry(
            "table_commands",
            "report_command",
            "Write the report: guidelines with their evidence, one HTML page, the same in "
            "Markdown.",
        ),
        "why": CommandEntry(
            "why_command",
            "why_command",
            "Show what stands behind a sentence of a report, and compute it again.",
        ),
        "diff": CommandEntry(
            "diff_command", "diff_command", "Compare the claims of two guideline files."
        ),
        "attack": CommandEntry(
            "attack_command",
            "attack_command",
            "Attack the model of a trial: relearning, rounded weights, prompts.",
        ),
        "evaluate": CommandEntry(
            "evaluate_command",
            "evaluate_command",
            "Run lm-evaluation-harness on a trial's model, on vanilla and on the retrained model.",
        ),
    },
    MODELS: {
        "export": CommandEntry(
            "trial_commands",
            "export_command",
            "Write the result table, or the model of a trial.",
        ),
        "unlearn": CommandEntry(
            "trial_commands",
            "unlearn_command",
            "Run one trial, without a search and without Ray, and show its evaluation rows.",
        ),
        "memorise": CommandEntry(
            "memorise_command",
            "memorise_command",
            "Make a model learn documents, and its twin without those to be forgotten: a ready "
            "study.",
        ),
    },
    HELP: {
        "doctor": CommandEntry(
            "doctor_command",
            "doctor_command",
            "What this machine has, and what would be in the way, also of a study. Starts nothing.",
        ),
        "methods": CommandEntry(
            "table_commands", "methods_command", "The unlearning methods and their losses."
        ),
        "spaces": CommandEntry(
            "table_commands",
            "spaces_command",
            "The search spaces: each method's hyperparameters with range, scale and role.",
        ),
        "schema": CommandEntry(
            "table_commands",
            "schema_command",
            "JSON Schema of the files that people write, for editors, and of `guidelines.json`.",
        ),
    },
}
"""By the heading of `--help`, the commands in its order."""

COMMANDS = {name: entry for group in HEADINGS.values() for name, entry in group.items()}


def command_named(name: str) -> Callable[..., None]:
    """The function of a command; its module is imported."""
    from importlib import import_module

    entry = COMMANDS[name]
    found: Callable[..., None] = getattr(
        import_module(f"{__name__}.{entry.module}"), entry.function
    )
    return found

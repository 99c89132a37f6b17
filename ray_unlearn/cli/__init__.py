"""The command line. A command's module is imported when the command is used: `--help` is fast."""

from collections.abc import Callable
from typing import NamedTuple


class Entry(NamedTuple):
    """Where a command is, and what `--help` says of it."""

    module: str
    function: str
    summary: str
    """The first line of the function's docstring, here so that `--help` need not import it."""


STUDIES, RESULTS, MODELS, HELP = "Run a study", "Look at results", "Make models", "Find out"

COMMANDS: dict[str, dict[str, Entry]] = {
    STUDIES: {
        "plan": Entry(
            "plan_command",
            "plan_command",
            "What a study will take, what its checks find, and what it can find out. Starts "
            "nothing.",
        ),
        "run": Entry(
            "study_commands",
            "run_command",
            "Run a study from its file to its result table. Ctrl-C stops it cleanly; `resume` goes "
            "on.",
        ),
        "resume": Entry(
            "study_commands",
            "resume_command",
            "Go on with a stopped study, or extend a finished one; finished trials are never run "
            "again.",
        ),
        "status": Entry(
            "study_commands",
            "status_command",
            "Where a study stands: outcomes and the best configuration of each method (selection "
            "half).",
        ),
        "ls": Entry(
            "ls_command",
            "ls_command",
            "List the studies below a folder or an address: state, trials, best score, size.",
        ),
        "confirm": Entry(
            "confirm_command",
            "confirm_command",
            "Run the best configurations of a study again with new seeds.",
        ),
        "verify": Entry(
            "verify_command",
            "verify_command",
            "Check that a study is whole: rows, outcomes, trials, best weights, leftovers.",
        ),
        "migrate": Entry(
            "verify_command",
            "migrate_command",
            "Give a study in an object store, written by an older version, the form of this one.",
        ),
    },
    RESULTS: {
        "report": Entry(
            "table_commands",
            "report_command",
            "Write the report: guidelines with their evidence, one HTML page, the same in "
            "Markdown.",
        ),
        "why": Entry(
            "why_command",
            "why_command",
            "Show what stands behind a sentence of a report, and compute it again.",
        ),
        "diff": Entry("diff_command", "diff_command", "Compare the claims of two guideline files."),
        "attack": Entry(
            "attack_command",
            "attack_command",
            "Attack the model of a trial: relearning, rounded weights, prompts.",
        ),
        "evaluate": Entry(
            "evaluate_command",
            "evaluate_command",
            "Run lm-evaluation-harness on a trial's model, on vanilla and on the retrained model.",
        ),
    },
    MODELS: {
        "export": Entry(
            "trial_commands",
            "export_command",
            "Write the result table, or the model of a trial.",
        ),
        "unlearn": Entry(
            "trial_commands",
            "unlearn_command",
            "Run one trial, without a search and without Ray, and show its evaluation rows.",
        ),
        "memorise": Entry(
            "memorise_command",
            "memorise_command",
            "Make a model learn documents, and its twin without those to be forgotten: a ready "
            "study.",
        ),
    },
    HELP: {
        "doctor": Entry(
            "doctor_command",
            "doctor_command",
            "What this machine has, and what would be in the way, also of a study. Starts nothing.",
        ),
        "methods": Entry(
            "table_commands", "methods_command", "The unlearning methods and their losses."
        ),
        "spaces": Entry(
            "table_commands",
            "spaces_command",
            "The search spaces: each method's hyperparameters with range, scale and role.",
        ),
        "schema": Entry(
            "table_commands",
            "schema_command",
            "JSON Schema of the files that people write, for editors, and of `guidelines.json`.",
        ),
    },
}
"""By the heading of `--help`, the commands in its order."""

ENTRIES = {name: entry for group in COMMANDS.values() for name, entry in group.items()}


def command_named(name: str) -> Callable[..., None]:
    """The function of a command; its module is imported."""
    from importlib import import_module

    entry = ENTRIES[name]
    found: Callable[..., None] = getattr(
        import_module(f"{__name__}.{entry.module}"), entry.function
    )
    return found

"""The command `diff`: how the claims of two guideline files differ."""

from pathlib import Path
from typing import Annotated

import typer

from ray_unlearn.cli.show import Json, print_json, print_line, print_table, say
from ray_unlearn.spec.guideline_file import load_guidelines


def diff_command(
    before: Annotated[Path, typer.Argument(help="older guidelines.json", show_default=False)],
    after: Annotated[Path, typer.Argument(help="newer guidelines.json", show_default=False)],
    json: Json = False,
) -> None:
    """Compare the claims of two guideline files.

    Each is new, tightened, widened, moved, contradicted or withdrawn."""
    from dataclasses import asdict

    from ray_unlearn.analysis.guidelines.guideline_diff import compare, score_differences

    old, new = load_guidelines(before), load_guidelines(after)
    found = compare(old, new)
    for difference in score_differences(old.score, new.score):
        say(difference)
    if json:
        print_json([asdict(difference) for difference in found])
        return
    if not found:
        print_line("neither file claims anything")
        return
    print_table(["change", "claim"], [(difference.change, difference.text) for difference in found])

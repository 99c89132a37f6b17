"""The command `demo`: a whole study and its report, without data, model or network."""

import os
import shlex
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_unlearn.cli.options import with_run_options
from ray_unlearn.cli.show import four_digits, print_table, say
from ray_unlearn.cli.study_commands import finish_run, show_study
from ray_unlearn.spec.space_file import packaged_folder

if TYPE_CHECKING:
    from ray_unlearn.api import Report, Study

SHOWN = {
    "forget set": "forget_ppl",
    "kept: other scenes": "retain_ppl_reporting",
    "kept: other text": "general_ppl_reporting",
}
"""Perplexities that a newcomer compares models by: what was to be forgotten, what was not."""


@with_run_options
def demo_command(
    storage: Annotated[
        str | None,
        typer.Option(
            help="where the study lives: a directory or s3://, gs://, abfss://; default: a new "
            "folder results/demo-<time>"
        ),
    ] = None,
    *,
    options: dict[str, Any],
) -> None:
    """See it work: seven methods on Shakespeare scenes, a report, and what to do next.

    A study of minutes, whose text and small models come with the package; no network is needed.
    Ctrl-C stops it cleanly."""
    # Before torch is loaded: two spinning threads make a small model ten times slower.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from ray_unlearn.api import report, run

    place = storage or f"results/demo-{datetime.now():%Y%m%d-%H%M%S}"
    say(f"a study of seven methods on two lanes, in {place}; the report follows")
    study = run(packaged_folder("studies") / "demo.yaml", place, **options)
    assert study.last_run is not None
    if study.last_run.interrupted or not study.trials["score_selection"].notna().any():
        finish_run(study, json=False)
    show_study(study.status(), json=False, ended=True)
    say("writing the report ...")
    _show_outcome(study, report(study))
    raise typer.Exit(study.last_run.exit_code)


def _show_outcome(study: "Study", written: "Report") -> None:
    """Print what the best model has forgotten and kept, what to run, and where to go on."""
    from ray_unlearn.analysis.report.recommended_section import recommendation_text

    best = study.best
    rows: dict[str, Any] = {row["baseline"]: row for row in study.baselines.to_dict("records")}
    target = four_digits(rows["vanilla"]["approximate_ppl_reporting"])
    named = {
        "before (vanilla)": rows["vanilla"],
        f"after {best.method}, trial {best.number}": best.metrics,
        "retrained without the forget set": rows["exact_retrain"],
    }
    print_table(
        ["perplexity of the model", *SHOWN],
        [(name, *(row[column] for column in SHOWN.values())) for name, row in named.items()],
        title="What was forgotten and kept: the forget set should become as surprising as text "
        f"that the model never saw ({target}), and the rest stay as it was",
    )
    for recommended in written.guide.recommendations[:1]:
        print(recommendation_text(recommended, written.guide.file.score))
    place = shlex.quote(study.location)
    print(
        "Next:\n"
        f"  the report, in a browser:            {written.page}\n"
        f"  does it hold with other seeds?       ray-unlearn confirm {place}\n"
        f"  the unlearned model as a folder:     ray-unlearn export {place} --trial best -o model\n"
        f"  can what it forgot be brought back?  ray-unlearn attack {place}\n"
        f"  more trials, so more is claimed:     ray-unlearn resume {place} --trials 10"
    )

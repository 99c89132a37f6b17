"""Commands on studies: run, resume, status."""

from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ray_unlearn.cli.options import Likely, Location, SpaceFrom, StudyFile, with_run_options
from ray_unlearn.cli.show import (
    Json,
    failure_line,
    print_json,
    print_line,
    print_table,
    print_without_result,
    say,
)
from ray_unlearn.spec.bounds import MOST_TRIALS
from ray_unlearn.spec.row_tasks import TASK_COLUMN

if TYPE_CHECKING:
    from ray_unlearn.api import Study
    from ray_unlearn.execution.study import StudyResult
    from ray_unlearn.store.status import Status

SHOWN_NOTES = 8


@with_run_options
def run_command(
    study: StudyFile,
    storage: Annotated[
        str | None,
        typer.Option(
            help="where the study lives: a directory or s3://, gs://, abfss://; default: "
            "results/<name>"
        ),
    ] = None,
    go_on: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="if the study is there already, go on with it (with the file's operations)",
        ),
    ] = False,
    space_from: SpaceFrom = None,
    likely: Likely = False,
    *,
    options: dict[str, Any],
    json: Json = False,
) -> None:
    """Run a study from its file to its result table. Ctrl-C stops it cleanly; `resume` goes on."""
    from ray_unlearn.api import run

    done = run(study, storage, resume=go_on, space_from=space_from, likely=likely, **options)
    finish_run(done, json)


@with_run_options
def resume_command(
    location: Location,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_TRIALS,
            help="add so many trials of each method to the study, finished or not",
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="run trials again that failed")
    ] = False,
    *,
    options: dict[str, Any],
    json: Json = False,
) -> None:
    """Go on with a stopped study, or extend a finished one; finished trials are never run again."""
    from ray_unlearn.api import Study

    study = Study(location)
    study.resume(trials, retry_failed=retry_failed, **options)
    finish_run(study, json)


def status_command(
    location: Location,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="keep looking until the run has ended; Ctrl-C leaves, the study goes on"
        ),
    ] = False,
    every: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="with --watch: seconds between two looks")
    ] = 2.0,
    json: Annotated[
        bool,
        typer.Option(
            "--json", help="print JSON for scripts; with --watch a line of it for each change"
        ),
    ] = False,
) -> None:
    """Where a study stands: outcomes and the best configuration of each method (selection half)."""
    from ray_unlearn.api import Study

    if watch:
        watch_study(location, every, json)
    else:
        show_study(Study(location).status(), json)


def watch_study(location: str, every_s: float, json: bool) -> None:
    """Show a study in the terminal until its run has ended (see `watch.watch`)."""
    from ray_unlearn.cli.watch import watch
    from ray_unlearn.store.status import followed

    with followed(location) as follower:
        watch(follower, every_s, json)


def finish_run(study: "Study", json: bool) -> NoReturn:
    """Show a run's results and, in the last line, how it ended and what to do next."""
    result = study.last_run
    assert result is not None
    show_study(study.status(), json, ended=True)
    if not json:
        say(_last_line(result))
    raise typer.Exit(result.exit_code)


def _last_line(result: "StudyResult") -> str:
    if result.interrupted:
        return f"stopped; go on with: ray-unlearn resume {result.location}"
    if result.exit_code:
        return failure_line(result)
    return f"done; report with: ray-unlearn report {result.location}"


BEST = ("method", "trial", "learning rate", "updates", "score", "forget ppl", "target ppl")


def show_study(found: "Status", json: bool, ended: bool = False) -> None:
    """Show a study's state; after a run that has just `ended`, without the line on its driver."""
    from ray_unlearn.store.status_words import driver_in_words

    if json:
        print_json(found.as_json())
        return
    tasks = dict.fromkeys(name for best in found.best for name in best.tasks)
    print_table(
        [*BEST, *(name.removeprefix(TASK_COLUMN) for name in tasks)],
        [
            (
                *(b.method, b.trial_id, b.learning_rate, b.where, b.score, b.forget_ppl),
                *(b.target_ppl, *(b.tasks.get(name, "") for name in tasks)),
            )
            for b in found.best
        ],
        title=f"{found.name}: best of each method so far (selection half; score: lower is better)",
    )
    outcomes = (
        ", ".join(f"{count} {name}" for name, count in found.outcomes.items() if count)
        or "none finished"
    )
    print_line(
        f"{found.finished} trials finished: {outcomes}; {found.unfinished} unfinished; "
        f"{found.rows} evaluation rows"
    )
    if found.feasible:
        print_line(found.feasible)
    print_without_result(found.outcomes, found.reasons)
    if (said := driver_in_words(found)) and not ended:
        print_line(said)
    for problem in found.live.problems if found.live else []:
        print_line(f"problem: {problem}")
    if ended:  # those of this run were said when they came
        return
    if len(found.notes) > SHOWN_NOTES:
        print_line(f"{len(found.notes)} notes, the last {SHOWN_NOTES} of them (`--json` has all):")
    for note in found.notes[-SHOWN_NOTES:]:
        print_line(f"note: {note}")

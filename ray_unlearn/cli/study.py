"""Commands on studies: run, resume, status, plan."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ray_unlearn.cli.main import app
from ray_unlearn.cli.show import Json, number, print_json, print_table, say
from ray_unlearn.spec.study import StudySpec, load_study

SHOWN_NOTES = 8

StudyFile = Annotated[Path, typer.Argument(help="study file", show_default=False)]
StudyFolder = Annotated[Path, typer.Argument(help="study directory", show_default=False)]
Lanes = Annotated[int | None, typer.Option(min=1, help="warm worker groups; default: the study file's")]
Workers = Annotated[int | None, typer.Option(min=1, help="workers per lane; default: the study file's")]
Address = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_ADDRESS", help="address of a Ray cluster; default: RAY_ADDRESS, else Ray on this machine only"
    ),
]
SpaceFrom = Annotated[
    Path | None,
    typer.Option(
        "--space-from", help="guidelines.json of earlier studies: search where it claims good regions, a fifth in full"
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress display")]


@app.command()
def run(
    study: StudyFile,
    storage: Annotated[Path | None, typer.Option(help="the study's directory; default: results/<name>")] = None,
    space_from: SpaceFrom = None,
    lanes: Lanes = None,
    workers: Workers = None,
    address: Address = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run a study from its file to its result table. Ctrl-C stops it cleanly; `resume` goes on."""
    from ray_unlearn.execution.study import run_study

    spec = _loaded(study, space_from, lanes, workers)
    folder = storage or Path("results") / spec.name
    _finish(run_study(spec, folder, address=address, quiet=quiet), folder, json)


@app.command()
def resume(
    folder: StudyFolder,
    trials: Annotated[
        int | None, typer.Option(min=1, help="add so many trials of each method to the study, finished or not")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run trials again that failed")] = False,
    lanes: Lanes = None,
    workers: Workers = None,
    address: Address = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Go on with a stopped study, or extend a finished one; finished trials are never run again."""
    from ray_unlearn.execution.study import resume_study

    operations = given_operations(lanes, workers)
    result = resume_study(
        folder, operations=operations, add_trials=trials, retry_failed=retry_failed, address=address, quiet=quiet
    )
    _finish(result, folder, json)


def _loaded(study: Path, space_from: Path | None, lanes: int | None, workers: int | None) -> StudySpec:
    """The study of a file; with guidelines, narrowed to what they claim, and stderr says how."""
    spec = load_study(study, given_operations(lanes, workers))
    if space_from is None:
        return spec
    from ray_unlearn.spec.guidelines import load_guidelines
    from ray_unlearn.spec.narrowing import narrowed

    spec, notes = narrowed(spec, load_guidelines(space_from), str(space_from), _domain(spec))
    for note in notes:
        say(note)
    return spec


def _domain(spec: StudySpec) -> str:
    """The domain as tables and guidelines name it."""
    from ray_unlearn.unlearn.demo_world import DOMAINS
    from ray_unlearn.unlearn.sources import demo_domain

    return spec.data.domain or DOMAINS[demo_domain(spec.data.source or "")]


def given_operations(lanes: int | None, workers: int | None) -> dict[str, Any]:
    """Operations from the command line; those not given stay as the study file has them."""
    given = {"lanes": lanes, "workers_per_lane": workers}
    return {name: value for name, value in given.items() if value is not None}


def _finish(result: Any, folder: Path, json: bool) -> None:
    if json:
        status(folder, json=True)
    else:
        status(folder, json=False)
        if result.interrupted:
            say(f"stopped; go on with: ray-unlearn resume {folder}")
        else:
            say(f"done; report with: ray-unlearn report {folder}")
    raise typer.Exit(result.exit_code)


@app.command()
def status(folder: StudyFolder, json: Json = False) -> None:
    """Where a study stands: outcomes and the best configuration of each method (selection half)."""
    from ray_unlearn.results.status import status as read_status

    found = read_status(folder)
    if json:
        print_json(found.as_json())
        return
    print_table(
        ["method", "trial", "learning rate", "updates", "score", "forget ppl", "target ppl"],
        [(b.method, b.trial_id, b.learning_rate, b.update, b.score, b.forget_ppl, b.target_ppl) for b in found.best],
        title=f"{found.name}: best of each method so far (selection half; score: lower is better)",
    )
    outcomes = ", ".join(f"{count} {name}" for name, count in found.outcomes.items() if count) or "none finished"
    print(f"{found.finished} trials finished: {outcomes}; {found.unfinished} unfinished; {found.rows} evaluation rows")
    if len(found.notes) > SHOWN_NOTES:
        print(f"{len(found.notes)} notes, the last {SHOWN_NOTES} of them (`--json` has all):")
    for note in found.notes[-SHOWN_NOTES:]:
        print(f"note: {note}")


@app.command()
def plan(
    study: StudyFile,
    space_from: SpaceFrom = None,
    lanes: Lanes = None,
    workers: Workers = None,
    teraflops: Annotated[
        float,
        typer.Option(help="sustained TFLOP/s of one worker, for the hours; 0.03 is one CPU core, 300 an H100 in bf16"),
    ] = 0.03,
    gpu_memory: Annotated[float | None, typer.Option(help="GiB of one GPU; default: that of this machine's")] = None,
    json: Json = False,
) -> None:
    """What a study will take: trials, tokens, FLOPs, hours, memory, disk. Starts nothing."""
    from dataclasses import asdict

    from ray_unlearn.unlearn.memory import gpu_memory_gib
    from ray_unlearn.unlearn.plan import free_disk_gib, problems
    from ray_unlearn.unlearn.plan import plan as make_plan

    spec = _loaded(study, space_from, lanes, workers)
    found = make_plan(spec)
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    issues = list(problems(found, cpus, memory_gib, free_disk_gib(Path.cwd()), spec, gpu_memory or gpu_memory_gib()))
    hours = found.hours(teraflops)
    parts = ", ".join(f"{name} {number(value)}" for name, value in asdict(found.memory).items() if value)
    if json:
        print_json(
            asdict(found) | {"lane_memory_gib": found.lane_memory_gib, "worker_hours": hours, "problems": issues}
        )
        return
    lines = [
        ("trials", str(found.trials)),
        ("updates, evaluations", f"{found.updates}, {found.evaluations}"),
        ("tokens in updates", number(found.tokens)),
        ("FLOPs in updates (counted)", number(found.update_flops)),
        (f"worker hours at {teraflops:g} TFLOP/s, evaluation apart", number(hours)),
        ("parameters", number(float(found.parameters))),
        ("memory per worker, GiB (estimate)", f"{number(found.memory.total)}: {parts}"),
        ("disk, GiB (estimate)", number(found.disk_gib)),
        ("lanes x workers", f"{found.lanes} x {found.workers}"),
    ]
    print_table(
        ["at most", ""], lines, title=f"{spec.name}: {spec.description or spec.data.domain or spec.data.source}"
    )
    for issue in issues:
        print(f"does not fit here: {issue}")
    if not issues:
        print("fits this machine")

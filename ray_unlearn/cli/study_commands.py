"""Commands on studies: run, resume, status, plan."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_unlearn.cli.main import app
from ray_unlearn.cli.show import Json, number, print_json, print_table, say
from ray_unlearn.spec.study_spec import StudySpec, load_study

if TYPE_CHECKING:
    from ray_unlearn.execution.placement import Placed

SHOWN_NOTES = 8

StudyFile = Annotated[Path, typer.Argument(help="study file", show_default=False)]
Location = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help="study directory, or address (s3://, gs://, abfss://)",
        show_default=False,
    ),
]


def number_of_lanes(text: str) -> int | str:
    """`auto` or a number from 1 on."""
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"must be a number from 1 on, or `auto`, got {text!r}")
    return int(text)


Lanes = Annotated[
    Any,
    typer.Option(
        parser=number_of_lanes,
        metavar="N|auto",
        help="warm worker groups; auto: as many as fit; default: the study file's",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="workers per lane; default: the study file's")
]
Address = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_ADDRESS",
        help="address of a Ray cluster; default: RAY_ADDRESS, else Ray on this machine only",
    ),
]
SpaceFrom = Annotated[
    Path | None,
    typer.Option(
        "--space-from",
        help="guidelines.json of earlier studies: search where it claims good regions, a fifth in full",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress display")]


@app.command()
def run(
    study: StudyFile,
    storage: Annotated[
        str | None,
        typer.Option(
            help="where the study lives: a directory or s3://, gs://, abfss://; default: results/<name>"
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
    lanes: Lanes = None,
    workers: Workers = None,
    address: Address = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run a study from its file to its result table. Ctrl-C stops it cleanly; `resume` goes on."""
    from ray_unlearn.execution.study import resume_study, run_study
    from ray_unlearn.store.location import there

    spec = _loaded(study, space_from, lanes, workers)
    location = storage or f"results/{spec.name}"
    if go_on and there(location):
        operations = spec.operations.model_dump()
        result = resume_study(
            location, expected=spec, operations=operations, address=address, quiet=quiet
        )
    else:
        result = run_study(spec, location, address=address, quiet=quiet)
    _finish(result, location, json)


@app.command()
def resume(
    location: Location,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="add so many trials of each method to the study, finished or not"),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="run trials again that failed")
    ] = False,
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
        location,
        operations=operations,
        add_trials=trials,
        retry_failed=retry_failed,
        address=address,
        quiet=quiet,
    )
    _finish(result, location, json)


def _loaded(
    study: Path, space_from: Path | None, lanes: int | str | None, workers: int | None
) -> StudySpec:
    """The study of a file; with guidelines, narrowed to what they claim, and stderr says how."""
    spec = load_study(study, given_operations(lanes, workers))
    if space_from is None:
        return spec
    from ray_unlearn.spec.guideline_file import load_guidelines
    from ray_unlearn.spec.narrowing import narrowed

    spec, notes = narrowed(spec, load_guidelines(space_from), str(space_from), _domain(spec))
    for note in notes:
        say(note)
    return spec


def _domain(spec: StudySpec) -> str:
    """The domain as tables and guidelines name it."""
    from ray_unlearn.demo import DOMAINS, demo_domain

    return spec.data.domain or DOMAINS[demo_domain(spec.data.source or "")]


def given_operations(lanes: int | str | None, workers: int | None) -> dict[str, Any]:
    """Operations from the command line; those not given stay as the study file has them."""
    given = {"lanes": lanes, "workers_per_lane": workers}
    return {name: value for name, value in given.items() if value is not None}


def _finish(result: Any, location: str, json: bool) -> None:
    show_status(location, json, ended=True)
    if not json:
        if result.interrupted:
            say(f"stopped; go on with: ray-unlearn resume {location}")
        else:
            say(f"done; report with: ray-unlearn report {location}")
    raise typer.Exit(result.exit_code)


@app.command()
def status(
    location: Location,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="keep looking until the run has ended; Ctrl-C leaves, the study goes on"
        ),
    ] = False,
    every: Annotated[
        float, typer.Option(min=0.1, help="with --watch: seconds between two looks")
    ] = 2.0,
    json: Annotated[
        bool,
        typer.Option(
            "--json", help="print JSON for scripts; with --watch a line of it for each change"
        ),
    ] = False,
) -> None:
    """Where a study stands: outcomes and the best configuration of each method (selection half)."""
    if not watch:
        show_status(location, json)
        return
    from ray_unlearn.cli.watch import watch as keep_looking
    from ray_unlearn.store.location import copied
    from ray_unlearn.store.status import Follower

    with copied(location) as copy:
        if isinstance(copy, Path):
            keep_looking(Follower(copy), every, json)
        else:
            keep_looking(Follower(copy.folder, copy.refresh, name=location), every, json)


def show_status(location: str, json: bool, ended: bool = False) -> None:
    """One look; `ended`: nobody needs to be told whether it is running."""
    from dataclasses import replace

    from ray_unlearn.cli.watch import driver
    from ray_unlearn.store.location import fetched
    from ray_unlearn.store.status import status as read_status

    with fetched(location) as folder:
        found = replace(read_status(folder), folder=location)
    if json:
        print_json(found.as_json())
        return
    print_table(
        ["method", "trial", "learning rate", "updates", "score", "forget ppl", "target ppl"],
        [
            (b.method, b.trial_id, b.learning_rate, b.update, b.score, b.forget_ppl, b.target_ppl)
            for b in found.best
        ],
        title=f"{found.name}: best of each method so far (selection half; score: lower is better)",
    )
    outcomes = (
        ", ".join(f"{count} {name}" for name, count in found.outcomes.items() if count)
        or "none finished"
    )
    print(
        f"{found.finished} trials finished: {outcomes}; {found.unfinished} unfinished; {found.rows} evaluation rows"
    )
    if (said := driver(found)) and not ended:
        print(said)
    for problem in found.live.problems if found.live else []:
        print(f"problem: {problem}")
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
        typer.Option(
            help="sustained TFLOP/s of one worker, for the hours; 0.03 is one CPU core, 300 an H100 in bf16"
        ),
    ] = 0.03,
    gpu_memory: Annotated[
        float | None, typer.Option(help="GiB of one GPU; default: that of this machine's")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS", help="plan for this Ray cluster; default: for this machine"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """What a study will take: trials, tokens, FLOPs, hours, memory, disk, and which lanes fit
    where. Starts nothing."""
    from dataclasses import asdict

    from ray_unlearn.unlearn.memory import gpu_memory_gib
    from ray_unlearn.unlearn.plan import cpus_here, free_disk_gib, memory_here_gib, problems
    from ray_unlearn.unlearn.plan import plan as make_plan

    spec = _loaded(study, space_from, lanes, workers)
    placed = _placed(spec, address) if address else None
    found = make_plan(spec, placed.lanes if placed else None)
    disk_gib, gpu_gib = (
        free_disk_gib(Path.cwd()),
        gpu_memory or (None if placed else gpu_memory_gib()),
    )
    cpus, memory_gib = (cpus_here(), memory_here_gib()) if not placed else (math.inf, math.inf)
    issues = (placed.problems if placed else []) + list(
        problems(found, cpus, memory_gib, disk_gib, spec, gpu_gib)
    )
    hours = found.hours(teraflops)
    parts = ", ".join(
        f"{name} {number(value)}" for name, value in asdict(found.memory).items() if value
    )
    if json:
        more = {"lane_memory_gib": found.lane_memory_gib, "worker_hours": hours, "problems": issues}
        print_json(asdict(found) | more | ({"placement": asdict(placed)} if placed else {}))
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
        *((f"on {node}", what) for node, what in (placed.nodes if placed else {}).items()),
    ]
    print_table(
        ["at most", ""],
        lines,
        title=f"{spec.name}: {spec.description or spec.data.domain or spec.data.source}",
    )
    for note in placed.notes if placed else []:
        print(f"note: {note}")
    for issue in issues:
        print(f"does not fit here: {issue}")
    if not issues:
        print(f"fits {f'the cluster at {address}' if placed else 'this machine'}")


def _placed(spec: StudySpec, address: str) -> "Placed":
    from ray_unlearn.execution.ray_runtime import placed_on
    from ray_unlearn.unlearn.plan import host_gib, trials_of

    trials = sum(trials_of(spec, method) for method in spec.methods)
    return placed_on(address, spec.operations, trials, host_gib(spec))

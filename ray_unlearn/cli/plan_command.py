"""The command `plan`, which shows what a study will take."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ray_unlearn.cli.options import LanesOption, Likely, SpaceFrom, StudyFile, Workers
from ray_unlearn.cli.show import Json, four_digits, print_json, print_table, say
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec

if TYPE_CHECKING:
    from ray_unlearn.api.given import Lanes
    from ray_unlearn.execution.placement import Placed


def plan_command(
    study: StudyFile,
    space_from: SpaceFrom = None,
    likely: Likely = False,
    lanes: LanesOption = None,
    workers: Workers = None,
    teraflops: Annotated[
        float,
        typer.Option(
            min=1e-6,
            max=1e9,
            help="sustained TFLOP/s of one worker, for the hours; 0.03 is one CPU core, 300 an "
            "H100 in bf16",
        ),
    ] = 0.03,
    gpu_memory: Annotated[
        float | None,
        typer.Option(min=0, max=1e9, help="GiB of one GPU; default: that of this machine's"),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS", help="plan for this Ray cluster; default: for this machine"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """What a study will take, which lanes fit where, and what it can find out. Starts nothing.

    Counts trials, tokens, FLOPs, hours, memory and disk, and says with which probability so many
    trials give a good setting and a claimed range. A small model on this machine is asked for the
    target on either half."""
    from dataclasses import asdict

    from ray_unlearn.analysis.study_power import power_sentences, powers_of
    from ray_unlearn.store.target import half_sentences, target_warnings
    from ray_unlearn.unlearn.memory import gpu_memory_gib
    from ray_unlearn.unlearn.plan import (
        cpus_here,
        free_disk_gib,
        gpus_here,
        longest,
        memory_here_gib,
        plan,
        problems,
        trials_of,
    )
    from ray_unlearn.unlearn.planned_halves import planned_halves

    spec = _loaded(study, space_from, likely, lanes, workers)
    placed = _placed(spec, address) if address else None
    found = plan(spec, placed.lanes if placed else None)
    disk_gib = free_disk_gib(Path.cwd())
    gpu_gib = gpu_memory or (None if placed else gpu_memory_gib())
    gpu_count = None if placed or gpu_memory else gpus_here()
    cpus, memory_gib = (cpus_here(), memory_here_gib()) if not placed else (math.inf, math.inf)
    issues = (placed.problems if placed else []) + list(
        problems(found, cpus, memory_gib, disk_gib, spec, gpu_gib, gpu_count)
    )
    halves = planned_halves(spec) or ()
    warnings = list(target_warnings(halves)) if halves else []
    powers = powers_of(
        spec,
        {method: trials_of(spec, method) for method in spec.methods},
        {m: len(spec.evaluation.updates(longest(spec, m).steps)) for m in spec.methods},
    )
    hours = found.hours(teraflops)
    parts = ", ".join(
        f"{name} {four_digits(value)}" for name, value in asdict(found.memory).items() if value
    )
    if json:
        more = {"lane_memory_gib": found.lane_memory_gib, "worker_hours": hours, "problems": issues}
        more |= {"halves": [asdict(one) | {"ppl": one.ppl} for one in halves], "warnings": warnings}
        more |= {"power": [asdict(one) for one in powers]}
        print_json(asdict(found) | more | ({"placement": asdict(placed)} if placed else {}))
        return
    lines = [
        ("trials", str(found.trials)),
        ("updates, evaluations", f"{found.updates}, {found.evaluations}"),
        *([("calibrated rows", str(found.calibrations))] if found.calibrations else []),
        ("tokens in updates", four_digits(found.tokens)),
        ("FLOPs in updates", four_digits(found.update_flops)),
        (f"worker hours at {teraflops:g} TFLOP/s, evaluation apart", four_digits(hours)),
        ("parameters", four_digits(float(found.parameters))),
        ("memory per worker, GiB (estimate)", f"{four_digits(found.memory.total)}: {parts}"),
        ("disk, GiB (estimate)", four_digits(found.disk_gib)),
        ("lanes x workers", f"{found.lanes} x {found.workers}"),
        *((f"on {node}", what) for node, what in (placed.nodes if placed else {}).items()),
    ]
    print_table(
        ["at most", ""],
        lines,
        title=f"{spec.name}: {spec.description or spec.data.domain or spec.data.source}",
    )
    if written := spec.objective.beyond_weights():
        print(f"objective: {written}")
    for sentence in (*(half_sentences(halves) if halves else ()), *power_sentences(powers)):
        print(sentence)
    for warning in warnings:
        print(f"warning: {warning}")
    for note in (*found.notes, *(placed.notes if placed else ())):
        print(f"note: {note}")
    for issue in issues:
        print(f"does not fit here: {issue}")
    if not issues:
        print(f"fits {f'the cluster at {address}' if placed else 'this machine'}")


def _loaded(
    study: Path, space_from: Path | None, likely: bool, lanes: "Lanes", workers: int | None
) -> StudySpec:
    """The study of a file, narrowed to what guidelines claim where some are given."""
    from ray_unlearn.api import narrow
    from ray_unlearn.api.given import operations_given

    spec = load_study(study, operations_given(lanes, workers))
    return spec if space_from is None else narrow(spec, space_from, likely=likely, say=say)


def _placed(spec: StudySpec, address: str) -> "Placed":
    from ray_unlearn.execution.ray_runtime import placed_on
    from ray_unlearn.unlearn.plan import host_gib, trials_of

    trials = sum(trials_of(spec, method) for method in spec.methods)
    return placed_on(address, spec.operations, trials, host_gib(spec))

"""The command `plan`, which shows what a study will take."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_unlearn.cli.options import LanesOption, Likely, SpaceFrom, StudyFile, Workers
from ray_unlearn.cli.show import (
    Json,
    end_with_findings,
    four_digits,
    print_findings,
    print_json,
    print_line,
    print_table,
    print_verdict,
    say,
)
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.finding import AGAINST, Finding, FindingState, first_change

if TYPE_CHECKING:
    from ray_unlearn.api.given import Lanes
    from ray_unlearn.execution.placement import Placed
    from ray_unlearn.unlearn.admission import Admission
    from ray_unlearn.unlearn.machine import Machine
    from ray_unlearn.unlearn.plan import StudyPlan
    from ray_unlearn.unlearn.split_counts import SplitCount


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
    download: Annotated[
        bool, typer.Option("--download", help="fetch a hub model that is not on this machine")
    ] = False,
    json: Json = False,
) -> None:
    """What a study will take, what its checks find, and what it can find out. Starts nothing.

    Counts trials, tokens, FLOPs, hours, memory and disk, and says with which probability so many
    trials give a good setting and a claimed range. A model on this machine is loaded, called once,
    and asked what it knows of each set. The last lines say yes or no, and the one thing to change;
    the exit code is 2 for no."""
    # A mistake in the file is told before torch is imported.
    spec = _loaded(study, space_from, likely, lanes, workers)
    from ray_unlearn.analysis.study_power import power_sentences, powers_of
    from ray_unlearn.store.target import half_sentences
    from ray_unlearn.unlearn.admission import admission
    from ray_unlearn.unlearn.plan import longest, trials_of

    placed = _placed(spec, address) if address else None
    admitted = admission(
        spec,
        _machine(placed, gpu_memory),
        lanes=placed.lanes if placed else None,
        downloads=download,
    )
    issues = placed.problems if placed else []
    findings = [*admitted.findings, *(Finding("cluster", "no room", issue) for issue in issues)]
    findings += [Finding("cluster", "note", note) for note in (placed.notes if placed else ())]
    found, halves = admitted.plan, admitted.halves
    powers = powers_of(
        spec,
        {method: trials_of(spec, method) for method in spec.methods},
        {m: len(spec.evaluation.updates(longest(spec, m).steps)) for m in spec.methods},
    )
    if json:
        texts = {
            key: [str(finding) for finding in findings if finding.state == state]
            for key, state in PLAN_KEYS.items()
        }
        more: dict[str, Any] = texts | {
            "findings": [asdict(finding) for finding in findings],
            "splits": [asdict(one) for one in _counts(admitted)],
            "verdict": _verdict(findings),
            "halves": [asdict(one) | {"ppl": one.ppl} for one in halves or ()],
            "power": [asdict(one) for one in powers],
        }
        if found is not None:
            more["lane_memory_gib"] = found.lane_memory_gib
            more["worker_hours"] = found.hours(teraflops)
        placement = {"placement": asdict(placed)} if placed else {}
        print_json((asdict(found) if found else {}) | more | placement)
    else:
        if found is not None:
            _print_plan(spec, found, teraflops, placed.nodes if placed else {})
        if written := spec.objective.beyond_weights():
            print_line(f"objective: {written}")
        for sentence in (*(half_sentences(halves) if halves else ()), *power_sentences(powers)):
            print_line(sentence)
        _print_counts(admitted)
        print_findings(findings)
    if not json:
        print_verdict(findings, f"the cluster at {address}" if placed else "this machine")
    end_with_findings(findings)


def _counts(admitted: "Admission") -> "list[SplitCount]":
    from ray_unlearn.unlearn.split_counts import split_counts

    return [] if admitted.data is None else list(split_counts(admitted.data))


def _print_counts(admitted: "Admission") -> None:
    """Documents, tokens and targets of each split and half, where the data were read."""
    if counts := _counts(admitted):
        print_table(
            ["split", "documents", "sequences", "tokens", "targets"],
            [
                (
                    f"  {one.half} half" if one.half else one.split,
                    *(one.documents, one.sequences, one.tokens, one.targets),
                )
                for one in counts
            ],
        )


def _verdict(findings: list[Finding]) -> dict[str, Any]:
    """Whether the study can run and show something, and the one thing to change."""
    first = first_change(findings)
    runs = first is None or first.state not in AGAINST
    return {"yes": runs, "first_change": None if first is None else str(first)}


PLAN_KEYS: dict[str, FindingState] = {
    "problems": "no room",
    "warnings": "warning",
    "notes": "note",
    "refused": "refused",
    "pointless": "pointless",
}


def _machine(placed: "Placed | None", gpu_memory: float | None) -> "Machine":
    """This machine, or one with GPUs of so much memory; a cluster is asked itself for the rest."""
    from ray_unlearn.unlearn.machine import machine_here

    here = machine_here(Path.cwd())
    if placed:
        return replace(here, cpus=math.inf, memory_gib=math.inf, gpus=None, gpu_gib=gpu_memory)
    return replace(here, gpus=None, gpu_gib=gpu_memory) if gpu_memory else here


def _print_plan(
    spec: StudySpec, found: "StudyPlan", teraflops: float, nodes: Mapping[str, str]
) -> None:
    from ray_unlearn.store.live import in_words

    parts = ", ".join(
        f"{name} {four_digits(value)}" for name, value in asdict(found.memory).items() if value
    )
    hours = found.hours(teraflops)
    lines = [
        ("trials", str(found.trials)),
        ("updates, evaluations", f"{found.updates}, {found.evaluations}"),
        *([("calibrated rows", str(found.calibrations))] if found.calibrations else []),
        ("tokens in updates", f"{found.tokens:,.0f}"),
        ("FLOPs in updates", four_digits(found.update_flops)),
        (f"worker time at {teraflops:g} TFLOP/s, evaluation apart", in_words(3600 * hours)),
        ("parameters", f"{found.parameters:,}"),
        ("memory per worker, GiB (estimate)", f"{four_digits(found.memory.total)}: {parts}"),
        ("disk, GiB (estimate)", four_digits(found.disk_gib)),
        ("lanes x workers", f"{found.lanes} x {found.workers}"),
        *((f"on {node}", what) for node, what in nodes.items()),
    ]
    print_table(
        ["at most", ""],
        lines,
        title=f"{spec.name}: {spec.description or spec.data.domain or spec.data.source}",
    )


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

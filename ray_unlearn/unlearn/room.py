"""Findings on whether a study has room on a machine: CPUs, GPUs, memory, disk."""

from collections.abc import Iterator

from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.architecture import model_config
from ray_unlearn.unlearn.finding import Finding
from ray_unlearn.unlearn.gpu import CONTEXT_GIB
from ray_unlearn.unlearn.machine import Machine
from ray_unlearn.unlearn.memory import remedies
from ray_unlearn.unlearn.plan import LANE_PROCESSES_GIB, StudyPlan, largest_pass, loaded_gib


def room_findings(found: StudyPlan, machine: Machine, spec: StudySpec) -> Iterator[Finding]:
    """What a study wants of a machine and what is there, each lack with its remedy.

    Args:
        found: the plan.
        machine: what is there.
        spec: the study.
    """
    yield _cpus(found, machine, spec)
    gpus = spec.operations.gpus_per_worker
    if gpus and machine.gpus is not None:
        yield _gpus(found, machine.gpus, gpus)
    yield _host_memory(found, machine, spec)
    if gpus and machine.gpu_gib is not None:
        yield _gpu_memory(found, machine.gpu_gib * min(gpus, 1) - CONTEXT_GIB, spec)
    yield _room(
        "disk",
        found.disk_gib <= machine.disk_gib,
        f"the study wants about {found.disk_gib:.1f} GiB of disk, {machine.disk_gib:.1f} are free",
        "free some space",
    )


def _room(what: str, fits: bool, found: str, remedy: str) -> Finding:
    return Finding(what, "ok", found) if fits else Finding(what, "no room", found, remedy)


def _cpus(found: StudyPlan, machine: Machine, spec: StudySpec) -> Finding:
    wanted = found.lanes * found.workers * spec.operations.cpus_per_worker
    return _room(
        "CPUs",
        wanted <= machine.cpus,
        f"{found.lanes} lane(s) want {wanted:g} CPUs, {machine.cpus:g} are there",
        "use fewer lanes (`--lanes`)",
    )


def _gpus(found: StudyPlan, there: int, each: float) -> Finding:
    return _room(
        "GPUs",
        each * found.workers <= there,
        f"a lane wants {each * found.workers:g} GPU(s), {there} are there",
        "set `operations.gpus_per_worker: 0`, or use a cluster that has them (`--address`)",
    )


def _host_memory(found: StudyPlan, machine: Machine, spec: StudySpec) -> Finding:
    gpus, there = spec.operations.gpus_per_worker, machine.memory_gib
    loaded = found.workers * loaded_gib(spec, found.parameters)
    wanted = found.lanes * (LANE_PROCESSES_GIB + (loaded if gpus else found.lane_memory_gib))
    fits = wanted <= there
    advice = "" if gpus or fits else _advice(found, spec, there / (found.lanes * found.workers))
    return _room(
        "memory",
        fits,
        f"{found.lanes} lane(s) want about {wanted:.1f} GiB of memory, {there:.1f} are there",
        f"use fewer lanes{advice}",
    )


def _gpu_memory(found: StudyPlan, there: float, spec: StudySpec) -> Finding:
    fits = found.memory.total <= there
    return _room(
        "GPU memory",
        fits,
        f"a worker wants about {found.memory.total:.1f} GiB of GPU memory (most of it "
        f"{found.memory.largest}), its share is {there:.1f}",
        "use more `operations.gpus_per_worker` (up to 1)"
        + ("" if fits else _advice(found, spec, there)),
    )


def _advice(found: StudyPlan, spec: StudySpec, room: float) -> str:
    """Advice in words: the mildest single change that fits, or the one that saves most."""
    changes = list(remedies(spec, model_config(spec), largest_pass(spec)))
    fitting = [change for change in changes if change[1].total <= room]
    if not changes:
        return ""
    name, then = fitting[0] if fitting else min(changes, key=lambda change: change[1].total)
    return f", or `{name}`: {then.total:.1f} GiB per worker instead of {found.memory.total:.1f}"

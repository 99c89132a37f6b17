"""What a study will take, computed from its file and the model's config.

Nothing is loaded and nothing is started.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ray_unlearn.spec.hyperparameters import Hyperparameters
from ray_unlearn.spec.search_space import Choice, Fixed, FloatRange, IntRange, SearchSpace
from ray_unlearn.spec.study_spec import StudySpec, is_local
from ray_unlearn.store.study_columns import study_columns
from ray_unlearn.unlearn.architecture import layout_of_architecture, model_config
from ray_unlearn.unlearn.calibration import COST_SHARE, MOST_CALIBRATED, USUAL_PASSES
from ray_unlearn.unlearn.context_length import check_positions
from ray_unlearn.unlearn.cost import UpdateCost, count_update
from ray_unlearn.unlearn.layout import NOT_PACKED
from ray_unlearn.unlearn.memory import (
    BYTES,
    Memory,
    memory,
    on_meta,
    parameter_count,
    remedies,
)
from ray_unlearn.unlearn.methods import terms
from ray_unlearn.unlearn.model import load_tokenizer
from ray_unlearn.unlearn.model_files import check_source, check_vocabulary

COLUMN_BYTES = 50
"""Bytes of a column of a row in the ledger; measured: 4.9 kB for a row."""
LANE_PROCESSES_GIB = 0.9
"""GiB of controller, worker and helpers of an idle Ray Train run, measured on a CPU."""


@dataclass(frozen=True)
class StudyPlan:
    """Upper bounds of a study's cost, with most steps in every trial and every sequence full."""

    trials: int
    updates: int
    evaluations: int
    calibrations: int
    """Evaluations more, at the strength that meets the target (`evaluation.strength`)."""
    tokens: float
    update_flops: float
    parameters: int
    disk_gib: float
    memory: Memory
    """Memory of one worker."""
    lanes: int
    workers: int
    notes: tuple[str, ...] = ()
    """Notes for people: a layout that the model does not allow, a cost that is estimated."""

    @property
    def lane_memory_gib(self) -> float:
        """GiB of a lane's workers; Ray's processes take `LANE_PROCESSES_GIB` more on the host."""
        return self.workers * self.memory.total

    def hours(self, teraflops: float) -> float:
        """Worker hours in updates, without evaluation, at a sustained rate of `teraflops`."""
        return self.update_flops / (teraflops * 1e12) / 3600


def plan(spec: StudySpec, lanes: int | None = None) -> StudyPlan:
    """Count trials, updates, tokens, FLOPs, disk and memory.

    Args:
        spec: the study.
        lanes: how many it has; default: those in the spec, with `auto` as many as fit here.

    Raises:
        UserError: the model's config, weight files or tokenizer cannot be used, or its architecture
            cannot be trained on such sequences.
    """
    check_source(spec.model)
    config = model_config(spec)
    if is_local(spec.model.source):
        _check_tokenizer(spec, config.vocab_size)
    length = spec.data.sequence_length
    cost = count_update(config, length)
    trials = updates = evaluations = calibrations = 0
    tokens = flops = 0.0
    for method, number, most in _upper_bounds(spec):
        trial = spec.trial_config(most, method, 0, "")
        sizes = [(term, term.batch_size) for term in terms(trial)]
        trials += number
        updates += number * most.steps
        evaluations += number * len(trial.evaluate_at)
        calibrations += number * _calibrated(spec, most.steps)
        tokens += number * most.steps * length * sum(size for _, size in sizes)
        flops += (
            number
            * most.steps
            * sum(cost.of(term, np.full(size, length), size * (length - 1)) for term, size in sizes)
        )
    parameters = parameter_count(config)
    worker = memory(spec, config, _largest_pass(spec))
    lanes = lanes or lanes_here(spec, host_gib(spec, worker))
    return StudyPlan(
        trials, updates, evaluations, calibrations, tokens, flops, parameters,
        disk_gib=disk_bytes(spec, parameters, lanes) / 2**30,
        memory=worker,
        lanes=lanes,
        workers=spec.operations.workers_per_lane,
        notes=tuple(_notes(spec, config, cost)),
    )  # fmt: skip


def _check_tokenizer(spec: StudySpec, vocabulary: int) -> None:
    tokenizer = load_tokenizer(spec.model)
    special = set(tokenizer.all_special_ids)
    check_vocabulary(max(i for i in range(len(tokenizer)) if i not in special), vocabulary)


def _notes(spec: StudySpec, config: Any, cost: UpdateCost) -> Iterator[str]:
    """Notes on how the model fits the data.

    Raises:
        UserError: the architecture cannot be trained on such data at all.
    """
    packed = spec.data.layout == "pack"
    model = on_meta(config)
    if (beyond := check_positions(model, spec.data.sequence_length)) is not None:
        yield beyond
    layout = layout_of_architecture(config, spec.model.attention, packed, spec.model.source)
    if packed and layout == "apart":
        yield NOT_PACKED.format(type(model).__name__)
    if spec.evaluation.strength != "trained":
        yield (
            f"evaluation.strength: {spec.evaluation.strength} adds at least one evaluation and "
            f"about {USUAL_PASSES} passes over the forget set to each trial that reaches its end, "
            f"and more of them only while they take less than {100 * COST_SHARE:.0f} % of its time"
        )
    for asked in spec.evaluation.generate:
        when = "the last row of each trial" if asked.at == "last" else "every row"
        number = "all" if asked.documents is None else f"{asked.documents:,}"
        yield (
            f"evaluation.generate: up to {asked.max_new_tokens} tokens are decoded for {number} "
            f"documents of {', '.join(asked.sets)} at {when}, one pass per token; `documents`, "
            "`max_new_tokens` and `at: last` make it less"
        )
    if cost.estimated:
        yield f"FLOPs of updates are estimated: {cost.estimated}"


def host_gib(spec: StudySpec, worker: Memory | None = None) -> float:
    """GiB that a worker takes on its host, with its part of the lane's other processes.

    Raises:
        UserError: the model's config cannot be read.
    """
    operations = spec.operations
    if worker is None and not operations.gpus_per_worker:
        worker = memory(spec, model_config(spec), _largest_pass(spec))
    own = 0.0 if operations.gpus_per_worker or worker is None else worker.total
    return own + LANE_PROCESSES_GIB / operations.workers_per_lane


def lanes_here(spec: StudySpec, worker_gib: float = 0.0) -> int:
    """Lanes that a study asks for; with `auto`, as many as fit on this machine.

    How many fit on a cluster is known once it is asked.
    """
    operations, trials = spec.operations, sum(trials_of(spec, method) for method in spec.methods)
    if operations.lanes != "auto":
        return operations.lanes
    most = operations.most_lanes(trials)
    for there, wanted in (
        (cpus_here(), operations.cpus_per_worker),
        (memory_here_gib(), worker_gib),
        (gpus_here(), operations.gpus_per_worker),
    ):
        if wanted > 0:
            most = min(most, int(there / (wanted * operations.workers_per_lane)))
    return max(1, most)


def cpus_here() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus_here() -> int:
    """GPUs of this machine that CUDA sees."""
    return torch.cuda.device_count()


def memory_here_gib() -> float:
    """GiB of this machine, used or not."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def disk_bytes(spec: StudySpec, parameters: int | None = None, lanes: int | None = None) -> float:
    """Upper bound of the bytes that a study writes.

    They are rows (ledger, tables, TensorBoard), one checkpoint per lane and the best weights. Each
    checkpoint and the best weights exist for a moment beside their successors.

    Args:
        spec: the study.
        parameters: of the model; None: counted from its config.
        lanes: number of lanes; None: `lanes_here`.

    Raises:
        UserError: the model's config cannot be read.
    """
    if parameters is None:
        parameters = parameter_count(model_config(spec))
    rows = sum(
        number * (len(spec.evaluation.updates(most.steps)) + _calibrated(spec, most.steps))
        for _, number, most in _upper_bounds(spec)
    )
    operations, weights = spec.operations, parameters * BYTES[spec.model.dtype]
    # The weights and two float32 moments.
    checkpoint = weights + 8 * parameters if operations.checkpoint_every_s is not None else 0
    best = weights if operations.keep_best else 0
    row_bytes = COLUMN_BYTES * len(study_columns(spec))
    return rows * row_bytes * (3 if operations.tensorboard else 2) + 2 * (
        (lanes or lanes_here(spec)) * checkpoint + best
    )


def _calibrated(spec: StudySpec, steps: int) -> int:
    """Calibrated rows of a trial, at most."""
    if spec.evaluation.strength == "trained":
        return 0
    return min(MOST_CALIBRATED, len(spec.evaluation.updates(steps)))


def trials_of(spec: StudySpec, method: str) -> int:
    """Trials of one method; for the samplers grid and listed, every point with every trial seed."""
    if spec.search.trials_per_method is not None:
        return spec.search.trials_per_method
    total = len(spec.search.trial_seeds)
    if spec.search.sampler == "listed":
        return total * len(spec.search.points[method])
    for parameter in spec.spaces[method].sampled().values():
        total *= len(parameter.choices if isinstance(parameter, Choice) else parameter.grid)
    return total


def longest(spec: StudySpec, method: str) -> Hyperparameters:
    """The costliest configuration of a method: most steps, largest batches."""
    return _costliest(spec.spaces[method])


def _costliest(space: SearchSpace) -> Hyperparameters:
    return space.resolve({name: _largest(parameter) for name, parameter in space.sampled().items()})


def _upper_bounds(spec: StudySpec) -> Iterator[tuple[str, int, Hyperparameters]]:
    """Method, number of trials, and a configuration that none of them exceeds.

    Trials from a full space may be longer than the others, so they are listed apart.
    """
    for method in spec.methods:
        number = trials_of(spec, method)
        full = (spec.full_spaces or {}).get(method)
        outside = spec.search.full_space_trials(method, number) if full is not None else 0
        yield method, number - outside, longest(spec, method)
        if full is not None and outside:
            yield method, outside, _costliest(full)


def problems(
    found: StudyPlan,
    cpus: float,
    memory_gib: float,
    free_disk_gib: float,
    spec: StudySpec,
    gpu_gib: float | None = None,
    gpu_count: int | None = None,
) -> Iterator[str]:
    """Reasons why the plan does not fit this machine, each with a remedy.

    Args:
        found: the plan.
        cpus: CPUs of the machine.
        memory_gib: its memory.
        free_disk_gib: its free disk space.
        spec: the study.
        gpu_gib: memory of one GPU; None: not known.
        gpu_count: number of its GPUs; None: not known.
    """
    wanted = found.lanes * found.workers * spec.operations.cpus_per_worker
    if wanted > cpus:
        yield (
            f"{found.lanes} lane(s) want {wanted:g} CPUs, {cpus:g} are there: use fewer lanes "
            "(`--lanes`)"
        )
    gpus = spec.operations.gpus_per_worker
    if gpu_count is not None and gpus * found.workers > gpu_count:
        yield (
            f"a lane wants {gpus * found.workers:g} GPU(s), {gpu_count} are there: set "
            "`operations.gpus_per_worker: 0`, or plan for a cluster (`--address`)"
        )
    on_host = found.lanes * (LANE_PROCESSES_GIB + (0.0 if gpus else found.lane_memory_gib))
    if on_host > memory_gib:
        advice = "" if gpus else _advice(found, spec, memory_gib / (found.lanes * found.workers))
        yield (
            f"{found.lanes} lane(s) want about {on_host:.1f} GiB of memory, {memory_gib:.1f} are "
            "there: "
            f"use fewer lanes{advice}"
        )
    there = None if gpu_gib is None or not gpus else gpu_gib * min(gpus, 1)
    if there is not None and found.memory.total > there:
        yield (
            f"a worker wants about {found.memory.total:.1f} GiB of GPU memory (most of it "
            f"{found.memory.largest}), its share "
            f"is {there:.1f}: use more `operations.gpus_per_worker` (up to "
            f"1){_advice(found, spec, there)}"
        )
    if found.disk_gib > free_disk_gib:
        yield (
            f"the study wants about {found.disk_gib:.1f} GiB of disk, {free_disk_gib:.1f} are free"
        )


def _advice(found: StudyPlan, spec: StudySpec, room: float) -> str:
    """Advice in words: the mildest single change that fits, or the one that saves most."""
    changes = list(remedies(spec, model_config(spec), _largest_pass(spec)))
    fitting = [change for change in changes if change[1].total <= room]
    if not changes:
        return ""
    name, then = fitting[0] if fitting else min(changes, key=lambda change: change[1].total)
    return f", or `{name}`: {then.total:.1f} GiB per worker instead of {found.memory.total:.1f}"


def free_disk_gib(folder: Path) -> float:
    """GiB of free space where `folder` is or would be."""
    import shutil

    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 2**30


def _largest(parameter: FloatRange | IntRange | Choice | Fixed) -> Any:
    if isinstance(parameter, (FloatRange, IntRange)):
        return parameter.high
    if isinstance(parameter, Choice):
        numbers = [
            value
            for value in parameter.choices
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        ]
        return max(numbers) if numbers else parameter.choices[0]
    return parameter.value


def _largest_pass(spec: StudySpec) -> int:
    """Sequences in one forward and backward pass of a worker."""
    batches = (
        term.batch_size
        for method, _, most in _upper_bounds(spec)
        for term in terms(spec.trial_config(most, method, 0, ""))
    )
    own = math.ceil(max(batches) / spec.operations.workers_per_lane)
    return min(own, spec.operations.micro_batch_size or own)

"""What a study will take, computed from its file and the model's config.

Nothing is loaded and nothing is started.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_unlearn.spec.hyperparameters import Hyperparameters
from ray_unlearn.spec.search_space import Choice, Fixed, FloatRange, IntRange, SearchSpace
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.objective import Objective
from ray_unlearn.store.study_columns import study_columns
from ray_unlearn.store.table import check_column_names
from ray_unlearn.unlearn.architecture import model_config
from ray_unlearn.unlearn.calibration import MOST_CALIBRATED
from ray_unlearn.unlearn.cost import count_update
from ray_unlearn.unlearn.machine import cpus_here, gpus_here, memory_here_gib
from ray_unlearn.unlearn.memory import (
    BYTES,
    Memory,
    memory,
    parameter_count,
)
from ray_unlearn.unlearn.methods import terms

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
    estimated: str = ""
    """How FLOPs of updates are estimated; empty if they are counted."""

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
        UserError: the model's config cannot be read; the objective names a metric that is not
            measured; a hyperparameter is named like a column.
    """
    check_column_names(spec)
    Objective.of(spec)  # refuses a metric that rows do not have
    config = model_config(spec)
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
    worker = memory(spec, config, largest_pass(spec))
    lanes = lanes or lanes_here(spec, host_gib(spec, worker))
    return StudyPlan(
        trials, updates, evaluations, calibrations, tokens, flops, parameters,
        disk_gib=disk_bytes(spec, parameters, lanes) / 2**30,
        memory=worker,
        lanes=lanes,
        workers=spec.operations.workers_per_lane,
        estimated=cost.estimated,
    )  # fmt: skip


def host_gib(spec: StudySpec, worker: Memory | None = None) -> float:
    """GiB that a worker takes on its host, with its part of the lane's other processes.

    Raises:
        UserError: the model's config cannot be read.
    """
    operations = spec.operations
    if operations.gpus_per_worker:
        own = loaded_gib(spec, parameter_count(model_config(spec)))
    else:
        own = (worker or memory(spec, model_config(spec), largest_pass(spec))).total
    return own + LANE_PROCESSES_GIB / operations.workers_per_lane


def loaded_gib(spec: StudySpec, parameters: int) -> float:
    """GiB of host memory of a GPU's worker while it starts: the model, before it goes there.

    Each worker loads the whole of it, in a sharded lane too.
    """
    return parameters * BYTES[spec.model.dtype] / 2**30


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


def largest_pass(spec: StudySpec) -> int:
    """Sequences in one forward and backward pass of a worker."""
    batches = (
        term.batch_size
        for method, _, most in _upper_bounds(spec)
        for term in terms(spec.trial_config(most, method, 0, ""))
    )
    own = math.ceil(max(batches) / spec.operations.workers_per_lane)
    return min(own, spec.operations.micro_batch_size or own)

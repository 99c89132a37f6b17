"""A model in memory on tasks of lm-evaluation-harness, in this process or with other workers."""

import io
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ray_unlearn.spec.errors import UserError
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.lm_eval_tasks import AskedTasks, on_stderr

ALONE = Comm.single()
SEED = 1234
"""Of few-shot examples and the rest, as in lm-eval's `simple_evaluate`."""
BOOTSTRAPS = 100_000
"""Samples for standard errors of means that have no formula, lm-eval's default."""
FAILURES = (ValueError, AssertionError, KeyError, RuntimeError, IndexError, TypeError)


@dataclass(frozen=True)
class MeasuredScore:
    """A metric of a task for one model; NaN where it has no value."""

    value: float
    standard_error: float
    higher_is_better: bool | None
    examples: int | None


ScoreKey = tuple[str, str, str]
"""Task, metric, filter."""


def task_scores(
    tasks: AskedTasks,
    model: Any,
    tokenizer: Any,
    batch_size: int,
    autocast: str | torch.dtype | None = None,
    comm: Comm = ALONE,
    *,
    in_a_row: bool = False,
) -> dict[ScoreKey, MeasuredScore]:
    """Run the tasks on a model.

    Random states are those of before afterwards. With several workers each has the whole model,
    answers a part of the questions, and returns the same scores.

    Args:
        tasks: see `load_tasks`.
        model: a transformers model, on the device to use.
        tokenizer: its tokenizer.
        batch_size: sequences per forward pass.
        autocast: dtype to compute in; None: that of the weights.
        comm: the workers that share the questions.
        in_a_row: show no progress and estimate no standard errors.

    Raises:
        UserError: the tasks cannot be run on this model.
    """
    with _unseen() if in_a_row else on_stderr(), _own_chance(model.device):
        from lm_eval.evaluator import evaluate

        for task in tasks.each:
            task.set_fewshot_seed(SEED)
        try:
            found = evaluate(
                _harness(model, tokenizer, batch_size, autocast, comm),
                tasks.manager.load(list(tasks.loaded)),
                limit=tasks.limit,
                bootstrap_iters=0 if in_a_row else BOOTSTRAPS,
                log_samples=False,
                apply_chat_template=tasks.chat_template,
            )
        # The harness says in many ways that a task does not suit a model.
        except FAILURES as error:
            raise UserError(
                f"{tasks.place}: {', '.join(tasks.names)}: cannot be evaluated: "
                f"{type(error).__name__}: {error}"
            ) from None
    assert found is not None, "each process has all results"
    for task in tasks.each:
        task._instances = None  # prompts and answers of all examples
    return dict(_scores(found))


def _harness(
    model: Any, tokenizer: Any, batch_size: int, autocast: str | torch.dtype | None, comm: Comm
) -> Any:
    """The model as lm-eval calls it, as one process, whatever Ray Train has said of ranks."""
    from lm_eval.models.huggingface import HFLM

    # lm-eval ties weights again, which are tied, and may be cut into shards.
    model.tie_weights = lambda *given, **named: None
    try:
        lm = HFLM(
            pretrained=model,
            tokenizer=deepcopy(tokenizer),  # it is given a token for padding
            batch_size=batch_size,
            mixed_precision_dtype=autocast,
        )
    finally:
        del model.tie_weights
    for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        setattr(lm, kind, partial(_answered_together, comm, getattr(lm, kind)))
    return lm


def _answered_together(
    comm: Comm, answer: Callable[[list[Any]], list[Any]], requests: list[Any]
) -> list[Any]:
    """Answers to all requests, on every worker; each has answered a part of them.

    A worker that cannot answer says so to the others, which would wait for it.
    """
    own: list[Any] = []
    problem: Exception | None = None
    try:
        own = answer(shard) if (shard := comm.shard(requests)) else []
    except FAILURES as error:
        problem = error
    parts = comm.broadcast(comm.gather((own, problem)))
    for _, failed in parts:
        if failed is not None:
            raise failed
    answers = [part for part, _ in parts]
    return [answers[i % len(answers)][i // len(answers)] for i in range(len(requests))]


@contextmanager
def _own_chance(device: torch.device) -> Iterator[None]:
    """Seeds as lm-eval sets them, and those of before afterwards."""
    # Tasks draw from numpy's global state, too.
    plain, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            random.seed(0)
            np.random.seed(SEED)  # noqa: NPY002
            torch.manual_seed(SEED)
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(arrays)  # noqa: NPY002


def _scores(found: Any) -> Iterator[tuple[ScoreKey, MeasuredScore]]:
    for task, cells in found["results"].items():
        counts = found["n-samples"].get(task, {})
        better = found["higher_is_better"].get(task, {})
        for key, value in cells.items():
            metric, comma, way = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                error = _number(cells.get(f"{metric}_stderr,{way}"))
                score = MeasuredScore(
                    _number(value), error, better.get(metric), counts.get("effective")
                )
                yield (task, metric, way), score


def _number(value: Any) -> float:
    """The value; NaN for what is no number, such as `N/A`."""
    return float(value) if isinstance(value, int | float) else math.nan


@contextmanager
def _unseen() -> Iterator[None]:
    """Drop what the harness prints, its progress too."""
    with redirect_stderr(io.StringIO()), on_stderr():
        yield

"""The tasks of lm-evaluation-harness that rows of a study have columns of, loaded and checked."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.spec.evaluation_spec import EvaluationSpec
from ray_unlearn.spec.row_tasks import RowTask
from ray_unlearn.unlearn.finding import Finding
from ray_unlearn.unlearn.lm_eval_tasks import (
    AskedTasks,
    check_installed,
    check_task_file,
    load_tasks,
)

PLACE = "evaluation.tasks"
GENERATES = "generate_until"
OF_FILTER = "none"
"""lm-eval's name of a metric without a filter."""


@dataclass(frozen=True)
class LoadedTask:
    """A task that rows have columns of, with its data."""

    asked: RowTask
    tasks: AskedTasks

    own_name: str
    """Its name in lm-eval's results; asking the task for it draws a random number."""

    @property
    def generates(self) -> bool:
        """Whether the model writes answers, and not only weighs given ones."""
        return any(task.OUTPUT_TYPE == GENERATES for task in self.tasks.each)


def loaded_tasks(evaluation: EvaluationSpec) -> tuple[LoadedTask, ...]:
    """The tasks that rows have columns of, with their data.

    Raises:
        UserError: lm-eval is not installed; a task that does not exist, cannot be loaded, is
            several, or does not have the metrics that are asked for.
    """
    return tuple(map(_loaded_task, evaluation.tasks))


def check_task_names(evaluation: EvaluationSpec) -> None:
    """What can be refused without loading anything.

    Raises:
        UserError: lm-eval is not installed, or a task file is missing.
    """
    if evaluation.tasks:
        check_installed(PLACE)
    for asked in evaluation.tasks:
        if asked.is_file:
            check_task_file(asked.task, PLACE)


def _loaded_task(asked: RowTask) -> LoadedTask:
    tasks = load_tasks(
        [asked.task], asked.num_fewshot, asked.limit, asked.chat_template, place=PLACE
    )
    if len(tasks.loaded) != 1:
        raise UserError(
            f"{PLACE}: {asked.task!r} is {len(tasks.loaded)} tasks; name each of them, or a group "
            "with metrics of its own"
        )
    for metric in asked.metrics:
        known = list(dict.fromkeys(_metrics(tasks.loaded[0])))
        if metric not in known:
            instead = nearest(metric, known) if known else "; name the tasks in this group"
            raise UserError(f"{PLACE}: {asked.name}: has no metric {metric!r}{instead}")
    (one,) = tasks.loaded
    return LoadedTask(asked, tasks, str(one.name if _is_group(one) else one.task_name))


def _is_group(one: Any) -> bool:
    return hasattr(one, "get_all_tasks")


def _metrics(one: Any) -> Iterator[str]:
    """The metrics of a task or a group, with their filters, as a study file writes them."""
    tasks = one.get_all_tasks() if _is_group(one) else [one]
    filters = list(dict.fromkeys(each.name for task in tasks for each in task._filters))
    if _is_group(one):
        named = [(each.metric, each.filter_list) for each in one.aggregate_metric_list or ()]
    else:
        named = [(metric, None) for metric in one.aggregation()]
    for metric, ways in named:
        for way in ways or filters:
            yield metric if way == OF_FILTER else f"{metric},{way}"


def task_findings(evaluation: EvaluationSpec, rows: int) -> list[Finding]:
    """What the tasks of a study cost, and where they see a better side that it does not.

    Args:
        evaluation: that of the study.
        rows: rows of the whole study, at most, without baselines.

    Raises:
        UserError: as `loaded_tasks`.
    """
    found = []
    for one in loaded_tasks(evaluation):
        asked = one.asked
        every = asked.at == "every"
        when = f"every row, up to {rows:,}," if every else "the last row of each trial,"
        said = (
            f"{PLACE}: {asked.name}: {one.tasks.examples:,} examples at {when} and of the baselines"
            f"{', answered token by token' if one.generates else ''}"
        )
        less = "`limit` and `at: last` make it less, `ray-unlearn evaluate` asks chosen models only"
        found.append(Finding("tasks", "note", said, less))
        found += [Finding("tasks", "warning", other) for other in _other_sides(one)]
    return found


def _other_sides(one: LoadedTask) -> Iterator[str]:
    sides = {True: "maximise", False: "minimise"}
    for metric, chosen in one.asked.metrics.items():
        name = metric.partition(",")[0]
        own = {task.higher_is_better().get(name) for task in one.tasks.each} - {None}
        if chosen != "none" and own and sides[own.pop()] != chosen:
            yield (
                f"{PLACE}: {one.asked.name}: {name} is to {chosen} here, and the other side is "
                "better by the task itself"
            )

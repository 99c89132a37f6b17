"""Tasks of lm-evaluation-harness (EleutherAI), run in this process on a model in memory.

https://github.com/EleutherAI/lm-evaluation-harness, Gao et al. 2024. Whether data sets may come
from the network is the user's setting (HF_DATASETS_OFFLINE, HF_HUB_OFFLINE), which stays as it is.
"""

import logging
import math
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ray_unlearn.spec.errors import UserError

INSTALL = "pip install 'ray-unlearn[lm-eval]'"
FILE_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class AskedTasks:
    """Tasks with their data, loaded once for all models."""

    names: tuple[str, ...]
    """As they were asked for; a file by its name alone."""
    manager: Any
    loaded: tuple[Any, ...]
    num_fewshot: int | None = None
    limit: int | None = None
    chat_template: bool = False


@dataclass(frozen=True)
class MeasuredScore:
    """A metric of a task for one model; NaN where it has no value."""

    value: float
    standard_error: float
    higher_is_better: bool | None
    examples: int | None


ScoreKey = tuple[str, str, str]
"""Task, metric, filter."""


def load_tasks(
    names: Sequence[str],
    num_fewshot: int | None = None,
    limit: int | None = None,
    chat_template: bool = False,
) -> AskedTasks:
    """Load tasks and their data, before anything expensive starts.

    Args:
        names: tasks, groups or tags that lm-eval knows, or paths of task files (.yaml); paths
            inside a file are relative to its folder.
        num_fewshot: examples before each question; None: as each task has it.
        limit: take the first examples of each task only.
        chat_template: write prompts with the tokenizer's chat template.

    Raises:
        UserError: lm-eval is not installed, an unknown task, data that cannot be loaded.
    """
    if any(find_spec(name) is None for name in ("lm_eval", "accelerate")):
        raise UserError(f"--tasks: needs lm-evaluation-harness: {INSTALL}")
    if not names:
        raise UserError("--tasks: name at least one task, or the path of a task file (.yaml)")
    twice = [name for name in names if list(names).count(name) > 1]
    if twice:
        raise UserError(f"--tasks: {twice[0]!r} is named twice; name it once")
    for name in filter(_is_file, names):
        if not Path(name).is_file():
            raise UserError(f"--tasks: no such task file: {name}")
    with _on_stderr():
        from lm_eval.tasks import TaskManager

        # Indexing all tasks that come along takes seconds, and the file of a task needs none. The
        # file of a group is only found by its name.
        groups = [name for name in names if _group_in(name)]
        manager = TaskManager(
            include_path=[str(Path(name).resolve().parent) for name in groups],
            include_defaults=bool(groups) or not all(map(_is_file, names)),
        )
        found: list[Any] = []
        for name in names:
            found += _loaded(manager, name)
    shown = tuple(Path(name).name if _is_file(name) else name for name in names)
    return AskedTasks(shown, manager, tuple(found), num_fewshot, limit, chat_template)


def _is_file(name: str) -> bool:
    return name.endswith(FILE_ENDINGS)


def _group_in(name: str) -> str | None:
    """The group that a task file defines; None for a task, or for the name of one."""
    if not _is_file(name):
        return None
    found = re.search(r"^group: *(\S+)", Path(name).read_text(encoding="utf-8"), re.MULTILINE)
    return found and found[1].strip("'\"")


def _loaded(manager: Any, name: str) -> list[Any]:
    """The tasks, or the group, of that name."""
    if not _is_file(name) and name not in manager.all_tasks:
        close = get_close_matches(name, manager.all_tasks, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]!r}?" if close else "`lm-eval ls tasks` lists them"
        raise UserError(f"--tasks: lm-eval has no task {name!r}; {hint}")
    path = Path(name).resolve()
    try:
        asked = _group_in(name) or (str(path) if _is_file(name) else name)
        with chdir(path.parent) if _is_file(name) else nullcontext():
            loaded = manager.load([asked])
    # Task files, their functions and the readers of data sets raise whatever they like.
    except Exception as error:
        raise UserError(
            f"--tasks: {name} cannot be loaded: {type(error).__name__}: {error}; without a network "
            "its data must be in the cache, or in files that a task file (.yaml) names"
        ) from None
    groups = list(loaded["groups"].values())
    inside = {task.task_name for group in groups for task in group.get_all_tasks()}
    below = {group.name for one in groups for group in one.get_all_groups()}
    alone = [task for task in loaded["tasks"].values() if task.task_name not in inside]
    return [group for group in groups if group.name not in below] + alone


def task_scores(
    tasks: AskedTasks, model: Any, tokenizer: Any, batch_size: int, autocast: str | None = None
) -> dict[ScoreKey, MeasuredScore]:
    """Run the tasks on a model.

    Args:
        tasks: see `load_tasks`.
        model: a transformers model, on the device to use.
        tokenizer: its tokenizer.
        batch_size: sequences per forward pass.
        autocast: dtype to compute in; None: that of the weights.

    Raises:
        UserError: the tasks cannot be run on this model.
    """
    with _on_stderr():
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        lm = HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            mixed_precision_dtype=autocast,
        )
        try:
            found = simple_evaluate(
                lm,
                tasks=list(tasks.loaded),
                task_manager=tasks.manager,
                num_fewshot=tasks.num_fewshot,
                limit=tasks.limit,
                apply_chat_template=tasks.chat_template,
                log_samples=False,
            )
        # The harness says in many ways that a task does not suit a model.
        except (ValueError, AssertionError, KeyError, RuntimeError, IndexError) as error:
            raise UserError(
                f"--tasks: {', '.join(tasks.names)}: cannot be evaluated: "
                f"{type(error).__name__}: {error}"
            ) from None
    assert found is not None, "one process has all results"
    return dict(_scores(found))


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
def _on_stderr() -> Iterator[None]:
    """Send what the harness prints to stderr, and drop its remarks."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(before)

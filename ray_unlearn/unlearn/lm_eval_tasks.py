"""Tasks of lm-evaluation-harness (EleutherAI) with their data, loaded in this process.

https://github.com/EleutherAI/lm-evaluation-harness, Gao et al. 2024. Whether data sets may come
from the network is the user's setting (HF_DATASETS_OFFLINE, HF_HUB_OFFLINE), which stays as it is.
"""

import logging
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.row_tasks import FILE_ENDINGS

INSTALL = "pip install 'ray-unlearn[lm-eval]'"


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
    place: str = "--tasks"
    """Where they were asked for, in errors."""

    @property
    def each(self) -> list[Any]:
        """The tasks, those of groups one by one."""
        return [
            task
            for one in self.loaded
            for task in (one.get_all_tasks() if hasattr(one, "get_all_tasks") else (one,))
        ]

    @property
    def examples(self) -> int:
        """Examples that one model is asked."""
        return sum(
            min(self.limit or len(task.eval_docs), len(task.eval_docs)) for task in self.each
        )


def load_tasks(
    names: Sequence[str],
    num_fewshot: int | None = None,
    limit: int | None = None,
    chat_template: bool = False,
    place: str = "--tasks",
) -> AskedTasks:
    """Load tasks and their data, before anything expensive starts.

    Args:
        names: tasks, groups or tags that lm-eval knows, or paths of task files (.yaml); paths
            inside a file are relative to its folder.
        num_fewshot: examples before each question; None: as each task has it.
        limit: take the first examples of each task only.
        chat_template: write prompts with the tokenizer's chat template.
        place: where they are asked for, for errors.

    Raises:
        UserError: lm-eval is not installed, an unknown task, data that cannot be loaded.
    """
    check_installed(place)
    if not names:
        raise UserError(f"{place}: name at least one task, or the path of a task file (.yaml)")
    twice = [name for name in names if list(names).count(name) > 1]
    if twice:
        raise UserError(f"{place}: {twice[0]!r} is named twice; name it once")
    for name in filter(_is_file, names):
        check_task_file(name, place)
    with on_stderr():
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
            found += _loaded(manager, name, place)
    shown = tuple(Path(name).name if _is_file(name) else name for name in names)
    asked = AskedTasks(shown, manager, tuple(found), num_fewshot, limit, chat_template, place)
    for task in asked.each:
        _set_up(task, num_fewshot)
    return asked


def check_installed(place: str) -> None:
    """Refuse tasks where lm-eval, or what it runs models with, is not installed.

    Raises:
        UserError: it is not.
    """
    if any(find_spec(name) is None for name in ("lm_eval", "accelerate")):
        raise UserError(f"{place}: needs lm-evaluation-harness: {INSTALL}")


def check_task_file(name: str, place: str) -> None:
    """Refuse the path of a task file that is not there.

    Raises:
        UserError: there is none.
    """
    if not Path(name).is_file():
        raise UserError(f"{place}: no such task file: {name}")


def _set_up(task: Any, num_fewshot: int | None) -> None:
    """Examples before each question as lm-eval has them; sums that overflow are infinite."""
    own = task.get_config("num_fewshot")
    if num_fewshot is None and own is None:
        task.set_config(key="num_fewshot", value=0)
    elif num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    for metric, aggregate in getattr(task, "_aggregation_list", {}).items():
        task._aggregation_list[metric] = partial(_or_infinity, aggregate)


def _or_infinity(aggregate: Callable[[Any], float], items: Any) -> float:
    """What lm-eval raises an error for: the perplexity of a model that knows nothing any more."""
    try:
        return aggregate(items)
    except OverflowError:
        return math.inf


def _is_file(name: str) -> bool:
    return name.endswith(FILE_ENDINGS)


def _group_in(name: str) -> str | None:
    """The group that a task file defines; None for a task, or for the name of one."""
    if not _is_file(name):
        return None
    found = re.search(r"^group: *(\S+)", Path(name).read_text(encoding="utf-8"), re.MULTILINE)
    return found and found[1].strip("'\"")


def _loaded(manager: Any, name: str, place: str) -> list[Any]:
    """The tasks, or the group, of that name."""
    if not _is_file(name) and name not in manager.all_tasks:
        close = get_close_matches(name, manager.all_tasks, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]!r}?" if close else "`lm-eval ls tasks` lists them"
        raise UserError(f"{place}: lm-eval has no task {name!r}; {hint}")
    path = Path(name).resolve()
    try:
        asked = _group_in(name) or (str(path) if _is_file(name) else name)
        with chdir(path.parent) if _is_file(name) else nullcontext():
            loaded = manager.load([asked])
    # Task files, their functions and the readers of data sets raise whatever they like.
    except Exception as error:
        raise UserError(
            f"{place}: {name} cannot be loaded: {type(error).__name__}: {error}; without a network "
            "its data must be in the cache, or in files that a task file (.yaml) names"
        ) from None
    groups = list(loaded["groups"].values())
    inside = {task.task_name for group in groups for task in group.get_all_tasks()}
    below = {group.name for one in groups for group in one.get_all_groups()}
    alone = [task for task in loaded["tasks"].values() if task.task_name not in inside]
    return [group for group in groups if group.name not in below] + alone


@contextmanager
def on_stderr() -> Iterator[None]:
    """Send what the harness prints to stderr, and drop its remarks."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(before)

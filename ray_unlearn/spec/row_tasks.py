"""RowTask: a task of lm-evaluation-harness whose metrics are columns of every row."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from ray_unlearn.spec.bounds import MOST_DOCUMENTS
from ray_unlearn.spec.strict import Strict

TASK_COLUMN = "task."
"""Columns of tasks begin so; no set, term or hyperparameter has a dot in its name."""
FILE_ENDINGS = (".yaml", ".yml")
Better = Literal["maximise", "minimise", "none"]
BETTER: dict[str, Better] = {
    **dict.fromkeys(
        ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "acc_all", "exact_match", "em", "f1",
         "mcc", "bleu", "chrf", "likelihood"),
        "maximise",
    ),
    **dict.fromkeys(
        ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter"),
        "minimise",
    ),
}  # fmt: skip
"""The better side of metrics that lm-eval brings along (`lm_eval.api.metrics`, 0.4.13)."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_METRIC = re.compile(r"[A-Za-z0-9_+-]{1,60}(,[A-Za-z0-9_-]{1,60})?")


class RowTask(Strict):
    """One task, or a group of tasks with metrics of its own, and what of it is a column."""

    task: str = Field(
        description="task or group that lm-eval knows, or path of a task file (.yaml), relative to "
        "the study file"
    )
    metrics: dict[str, Better] = Field(
        min_length=1,
        description="which of its metrics, and which side is better: `maximise`, `minimise` or "
        "`none` (questions about what is to be forgotten). A list where lm-eval's own side holds. "
        "A filter follows a comma: `exact_match,strict-match`",
    )
    limit: int | None = Field(
        None, ge=1, le=MOST_DOCUMENTS, description="its first examples only; null: all"
    )
    num_fewshot: int | None = Field(
        None, ge=0, le=1000, description="examples before each question; null: as the task has it"
    )
    chat_template: bool = Field(
        False, description="write prompts with the chat template of the model's tokenizer"
    )
    at: Literal["last", "every"] = Field(
        "every", description="every row of a trial, or that of its last update"
    )

    @field_validator("metrics", mode="before")
    @classmethod
    def _known_sides(cls, value: object) -> object:
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list):
            return value
        names = [str(name) for name in value]
        for name in names:
            if name.partition(",")[0] not in BETTER:
                raise ValueError(
                    f"which side of {name!r} is better is not known; write `{{{name}: maximise}}`, "
                    "`minimise` or `none`"
                )
        return {name: BETTER[name.partition(",")[0]] for name in names}

    @model_validator(mode="after")
    def _fit_for_a_column(self) -> "RowTask":
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"task: {self.task!r} names a column, so it has letters, digits, _ and - alone; "
                "rename the file"
            )
        for metric in self.metrics:
            if not _METRIC.fullmatch(metric):
                raise ValueError(
                    f"metrics: {metric!r} is no metric; write its name, or name and filter with a "
                    "comma between them, as in `exact_match,strict-match`"
                )
        return self

    @property
    def is_file(self) -> bool:
        """Whether it is the path of a task file."""
        return self.task.endswith(FILE_ENDINGS)

    @property
    def name(self) -> str:
        """What its columns are called after: the task, or its file without folder and ending."""
        return Path(self.task).stem if self.is_file else self.task

    @property
    def columns(self) -> dict[str, str]:
        """By name of the column, the metric: `task.births.acc`."""
        return {f"{TASK_COLUMN}{self.name}.{m.replace(',', '.')}": m for m in self.metrics}

    def decisive(self) -> dict[str, Any]:
        """Everything in it that decides results, without the folder that a file is in."""
        content = self.model_dump(mode="json")
        return content | ({"task": Path(self.task).name} if self.is_file else {})


def task_digests(tasks: Iterable[RowTask]) -> dict[str, str]:
    """By name, a digest of each task file and of the files that it names; of lm-eval's own none."""
    return {one.name: _digest(Path(one.task)) for one in tasks if one.is_file}


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    for file in dict.fromkeys(_files(path, set())):
        total.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:12]


def _files(path: Path, seen: set[Path]) -> Iterator[Path]:
    """A task file and the files beside it that it names: data, functions, what it includes."""
    path = path.resolve()
    if path in seen or not path.is_file():
        return
    seen.add(path)
    yield path
    if path.suffix not in FILE_ENDINGS:
        return
    for text in _texts(yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)):
        # `!function utils.process` names utils.py.
        for name in (text, f"{text.partition('.')[0]}.py"):
            if len(name) < 256 and "\n" not in name and "\0" not in name:
                yield from _files(path.parent / name, seen)


def _texts(node: yaml.Node | None) -> Iterator[str]:
    """All scalars of a YAML document; nothing is constructed."""
    if isinstance(node, yaml.ScalarNode):
        yield node.value
    elif isinstance(node, yaml.SequenceNode):
        for one in node.value:
            yield from _texts(one)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _texts(key)
            yield from _texts(value)

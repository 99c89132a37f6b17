"""Results of lm-evaluation-harness on the model of a trial and the models beside it."""

import json
from typing import Literal

from pydantic import Field, TypeAdapter, ValidationError

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.strict import Strict

TASKS_FILE = "lm_eval.json"
"""Name of the results in a study's folder."""

TaskModel = Literal["this", "vanilla", "exact_retrain"]


class TaskScore(Strict):
    """One metric of one task, by model."""

    task: str
    metric: str
    filter: str = Field("none", description="how answers were read off, where a task has ways")
    higher_is_better: bool | None = None
    examples: int | None = Field(None, description="of the task; null for a group of tasks")
    values: dict[TaskModel, float | None]
    standard_errors: dict[TaskModel, float | None]

    @property
    def name(self) -> str:
        """The metric, with its filter where there is one."""
        return self.metric if self.filter == "none" else f"{self.metric} ({self.filter})"


class TaskResults(Strict):
    """What one call measured."""

    trial: int = Field(description="number of the trial")
    trial_id: str
    method: str
    update: int
    strength: float
    asked: tuple[str, ...] = Field(description="tasks as they were asked for, files by their name")
    num_fewshot: int | None = None
    limit: int | None = None
    chat_template: bool = False
    lm_eval: str = Field(description="version of lm-evaluation-harness")
    scores: tuple[TaskScore, ...]

    @property
    def models(self) -> tuple[TaskModel, ...]:
        """The models that were measured, this trial's first."""
        return tuple(self.scores[0].values) if self.scores else ()

    @property
    def question(self) -> tuple[object, ...]:
        """What was asked: a later call with the same question replaces this one."""
        model = (self.trial_id, self.update, self.strength)
        return (*model, self.asked, self.num_fewshot, self.limit, self.chat_template)


_RESULTS = TypeAdapter(tuple[TaskResults, ...])


def read_task_results(content: bytes, place: str) -> tuple[TaskResults, ...]:
    """The results in the content of a `TASKS_FILE`.

    Raises:
        StorageError: it is not one.
    """
    try:
        return _RESULTS.validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StorageError(
            f"{place}: {where}: {first['msg']}; remove the file and evaluate again"
        ) from None


def task_results_as_json(results: tuple[TaskResults, ...]) -> bytes:
    """The content of a `TASKS_FILE`."""
    content = [one.model_dump(mode="json") for one in results]
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()

"""A trial's model on tasks of lm-evaluation-harness, beside vanilla and the retrained model."""

import math
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.task_results import (
    TASKS_FILE,
    TaskModel,
    TaskResults,
    TaskScore,
    read_task_results,
    task_results_as_json,
)
from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import RowKey
from ray_unlearn.store.storage import Storage
from ray_unlearn.unlearn.lm_eval_answers import MeasuredScore, ScoreKey, task_scores
from ray_unlearn.unlearn.lm_eval_tasks import AskedTasks
from ray_unlearn.unlearn.model import exact_retrain_sources, load_model, load_tokenizer
from ray_unlearn.unlearn.trial_model import TrialModels

Say = Callable[[str], None]


def evaluate_trial(
    study: Path,
    storage: Storage,
    trial: str,
    tasks: AskedTasks,
    say: Say,
    *,
    update: int | None = None,
    strength: float | None = None,
    batch_size: int | None = None,
) -> TaskResults:
    """Run tasks on the model of a trial, and store the results with the study.

    The model is written to a temporary folder as `export` writes it, and read from there, so that
    one model at a time is in memory.

    Args:
        study: study directory, or a copy of it.
        storage: where the study's weights are, and where the results go.
        trial: id or number of the trial, or `best`.
        tasks: see `load_tasks`.
        say: called with each line of progress.
        update: as in `TrialModels.make`.
        strength: as in `TrialModels.make`.
        batch_size: sequences per forward pass; None: `evaluation.batch_size` of the study.

    Raises:
        UserError: as in `TrialModels.make`; tasks that cannot be run on this model.
        StorageError: the study cannot be read or written.
    """
    with tempfile.TemporaryDirectory(prefix="ray-unlearn-") as folder:
        spec, chosen, at = _written(study, storage, trial, update, strength, Path(folder), say)
        uses_gpu = torch.cuda.is_available() and spec.operations.gpus_per_worker > 0
        found: dict[TaskModel, dict[ScoreKey, MeasuredScore]] = {}
        for name, source in _models(spec, folder).items():
            say(f"{', '.join(tasks.names)}: {MODEL_WORDS[name]}")
            found[name] = task_scores(
                tasks,
                load_model(spec.model, source).to("cuda" if uses_gpu else "cpu"),
                load_tokenizer(spec.model),
                batch_size or spec.evaluation.batch_size,
                spec.model.autocast,
            )
    results = _results(chosen, at, tasks, found)
    _store(storage, results)
    return results


MODEL_WORDS: dict[TaskModel, str] = {
    "this": "the trial's model",
    "vanilla": "the vanilla model",
    "exact_retrain": "the exactly retrained model",
}


def _written(
    study: Path,
    storage: Storage,
    trial: str,
    update: int | None,
    strength: float | None,
    folder: Path,
    say: Say,
) -> tuple[StudySpec, Trial, RowKey]:
    """Write the trial's model to the folder; what was needed to make it is freed on return."""
    models = TrialModels(study, storage, say)
    made = models.make(trial, update, strength)
    say(f"the trial's model: {made.how}")
    models.single.save(folder)
    return models.single.spec, made.trial, made.at


def _models(spec: StudySpec, folder: str) -> dict[TaskModel, str | None]:
    """Where each model is; None: the study's own source."""
    models: dict[TaskModel, str | None] = {"this": folder, "vanilla": None}
    retrained = exact_retrain_sources(spec.model).get("exact_retrain")
    return models if retrained is None else models | {"exact_retrain": retrained}


def _results(
    chosen: Trial,
    at: RowKey,
    tasks: AskedTasks,
    found: Mapping[TaskModel, Mapping[ScoreKey, MeasuredScore]],
) -> TaskResults:
    scores = [
        TaskScore(
            task=task,
            metric=metric,
            filter=way,
            higher_is_better=own.higher_is_better,
            examples=own.examples,
            values={name: _finite(by[task, metric, way].value) for name, by in found.items()},
            standard_errors={
                name: _finite(by[task, metric, way].standard_error) for name, by in found.items()
            },
        )
        for (task, metric, way), own in found["this"].items()
    ]
    return TaskResults(
        trial=chosen.number,
        trial_id=chosen.trial_id,
        method=str(chosen.config["method"]),
        update=at[0],
        strength=at[1],
        asked=tasks.names,
        num_fewshot=tasks.num_fewshot,
        limit=tasks.limit,
        chat_template=tasks.chat_template,
        lm_eval=version("lm_eval"),
        scores=tuple(scores),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _store(storage: Storage, results: TaskResults) -> None:
    """Add results to those of the study; they replace an earlier answer to the same question."""
    try:
        try:
            before = read_task_results(storage.read(TASKS_FILE), f"{storage.url}/{TASKS_FILE}")
        except FileNotFoundError:
            before = ()
        others = tuple(one for one in before if one.question != results.question)
        storage.write(TASKS_FILE, task_results_as_json((*others, results)))
    except OSError as error:
        raise StorageError(f"{storage.url}: results cannot be stored: {error}") from None

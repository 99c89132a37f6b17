"""`ray-unlearn evaluate`: a trial's model on tasks of lm-evaluation-harness."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_unlearn.cli.options import Location
from ray_unlearn.cli.show import Json, four_digits, print_json, print_table, say

if TYPE_CHECKING:
    from ray_unlearn.spec.task_results import TaskModel, TaskResults, TaskScore

COLUMNS: dict["TaskModel", str] = {
    "this": "this",
    "vanilla": "vanilla",
    "exact_retrain": "retrained",
}


def evaluate_command(
    location: Location,
    tasks: Annotated[
        list[str],
        typer.Option(
            "--tasks",
            help="tasks of lm-eval, or a task file (.yaml) with local data; several with commas, "
            "or the option several times",
            show_default=False,
        ),
    ],
    trial: Annotated[str, typer.Option(help="trial id, number, or `best`")] = "best",
    update: Annotated[
        int | None, typer.Option(min=1, help="default: that of the row that scores the trial")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="a in W_0 + a (W_t - W_0), up to 2; default: the best row's, or 1 with --update"
        ),
    ] = None,
    num_fewshot: Annotated[
        int | None,
        typer.Option(min=0, help="examples before each question; default: as each task has it"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="only the first examples of each task, to try it")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="default: `evaluation.batch_size` of the study")
    ] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="write prompts with the model's chat template")
    ] = False,
    json: Json = False,
) -> None:
    """Run lm-evaluation-harness on a trial's model, on vanilla and on the retrained model.

    The results are stored with the study, and `report` shows them."""
    from ray_unlearn.api import Study

    found = Study(location).evaluate(
        [name.strip() for given in tasks for name in given.split(",") if name.strip()],
        trial,
        update=update,
        strength=strength,
        num_fewshot=num_fewshot,
        limit=limit,
        batch_size=batch_size,
        chat_template=chat_template,
        say=say,
    )
    if json:
        print_json(found.model_dump(mode="json"))
        return
    _show(found)


def _show(found: "TaskResults") -> None:
    print_table(
        ["task", "metric", *(COLUMNS[name] for name in found.models), "examples"],
        [
            (
                score.task,
                f"{score.name}{_direction(score)}",
                *(_cell(score, name) for name in found.models),
                "" if score.examples is None else score.examples,
            )
            for score in found.scores
        ],
        title=f"{found.method}, trial {found.trial}, update {found.update}"
        + ("" if found.strength == 1 else f", strength {found.strength:.4g}"),
    )


def _direction(score: "TaskScore") -> str:
    if score.higher_is_better is None:
        return ""
    return f" ({'higher' if score.higher_is_better else 'lower'} is better)"


def _cell(score: "TaskScore", model: "TaskModel") -> Any:
    value, error = score.values[model], score.standard_errors[model]
    if value is None:
        return "none"
    return four_digits(value) + ("" if error is None else f" ± {error:.2g}")

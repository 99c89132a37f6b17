"""What TensorBoard, MLflow and W&B are told of a trial: names, configuration, metrics, outcome."""

from typing import Any

from ray_unlearn.execution.drawn_points import active
from ray_unlearn.spec.row_tasks import TASK_COLUMN
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import COLUMNS, SETS, Row, is_as_trained
from ray_unlearn.store.score import ScoreRule
from ray_unlearn.store.study_columns import set_of

BEST = (
    "score_selection",
    "score_reporting",
    "forget_gap_selection",
    "utility_loss_selection",
    "forget_ppl",
    "update",
    "strength",
)
"""Columns of a trial's best row shown with its configuration, under `best/`."""

TRAINING = (
    "strength",
    "epoch",
    "forget_loss",
    "retain_loss",
    "grad_norm",
    "learning_rate_sum",
    "forget_tokens",
    "retain_tokens",
)
CALIBRATED = "calibrated/"
"""Before the tags of rows at another strength than 1, which have the update of a row as trained."""
OBJECTIVES = ("score", "forget_gap", "utility_loss", "exact_distance")


def tag(column: str) -> str:
    """A column's name: its group and the rest, as in `forget/ppl`."""
    if column in TRAINING:
        return f"training/{column}"
    if column.startswith(OBJECTIVES):
        return f"objective/{column}"
    if column.startswith(TASK_COLUMN):
        return column.replace(".", "/")
    if column not in COLUMNS:
        return "/".join(set_of(column) or ("benchmark", column))
    group, _, rest = column.partition("_")
    return f"{group}/{rest}" if group in {*SETS, "mia"} else f"cost/{column}"


def run_name(trial: Trial) -> str:
    """The name of a trial's run: `0007-gradient_ascent`."""
    return f"{trial.number:04d}-{trial.method}"


def run_configuration(spec: StudySpec, trial: Trial) -> dict[str, Any]:
    """Method, seed and the hyperparameters that count."""
    point = active(spec.spaces[trial.method], trial.config)
    return {"method": trial.method, "seed": trial.config["seed"]} | point


def shown_metrics(row: Row) -> dict[str, float]:
    """All of a row's values by name, to be shown at the row's update.

    Calibrated rows have names of their own: they have the update of a row as trained.
    """
    trained = is_as_trained(row)
    prefix = "" if trained else CALIBRATED
    return {
        prefix + tag(name): value
        for name, value in row.items()
        if name != "update" and not (trained and name == "strength")
    }


def best_metrics(rule: ScoreRule, trial: Trial) -> dict[str, float]:
    """`BEST` of the row that scores a finished trial; nothing where none does."""
    best = rule.row(trial)
    return {} if best is None else {f"best/{n}": v for n, v in best.items() if n in BEST}


def outcome_text(trial: Trial) -> str:
    """The outcome with its reason: `pruned: the median is lower`."""
    return f"{trial.status}: {trial.reason}" if trial.reason else str(trial.status)

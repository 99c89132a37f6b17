"""Tasks of lm-evaluation-harness as columns of rows, on the lane's model as it is."""

import numpy as np
import torch

from ray_unlearn.store.schema import Metrics
from ray_unlearn.unlearn.decoding import plainly
from ray_unlearn.unlearn.lm_eval_answers import MeasuredScore, ScoreKey, task_scores
from ray_unlearn.unlearn.loaded_tasks import OF_FILTER, LoadedTask
from ray_unlearn.unlearn.scored import Scored
from ray_unlearn.unlearn.workspace import Workspace


def task_metrics(workspace: Workspace, model: Scored, last: bool) -> Metrics:
    """Columns of all tasks that are asked now. A collective of all ranks, the same on each.

    Args:
        workspace: whose evaluation says what is asked.
        model: who answers; it is left as it was.
        last: whether this is the last row of its trial, or a baseline.
    """
    found: Metrics = {}
    for one in workspace.tasks:
        if one.asked.at == "every" or last:
            found |= _of_task(workspace, model, one)
    return found


@torch.no_grad()
def _of_task(workspace: Workspace, model: Scored, one: LoadedTask) -> Metrics:
    # Where padded prompts are not decoded as they should be, each is alone in its batch.
    padded = not one.generates or workspace.can_cache

    def ask() -> dict[ScoreKey, MeasuredScore]:
        with plainly(model.model):
            return task_scores(
                one.tasks,
                model.model,
                workspace.data.tokenizer,
                workspace.evaluation_batch_size if padded else 1,
                workspace.autocast,
                workspace.comm_of_whole_models,
                in_a_row=True,
            )

    # Inside a call, so that weights are where they are in every other call (`Scored`).
    anchor = workspace.batch("forget", np.zeros(1, dtype=np.int64)).without_targets()
    scores = model(anchor, lambda hidden, head: ask())
    return {
        column: scores[one.own_name, *_metric_and_filter(metric)].value
        for column, metric in one.asked.columns.items()
    }


def _metric_and_filter(metric: str) -> tuple[str, str]:
    name, _, way = metric.partition(",")
    return name, way or OF_FILTER

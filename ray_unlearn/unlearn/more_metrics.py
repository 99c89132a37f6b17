"""What only some studies measure: watched sets, truth ratios, generated answers, tasks."""

import numpy as np

from ray_unlearn.spec.data_spec import COMPARED
from ray_unlearn.store.schema import Metrics
from ray_unlearn.unlearn.compared_answers import split_of
from ray_unlearn.unlearn.generated import generated_metrics
from ray_unlearn.unlearn.measured_tasks import task_metrics
from ray_unlearn.unlearn.metrics import SetScores, mean_by_document, token_means
from ray_unlearn.unlearn.retrained import MeasuredRow
from ray_unlearn.unlearn.scored import Scored
from ray_unlearn.unlearn.set_passes import document_means
from ray_unlearn.unlearn.truth_ratio import UTILITY_PARTS, Truth, model_utility, truth_metrics
from ray_unlearn.unlearn.workspace import Workspace


def more_metrics(
    workspace: Workspace, model: Scored, sets: dict[str, SetScores] | None, last: bool
) -> MeasuredRow:
    """What only some studies measure: watched sets, truth ratios, what is generated, tasks.

    A collective of all ranks; the row is whole on rank 0.
    """
    row: Metrics = {}
    if sets is not None:
        for name in workspace.data.watched:
            every = np.ones(len(sets[name].selection), dtype=bool)
            row |= token_means(sets[name], name, "", every)
    row |= generated_metrics(workspace, model, last)
    row |= task_metrics(workspace, model, last)
    truths: dict[str, Truth] = {}
    for name in ("forget", *workspace.data.watched):
        if split_of(name, "perturbed") in workspace.data.owners:
            truths |= _truth(workspace, model, sets, name)
    row |= truth_metrics(truths)
    named = workspace.evaluation.model_utility
    if named and all(f"{name}_rouge_l" in row for name in named):
        parts = [row[f"{name}_{part}"] for name in named for part in UTILITY_PARTS]
        row["model_utility"] = model_utility(parts)
    return MeasuredRow(row, truths["forget"].log_ratios if "forget" in truths else None)


def _truth(
    workspace: Workspace, model: Scored, sets: dict[str, SetScores] | None, name: str
) -> dict[str, Truth]:
    """Log-probabilities per token of a set's answers, on rank 0."""
    owners = workspace.data.owners
    means = {
        kind: document_means(workspace, model, split)
        for kind in COMPARED
        if (split := split_of(name, kind)) in owners
    }
    if sets is None:
        return {}
    scores = sets[name]
    own = mean_by_document(scores.logprob, scores.document, len(scores.selection))
    answers = {
        kind: (mean, owners[split_of(name, kind)])
        for kind, mean in means.items()
        if mean is not None
    }
    return {name: Truth(own, answers["perturbed"], answers.get("paraphrased"))}

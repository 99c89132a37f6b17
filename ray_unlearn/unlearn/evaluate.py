"""One evaluation: one forward pass over each set gives every metric."""

from dataclasses import replace

import torch

from ray_unlearn.store.schema import Metrics
from ray_unlearn.unlearn.data import EVALUATED
from ray_unlearn.unlearn.halves import deal_halves, half_metrics
from ray_unlearn.unlearn.metrics import row_metrics
from ray_unlearn.unlearn.more_metrics import more_metrics
from ray_unlearn.unlearn.retrained import MeasuredRow, compared
from ray_unlearn.unlearn.scored import Scored
from ray_unlearn.unlearn.screening import Screening, screened
from ray_unlearn.unlearn.set_passes import own_logprobs, set_scores
from ray_unlearn.unlearn.workspace import Workspace


def evaluate(
    workspace: Workspace,
    other: Scored | None = None,
    *,
    last: bool = True,
    screening: Screening | None = None,
) -> Metrics:
    """All metrics of the policy as it is now, or of another model.

    A collective of all ranks, with the same row on every rank.

    Args:
        workspace: where it is.
        other: the other model.
        last: whether this is a trial's last row, or a baseline (`evaluation.generate.at`).
        screening: where the policy is measured on a part first; None: on everything.
    """
    if screening is not None and other is None:
        return compared(screened(workspace, screening, last=last), workspace.retrained)
    return compared(measured(workspace, other, last=last), workspace.retrained)


def measured(
    workspace: Workspace, other: Scored | None = None, *, last: bool = True
) -> MeasuredRow:
    """As `evaluate`, without what is said of the exactly retrained model."""
    model = other or workspace.policy.scored
    sets = set_scores(workspace, model)
    more = more_metrics(workspace, model, sets, last)
    found = None if sets is None else replace(more, row=row_metrics(sets) | more.row)
    return workspace.comm.broadcast(found)


def measured_vanilla(workspace: Workspace) -> MeasuredRow:
    """As `measured` for the policy, which is the vanilla model now, and what its halves hold.

    Deals the halves first, where that is still to be done. A collective of all ranks.
    """
    model = workspace.policy.scored
    sets = set_scores(workspace, model)
    if workspace.data.to_deal:
        dealt = None
        if sets is not None:
            dealt = deal_halves(sets)
            sets |= {name: replace(sets[name], selection=half) for name, half in dealt.items()}
        workspace.use_halves(workspace.comm.broadcast(dealt))
    more = more_metrics(workspace, model, sets, last=True)
    found = None
    if sets is not None:
        halves = half_metrics(sets, workspace.data.dealing)
        found = replace(more, row=row_metrics(sets) | halves | more.row)
    return workspace.comm.broadcast(found)


@torch.no_grad()
def forget_nll(workspace: Workspace) -> float:
    """Token-mean NLL of the policy as it is now on the forget set, nats/token.

    It is what `evaluate` says, to rounding, from a pass over that set alone. A collective of all
    ranks, and the same on each.
    """
    model, comm = workspace.policy.scored, workspace.comm
    total, targets = 0.0, 0
    for found in own_logprobs(workspace, model, EVALUATED["forget"]):
        total -= float(found.double().sum())
        targets += len(found)
    parts = comm.gather((total, targets))
    sums = None if parts is None else [sum(column) for column in zip(*parts, strict=True)]
    return float(comm.broadcast(None if sums is None else sums[0] / sums[1]))

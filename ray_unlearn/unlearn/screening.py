"""Measuring a row on a part of the documents first, and on all of them where it may be the best.

A row is measured on the whole forget set and on a part of the approximate, retain and general
documents, the same part in every row. What it scores follows from that part by difference: with
mean(.) over the targets of the part,

    log ppl(S) = log ppl_0(S) + mean(nll - nll_0)

where log ppl_0(S) is that of all documents (the difference estimator of survey sampling; Cochran,
Sampling Techniques, 3rd ed. 1977, section 7.7, with slope 1). How
well a quarter of them tells is not settled (decision 40). The forget gap is exact: the forget set
is measured in full, and the target is the vanilla model's.

A row is measured in full unless the lowest score that it can well have, `SURE` standard errors
better in each utility, is above that of the method's best row so far.

Shapes: D documents of a set.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.spec.score_weights import ScoreWeights
from ray_unlearn.store.row_score import weighted_score
from ray_unlearn.store.schema import HALVED_SETS, HALVES, Metrics
from ray_unlearn.store.study_columns import MEASURED_SHARE
from ray_unlearn.unlearn.data import EVALUATED
from ray_unlearn.unlearn.halves import standard_error
from ray_unlearn.unlearn.metrics import SetScores, in_half, perplexity, row_metrics
from ray_unlearn.unlearn.more_metrics import more_metrics
from ray_unlearn.unlearn.retrained import MeasuredRow
from ray_unlearn.unlearn.set_passes import Columns, scores_of, token_columns
from ray_unlearn.unlearn.token_set import TokenSet
from ray_unlearn.unlearn.workspace import Workspace

SURE = 3.0
"""Standard errors that a row is given before it is called worse than the best."""
KEPT = ("retain", "general")
LEAST = 2
"""Documents of each half in a part, as a standard error needs."""


@dataclass(frozen=True)
class Screening:
    """What decides whether a trial's rows are measured in full.

    share: of the documents of each half of a set that every row is measured on.
    best: score of the method's best row so far, on the selection half.
    vanilla: the vanilla baseline's nlls of the sets that have halves.
    weights: of the score's parts.
    """

    share: float
    best: float
    vanilla: Mapping[str, float]
    weights: ScoreWeights

    def may_be_best(self, row: Metrics, changes: Mapping[str, "Change"]) -> bool:
        """Whether the row's score may be as low as the best so far.

        Args:
            row: the row as estimated.
            changes: by set, that of its selection half.
        """
        gap = abs(row["forget_nll"] - self.vanilla["approximate_nll_selection"])
        least = {name: max(0.0, changes[name].least) for name in KEPT}
        lowest = weighted_score(gap, least["retain"], least["general"], self.weights)
        return not lowest > self.best  # what is not a number is looked at in full


@dataclass(frozen=True)
class Change:
    """How much the nll of one half of a set has risen over the vanilla model's, nats/token."""

    nll: float
    se: float

    @property
    def least(self) -> float:
        """What it may well be at best."""
        return self.nll - SURE * self.se


@dataclass(frozen=True)
class Part:
    """A part of a set: its documents [D], the sequences that hold them, and all others."""

    documents: NDArray[np.bool_]
    sequences: NDArray[np.int64]
    others: NDArray[np.int64]

    @classmethod
    def of(cls, tokens: TokenSet, share: float) -> "Part":
        """`share` of the documents of each half, evenly over their order; `LEAST` at least."""
        documents = np.zeros(len(tokens.selection), dtype=bool)
        for half in (tokens.selection, ~tokens.selection):
            there = np.flatnonzero(half)
            count = min(len(there), max(LEAST, math.ceil(share * len(there))))
            documents[there[np.linspace(0, len(there) - 1, count).round().astype(int)]] = True
        holds = np.isin(tokens.document, np.flatnonzero(documents)).any(axis=1)
        return cls(documents, np.flatnonzero(holds), np.flatnonzero(~holds))

    def scores(self, tokens: TokenSet, columns: Columns) -> SetScores:
        """The scores of the part's documents, of columns of its sequences."""
        document = tokens.document[self.sequences, 1:][tokens.target_mask[self.sequences]]
        wanted = self.documents[document]
        found = scores_of(tokens, tuple(column[wanted] for column in columns))
        numbers = np.cumsum(self.documents) - 1
        return replace(
            found,
            document=numbers[document[wanted]].astype(np.int32),
            compressed_bytes=tokens.compressed_bytes[self.documents],
            selection=tokens.selection[self.documents],
        )

    def all_columns(self, tokens: TokenSet, part: Columns, rest: Columns) -> Columns:
        """Columns of all targets in their order, of the part's sequences and of the others."""
        held = np.zeros(len(tokens), dtype=bool)
        held[self.sequences] = True
        here = np.repeat(held, tokens.target_mask.sum(axis=1))
        found = []
        for own, other in zip(part, rest, strict=True):
            column = np.empty(len(here), dtype=own.dtype)
            column[here], column[~here] = own, other
            found.append(column)
        return tuple(found)


def screened(workspace: Workspace, screening: Screening, *, last: bool) -> MeasuredRow:
    """The row of the policy as it is now, in full where it may be the best of its method.

    A collective of all ranks, with the same row on every rank.

    Args:
        workspace: where it is.
        screening: what decides.
        last: whether this is a trial's last row.
    """
    comm, model, splits = workspace.comm, workspace.policy.scored, workspace.data.splits
    parts = {name: Part.of(splits[EVALUATED[name]], screening.share) for name in HALVED_SETS}
    columns = {"forget": token_columns(workspace, model, "forget")} | {
        name: token_columns(workspace, model, EVALUATED[name], part.sequences)
        for name, part in parts.items()
    }
    some: dict[str, Columns] = {n: found for n, found in columns.items() if found is not None}
    sets: dict[str, SetScores] = {}
    row: Metrics = {}
    wanted = False
    if some:  # on rank 0
        sets = {"forget": scores_of(splits["forget"], some["forget"])} | {
            name: part.scores(splits[EVALUATED[name]], some[name]) for name, part in parts.items()
        }
        row, changes = estimated(sets, screening)
        wanted = screening.may_be_best(row, changes)
    if comm.broadcast(wanted):
        rests = {
            name: token_columns(workspace, model, EVALUATED[name], part.others)
            for name, part in parts.items()
        }
        for name, rest in rests.items():
            if rest is not None:
                tokens = splits[EVALUATED[name]]
                sets[name] = scores_of(tokens, parts[name].all_columns(tokens, some[name], rest))
        row = row_metrics(sets) | {MEASURED_SHARE: 1.0} if sets else {}
    more = more_metrics(workspace, model, sets or None, last)
    found: MeasuredRow = comm.broadcast(replace(more, row=row | more.row) if sets else None)
    return found


def estimated(
    sets: dict[str, SetScores], screening: Screening
) -> tuple[Metrics, dict[str, Change]]:
    """The row by a part of each set, and the changes of their selection halves.

    Accuracies, KL and attacks are those of the part.
    """
    row = row_metrics(sets) | {MEASURED_SHARE: screening.share}
    changes = {}
    for name in HALVED_SETS:
        for half in HALVES:
            found = change_of(sets[name], in_half(sets[name], half), screening.share)
            row[f"{name}_nll_{half}"] = screening.vanilla[f"{name}_nll_{half}"] + found.nll
            row[f"{name}_ppl_{half}"] = perplexity(row[f"{name}_nll_{half}"])
            if half == HALVES[0]:
                changes[name] = found
    return row, changes


def change_of(scores: SetScores, documents: NDArray[np.bool_], share: float) -> Change:
    """How much these documents [D] have changed, and how well that tells the whole half.

    Args:
        scores: of the part.
        documents: those of one half.
        share: of the half that they are (finite population correction).
    """
    count = len(scores.selection)
    tokens = np.bincount(scores.document, minlength=count).astype(np.float64)[documents]
    rises = np.bincount(scores.document, scores.vanilla - scores.logprob, count)
    risen = rises.astype(np.float64)[documents]
    se = standard_error(tokens, risen) * math.sqrt(1 - share)
    return Change(float(risen.sum() / tokens.sum()), se)

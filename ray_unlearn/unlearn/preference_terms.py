"""Terms that compare documents with alternative answers to their prompts."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ray_unlearn.spec.method_terms import OTHER_ANSWERS
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.unlearn.alternatives import ALTERNATIVE, drawn_alternatives
from ray_unlearn.unlearn.batch import joined_batches, on_device
from ray_unlearn.unlearn.compared_answers import split_of
from ray_unlearn.unlearn.head import function_by_head
from ray_unlearn.unlearn.methods import Term
from ray_unlearn.unlearn.methods.losses import Given
from ray_unlearn.unlearn.workspace import Workspace

Indices = NDArray[np.int64]


def alternatives_of(
    workspace: Workspace,
    config: TrialConfig,
    indices: Indices,
    epochs: Indices,
    kind: str = ALTERNATIVE,
) -> Indices:
    """Sequences of other answers for the documents in these of the forget set, [D]."""
    splits = workspace.data.splits
    return drawn_alternatives(splits["forget"], splits[kind], indices, epochs, config.seed, kind)


def as_read(
    workspace: Workspace, config: TrialConfig, term: Term, indices: Indices, epochs: Indices
) -> tuple[Term, Indices, Indices]:
    """The term, sequences and epochs that are passed through the model for a batch of the term.

    A term that is fitted to other answers alone reads those instead of the forget set's.
    """
    if term.labels not in OTHER_ANSWERS or term.loss.needs == "preference":
        return term, indices, epochs
    kind = split_of("forget", term.labels)
    chosen = alternatives_of(workspace, config, indices, epochs, kind)
    return replace(term, split=kind, labels="true"), chosen, np.zeros_like(chosen)


def passed_tokens(
    workspace: Workspace, config: TrialConfig, term: Term, indices: Indices, epochs: Indices
) -> tuple[Indices, int]:
    """Lengths of the documents that a batch passes through the model, and their targets."""
    passed = [(term.split, indices)]
    if term.loss.needs == "preference":
        passed.append((ALTERNATIVE, alternatives_of(workspace, config, indices, epochs)))
    lengths = [workspace.document_lengths(split, chosen) for split, chosen in passed]
    splits = workspace.data.splits
    targets = sum(int(splits[split].target_mask[chosen].sum()) for split, chosen in passed)
    return np.concatenate(lengths), targets


def part_of_preference(
    workspace: Workspace,
    config: TrialConfig,
    term: Term,
    indices: Indices,
    epochs: Indices,
    given: Given,
    *,
    idle: bool,
) -> Tensor:
    """What these sequences and alternative answers to their prompts add to a term's loss.

    Both go through the model in one pass, and their log-probabilities into one function.

    Args:
        workspace: the lane's.
        config: the trial.
        term: a term that needs `preference`.
        indices: sequences of the forget set.
        epochs: the pass over the forget set of each.
        given: what the loss is given of them but log-probabilities.
        idle: pass them without targets.
    """
    alternative = alternatives_of(workspace, config, indices, epochs)
    passed = (("forget", indices), (ALTERNATIVE, alternative))
    first, second = (workspace.batch(split, chosen) for split, chosen in passed)
    if idle:
        first, second = first.without_targets(), second.without_targets()
    before, before_alternative = (
        workspace.reference.logprobs(split, chosen, inputs.targets)
        for (split, chosen), inputs in zip(passed, (first, second), strict=True)
    )
    mask = workspace.data.splits[ALTERNATIVE].target_mask[alternative]
    (numbers,) = on_device([np.nonzero(mask)[0][: len(second.rows)]], workspace.device)

    def loss(values: Tensor) -> Tensor:
        own, other = values.split([len(first.rows), len(second.rows)])
        known = replace(given, document=numbers, values=other, reference=before_alternative)
        return term.loss.function(
            replace(given, values=own, reference=before, alternative=known), config
        )

    both = joined_batches(first, second)
    part: Tensor = workspace.policy.scored(
        both, function_by_head(workspace.head, both.targets, loss)
    )
    return part

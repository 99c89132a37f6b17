"""Dealing the documents of a set to its halves, and what the halves hold (decision 17).

A configuration is chosen on the selection half and reported on the other, and the target for the
forget set is the vanilla model's loss on the half in question. Dealt by a coin per document, the
halves of a small set have different targets, and no model can meet both. So documents are dealt in
pairs of equal loss, with lengths and losses balanced over the pairs. No trial's outcome enters.

Shapes: D documents of a set.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.store.schema import HALVED_SETS, HALVES, Dealing, Metrics
from ray_unlearn.unlearn.metrics import Floats, SetScores, in_half

MOST_TURNED = 200
"""Pairs of a set up to which turning pairs is tried; the first dealing is good enough beyond."""


def deal_halves(sets: dict[str, SetScores]) -> dict[str, NDArray[np.bool_]]:
    """The selection half of each evaluated set that has halves, by its name.

    Args:
        sets: scores of the vanilla model.
    """
    found = {}
    for name in HALVED_SETS:
        tokens, nll = _by_document(sets[name])
        found[name] = balanced_halves(tokens, nll)
    return found


def balanced_halves(tokens: Floats, nll: Floats) -> NDArray[np.bool_]:
    """Deal documents so that both halves have as many, of about the same tokens and mean loss.

    Documents are ordered by loss per token, and neighbours make pairs: one of each goes to either
    half. Which one is decided pair by pair, the most unequal first, so that the difference of
    tokens and of summed excess loss between the halves stays least (each in units of its root sum
    of squares over pairs). In small sets pairs are then turned round, one or two at a time, as long
    as that helps. A document left over goes where it does least. There is no chance in it: the
    same losses give the same halves.

    Args:
        tokens: [D], real targets of each document.
        nll: [D], summed negative log-likelihood in nats; where one is not finite, lengths alone
            decide.

    Returns:
        [D]: True for the selection half.
    """
    mean = nll / tokens if np.isfinite(nll).all() else np.zeros(len(tokens))
    excess = (mean - (mean * tokens).sum() / tokens.sum()) * tokens
    order = np.lexsort((np.arange(len(tokens)), -tokens, mean))
    paired = order[: len(order) // 2 * 2].reshape(-1, 2)
    weights = np.column_stack([tokens, excess])
    unequal = weights[paired[:, 0]] - weights[paired[:, 1]]
    scale = np.sqrt((unequal**2).sum(axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    sign = _signs(unequal / scale)
    selection = np.zeros(len(tokens), dtype=bool)
    selection[np.where(sign > 0, paired[:, 0], paired[:, 1])] = True
    if len(order) % 2:
        balance = sign @ unequal / scale
        selection[order[-1]] = float(balance @ (weights[order[-1]] / scale)) <= 0
    return selection


def _signs(unequal: Floats) -> Floats:
    """[P] of +1 and -1 so that their sum with the pairs' differences [P, 2] is nearly zero."""
    sign = np.ones(len(unequal))
    balance = np.zeros(2)
    for i in np.argsort(-(unequal**2).sum(axis=1), kind="stable"):
        sign[i] = 1.0 if float(balance @ unequal[i]) <= 0 else -1.0
        balance += sign[i] * unequal[i]
    if len(sign) > MOST_TURNED:
        return sign
    while True:
        turns = np.vstack([-2 * sign[:, None] * unequal, np.zeros(2)])
        both = turns[:, None] + turns[None, :]
        np.einsum("iij->ij", both)[:] = turns  # a pair is turned once
        left = ((balance + both) ** 2).sum(axis=2)
        i, j = np.unravel_index(int(left.argmin()), left.shape)
        if left[i, j] > float(balance @ balance) - 1e-12:
            return sign
        for pair in {int(i), int(j)} - {len(sign)}:
            sign[pair] = -sign[pair]
        balance = sign @ unequal


def half_metrics(sets: dict[str, SetScores], dealing: Dealing) -> Metrics:
    """The columns `schema.HALF_COLUMNS`, from the vanilla model's scores.

    They are documents and tokens of each half, and the standard error of the target.
    The mean of a half that was balanced is that of the whole set, and so is its standard error;
    that of a half dealt by a coin is its own, 1.4 times as large.
    """
    row: Metrics = {}
    for half in HALVES:
        for name in HALVED_SETS:
            tokens, nll = _by_document(sets[name])
            chosen = in_half(sets[name], half)
            row[f"{name}_documents_{half}"] = int(chosen.sum())
            row[f"{name}_tokens_{half}"] = int(tokens[chosen].sum())
            if name == "approximate":
                counted = chosen if dealing == "hash" else np.ones_like(chosen)
                row[f"{name}_nll_se_{half}"] = standard_error(tokens[counted], nll[counted])
    return row


def standard_error(tokens: Floats, nll: Floats) -> float:
    """Standard error of a token mean over documents, nats per token.

    The token mean r = sum(nll) / sum(tokens) is a ratio of two sums over documents, and documents,
    not tokens, are what another draw would change: with residuals e = nll - r tokens,

        se(r) = sqrt(D / (D - 1) sum(e^2)) / sum(tokens)

    (Cochran, Sampling Techniques, 3rd ed. 1977, section 6.4.)

    Args:
        tokens: [D], real targets of each document.
        nll: [D], summed negative log-likelihood in nats.

    Returns:
        NaN for fewer than two documents.
    """
    documents = len(tokens)
    if documents < 2:
        return math.nan
    residual = nll - nll.sum() / tokens.sum() * tokens
    return float(math.sqrt(documents / (documents - 1) * float((residual**2).sum())) / tokens.sum())


def _by_document(scores: SetScores) -> tuple[Floats, Floats]:
    """Real targets and summed negative log-likelihood of each document, [D]."""
    documents = len(scores.selection)
    tokens = np.bincount(scores.document, minlength=documents).astype(np.float64)
    nll = -np.bincount(scores.document, scores.logprob, documents).astype(np.float64)
    return tokens, nll

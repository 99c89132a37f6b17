"""Metrics of one set from its per-token scores, in plain numpy and without a model.

Each function gives its definition and source.

Shapes: n real targets of a set in sequence order, D documents, `document` [n] the document of each
target.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.store.schema import ATTACKS, HALVED_SETS, HALVES, MIN_K_PERCENT, Metrics

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SetScores:
    """Per-token scores of one evaluated set, with what the attacks need about its documents.

    `vanilla` is the vanilla model's `logprob`."""

    logprob: Floats
    correct: NDArray[np.bool_]
    mean: Floats
    sd: Floats
    kl: Floats
    vanilla: Floats
    document: NDArray[np.int32]
    compressed_bytes: NDArray[np.int32]
    selection: NDArray[np.bool_]


def row_metrics(sets: dict[str, SetScores]) -> Metrics:
    """All metrics of one evaluation, by the names of `store.schema.COLUMNS`."""
    row: Metrics = {}
    forget = sets["forget"]
    row |= token_means(forget, "forget", "", np.ones(len(forget.selection), dtype=bool))
    row["forget_extraction_strength"] = _document_mean(forget, extraction_strength)
    row["forget_exact_memorisation"] = _document_mean(forget, lambda correct: float(correct.mean()))
    forget_attacks = attack_scores(forget)
    approximate_attacks = attack_scores(sets["approximate"])
    for half in HALVES:
        for name in HALVED_SETS:
            row |= token_means(sets[name], name, f"_{half}", in_half(sets[name], half))
        chosen = in_half(sets["approximate"], half)
        for attack in ATTACKS:
            row[f"mia_{attack}_auc_{half}"] = signed_auc(
                forget_attacks[attack], approximate_attacks[attack][chosen]
            )
    return row


def token_means(scores: SetScores, name: str, suffix: str, documents: NDArray[np.bool_]) -> Metrics:
    """Token means of nll, accuracy and KL, and the ppl, over the chosen documents [D].

    They are means over all targets, not means of documents' means.
    """
    chosen = documents[scores.document]
    nll = float(-scores.logprob[chosen].mean())
    return {
        f"{name}_nll{suffix}": nll,
        f"{name}_ppl{suffix}": perplexity(nll),
        f"{name}_accuracy{suffix}": float(scores.correct[chosen].mean()),
        f"{name}_kl{suffix}": float(scores.kl[chosen].mean()),
    }


def perplexity(nll: float) -> float:
    """exp(nll), infinite where a float has no room for it."""
    return math.exp(nll) if nll < 709 else math.inf


def attack_scores(scores: SetScores) -> dict[str, Floats]:
    """Membership scores [D] per attack; a higher score looks more like a member.

    loss: minus the mean nll (Yeom et al. 2018).
    zlib: minus mean nll / compressed bytes (Carlini et al. 2021).
    min_k_K: mean log-probability of the K % least likely tokens (Min-K% Prob, Shi et al. 2024).
    min_k_pp_K: the same of (log p - mean) / sd under the model's own distribution (Min-K%++, Zhang
        et al. 2025).
    """
    documents = len(scores.compressed_bytes)
    loss = -mean_by_document(scores.logprob, scores.document, documents)
    normalised = (scores.logprob - scores.mean) / np.maximum(scores.sd, 1e-6)
    found = {"loss": -loss, "zlib": -loss / scores.compressed_bytes}
    found |= {
        f"min_k_{k}": v for k, v in min_k_means(scores.logprob, scores.document, documents).items()
    }
    found |= {
        f"min_k_pp_{k}": v for k, v in min_k_means(normalised, scores.document, documents).items()
    }
    return found


def mean_by_document(values: Floats, document: NDArray[np.int32], documents: int) -> Floats:
    """Mean of `values` [n] over each document, [D]."""
    return np.bincount(document, values, documents) / np.bincount(document, minlength=documents)


def min_k_means(values: Floats, document: NDArray[np.int32], documents: int) -> dict[int, Floats]:
    """Mean of each document's lowest k % values, [D] for each k; at least one value counts."""
    order = np.lexsort((values, document))
    ordered = values[order]
    sizes = np.bincount(document, minlength=documents)
    starts = np.concatenate(([0], np.cumsum(sizes)))[:-1]
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    found = {}
    for k in MIN_K_PERCENT:
        count = np.maximum(1, sizes * k // 100)
        found[k] = (sums[starts + count] - sums[starts]) / count
    return found


def signed_auc(members: Floats, others: Floats) -> float:
    """The ROC AUC, P(member score > other score) + P(tie) / 2.

    It is never flipped: below 0.5 means over-unlearned. NaN if a score is not finite.
    """
    if not (np.isfinite(members).all() and np.isfinite(others).all()):
        return math.nan
    ordered = np.sort(others)
    below = np.searchsorted(ordered, members, side="left")
    not_above = np.searchsorted(ordered, members, side="right")
    return float((below + not_above).mean() / 2 / len(others))


def extraction_strength(correct: NDArray[np.bool_]) -> float:
    """Extraction strength 1 - k/L of one document (Carlini et al. 2023, OpenUnlearning).

    k is the shortest prefix after which every token is the argmax. `correct` [L] says whether each
    target is the argmax given the true prefix. 1 means that all of the document is extracted.
    """
    wrong = np.flatnonzero(~correct)
    shortest = int(wrong[-1]) + 1 if len(wrong) else 0
    return 1 - shortest / len(correct)


def _document_mean(scores: SetScores, metric: Callable[[NDArray[np.bool_]], float]) -> float:
    order = np.argsort(scores.document, kind="stable")
    sizes = np.bincount(scores.document, minlength=len(scores.selection))
    pieces = np.split(scores.correct[order], np.cumsum(sizes)[:-1])
    return float(np.mean([metric(piece) for piece in pieces]))


def in_half(scores: SetScores, half: str) -> NDArray[np.bool_]:
    """[D]: whether each document belongs to the half."""
    return scores.selection if half == "selection" else ~scores.selection

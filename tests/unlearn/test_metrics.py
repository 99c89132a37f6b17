"""Metrics against hand-computed values, scikit-learn, and an independent slow implementation."""

import math
import zlib

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.schema import ATTACKS, MIN_K_PERCENT
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import EVALUATED, prepare
from ray_unlearn.unlearn.document_hash import text_hash
from ray_unlearn.unlearn.evaluate import evaluate
from ray_unlearn.unlearn.metrics import extraction_strength, min_k_means, signed_auc
from ray_unlearn.unlearn.model import load_model, load_tokenizer
from ray_unlearn.unlearn.sources import read_documents
from ray_unlearn.unlearn.workspace import Workspace


def test_auc_equals_scikit_learn_with_ties_and_is_signed() -> None:
    generator = np.random.default_rng(0)
    for shift in (-1.0, 0.0, 2.0):
        members, others = (
            generator.normal(shift, 1, 57).round(1),
            generator.normal(0, 1, 83).round(1),
        )
        expected = roc_auc_score([1] * 57 + [0] * 83, np.concatenate([members, others]))
        assert signed_auc(members, others) == pytest.approx(expected, abs=1e-12)
    assert signed_auc(np.array([0.0]), np.array([1.0])) == 0.0  # over-unlearned: not flipped to 1


def test_auc_of_non_finite_scores_is_not_a_number() -> None:
    assert math.isnan(signed_auc(np.array([np.nan, 1.0]), np.array([0.0])))


def test_min_k_takes_the_least_likely_share_of_each_document() -> None:
    values = np.array([-1.0, -5.0, -3.0, -2.0, -4.0, -9.0])
    document = np.array([0, 0, 0, 0, 0, 1], dtype=np.int32)
    found = min_k_means(values, document, 2)
    assert found[20].tolist() == [-5.0, -9.0]
    assert found[40].tolist() == [-4.5, -9.0]
    assert found[60].tolist() == [-4.0, -9.0]


@pytest.mark.parametrize(
    ("correct", "expected"),
    [
        ([1, 1, 1, 1], 1.0),
        ([0, 1, 1, 1], 0.75),
        ([1, 1, 0, 1], 0.25),
        ([1, 1, 1, 0], 0.0),
        ([0, 0], 0.0),
    ],
)
def test_extraction_strength_by_hand(correct: list[int], expected: float) -> None:
    assert extraction_strength(np.array(correct, dtype=bool)) == expected


@pytest.mark.parametrize("layout", ["pad", "pack"])
def test_one_pass_equals_a_slow_implementation_document_by_document(
    tiny_study: StudySpec, layout: str
) -> None:
    """Every metric again, one chunk of one document at a time, with whole logits and the textbook
    formulas."""
    spec = tiny_study.data.model_copy(update={"layout": layout})
    data = prepare(spec, tiny_study.model)
    workspace = Workspace.open(
        tiny_study.model, data, tiny_study.evaluation, tiny_study.operations, Comm.single()
    )
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in workspace.policy.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    row = evaluate(workspace)
    documents = read_documents(spec)
    tokenizer = load_tokenizer(tiny_study.model)
    reference = load_model(tiny_study.model)
    policy = workspace.policy.model
    slow = {
        name: [_slow(policy, reference, tokenizer, d.text, 48, 2) for d in documents[split]]
        for name, split in EVALUATED.items()
    }
    half = {
        name: [int(text_hash(d.text)[-1], 16) % 2 == 0 for d in documents[split]]
        for name, split in EVALUATED.items()
    }
    _compare(row, slow["forget"], "forget", "")
    for name in ("approximate", "retain", "general"):
        for suffix, wanted in (("_selection", True), ("_reporting", False)):
            chosen = [
                s for s, inside in zip(slow[name], half[name], strict=True) if inside == wanted
            ]
            _compare(row, chosen, name, suffix)
            if name == "approximate":
                for attack in ATTACKS:
                    members, others = (
                        [s[attack] for s in group] for group in (slow["forget"], chosen)
                    )
                    expected = roc_auc_score(
                        [1] * len(members) + [0] * len(others), members + others
                    )
                    assert row[f"mia_{attack}_auc{suffix}"] == pytest.approx(expected, abs=5e-3), (
                        attack
                    )
    assert row["forget_extraction_strength"] == pytest.approx(
        np.mean([s["strength"] for s in slow["forget"]])
    )
    assert row["forget_exact_memorisation"] == pytest.approx(
        np.mean([s["correct"].mean() for s in slow["forget"]])
    )


def _compare(row: dict, documents: list[dict], name: str, suffix: str) -> None:
    nll = np.mean(np.concatenate([-d["logprob"] for d in documents]))
    assert row[f"{name}_nll{suffix}"] == pytest.approx(nll, rel=1e-5)
    assert row[f"{name}_ppl{suffix}"] == pytest.approx(np.exp(nll), rel=1e-4)
    assert row[f"{name}_accuracy{suffix}"] == pytest.approx(
        np.mean(np.concatenate([d["correct"] for d in documents]))
    )
    kl = np.mean(np.concatenate([d["kl"] for d in documents]))
    assert row[f"{name}_kl{suffix}"] == pytest.approx(kl, rel=1e-4, abs=1e-7)


@torch.no_grad()
def _slow(model, reference, tokenizer, text: str, length: int, most: int) -> dict:
    ids = tokenizer(text)["input_ids"][: length * most]
    columns: dict[str, list] = {"logprob": [], "correct": [], "kl": [], "normalised": []}
    for start in range(0, len(ids), length):
        piece = torch.tensor([ids[start : start + length]])
        if piece.shape[1] < 2:
            continue
        logits, expected = model(piece).logits[0].double(), reference(piece).logits[0].double()
        for position in range(piece.shape[1] - 1):
            p, p0 = logits[position].softmax(-1), expected[position].softmax(-1)
            token = int(piece[0, position + 1])
            mean = (p * p.log()).sum()
            sd = ((p * p.log() ** 2).sum() - mean**2).sqrt()
            columns["logprob"].append(float(p[token].log()))
            columns["correct"].append(int(p.argmax()) == token)
            columns["kl"].append(float((p0 * (p0.log() - p.log())).sum()))
            columns["normalised"].append(float((p[token].log() - mean) / sd))
    found: dict = {name: np.array(values) for name, values in columns.items()}
    nll = -found["logprob"].mean()
    found["loss"] = -nll
    kept = text if len(ids) == len(tokenizer(text)["input_ids"]) else tokenizer.decode(ids)
    found["zlib"] = -nll / len(zlib.compress(kept.encode()))
    for k in MIN_K_PERCENT:
        count = max(1, len(found["logprob"]) * k // 100)
        found[f"min_k_{k}"] = np.sort(found["logprob"])[:count].mean()
        found[f"min_k_pp_{k}"] = np.sort(found["normalised"])[:count].mean()
    size = len(found["correct"])
    prefix = next(k for k in range(size + 1) if found["correct"][k:].all())
    found["strength"] = 1 - prefix / size
    return found

"""The documents of a world: read from what the user has, checked, and dealt to a study's splits.

Dealt are what is not given: unseen documents from the forget set (by the original model's loss, so
that the two are alike), held-out documents from the retain set, and the two general sets.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.spec.data_spec import SPLITS, SplitSource
from ray_unlearn.spec.document import Document
from ray_unlearn.spec.errors import UserError
from ray_unlearn.unlearn.document_hash import text_hash
from ray_unlearn.unlearn.halves import balanced_halves
from ray_unlearn.unlearn.metrics import Floats
from ray_unlearn.unlearn.sources import read_source

FEWEST = 4
"""Documents of a set that is dealt: two splits, each with two halves."""
HELD_OUT = 0.2
"""Fraction of the retain set that descent never sees."""

Documents = dict[str, list[Document]]
Difficulty = Callable[[list[Document]], tuple[Floats, Floats]]
"""Real targets and summed negative log-likelihood of documents, under the original model."""


def read_given(sources: Mapping[str, SplitSource]) -> Documents:
    """Read and check what the user has.

    Args:
        sources: of `forget`, `retain` and `general`, and of `approximate` where there is one.

    Raises:
        UserError: whatever `read_source` finds; too few documents; a document that is twice in a
            set that is dealt, or in two sets.
    """
    given = {name: list(read_source(source, name)) for name, source in sources.items()}
    for name, documents in given.items():
        fewest = FEWEST if _is_dealt(name, given) else 2
        if len(documents) < fewest:
            raise UserError(
                f"{name}: {len(documents)} document(s), at least {fewest} are needed"
                + (", since they are dealt to two splits" if fewest == FEWEST else "")
            )
    _refuse_copies(given)
    return given


def _is_dealt(name: str, given: Documents) -> bool:
    return name in ("retain", "general") or (name == "forget" and "approximate" not in given)


def _refuse_copies(given: Documents) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for name, documents in given.items():
        for document in documents:
            other, twin = seen.setdefault(text_hash(document.text), (name, document.id))
            if other == name and (twin == document.id or not _is_dealt(name, given)):
                continue
            where = "twice in" if other == name else f"in `{other}` and"
            raise UserError(
                f"{name}: document {document.id!r} is {where} `{name}` (also as {twin!r}), and "
                "splits must not share documents: keep one of them"
            )


def dealt(given: Documents, seed: int, difficulty: Difficulty) -> Documents:
    """The splits of a study.

    Args:
        given: as `read_given` gives them.
        seed: of the random dealing of retain and general sets.
        difficulty: asked for the forget set if there is no approximate one.
    """
    rng = np.random.default_rng(seed)
    held_out = max(2, round(HELD_OUT * len(given["retain"])))
    out = _chosen(rng, len(given["retain"]), held_out)
    evaluated = _chosen(rng, len(given["general"]), (len(given["general"]) + 1) // 2)
    splits = {
        "retain": _where(given["retain"], ~out),
        "retain_heldout": _where(given["retain"], out),
        "general_retain": _where(given["general"], ~evaluated),
        "general_evaluation": _where(given["general"], evaluated),
    }
    if "approximate" in given:
        splits |= {name: given[name] for name in ("forget", "approximate")}
    else:
        learnt = balanced_halves(*difficulty(given["forget"]))
        splits |= {
            "forget": _where(given["forget"], learnt),
            "approximate": _where(given["forget"], ~learnt),
        }
    return {name: splits[name] for name in SPLITS}


def _chosen(rng: np.random.Generator, documents: int, count: int) -> NDArray[np.bool_]:
    chosen = np.zeros(documents, dtype=bool)
    chosen[rng.permutation(documents)[:count]] = True
    return chosen


def _where(documents: list[Document], chosen: NDArray[np.bool_]) -> list[Document]:
    return [document for document, taken in zip(documents, chosen, strict=True) if taken]


def write_splits(splits: Documents, sources: Mapping[str, SplitSource], folder: Path) -> None:
    """Write a JSONL file for each split, which `split_sources` reads."""
    for name, documents in splits.items():
        source = sources[origin_of_split(name, sources)]
        lines = [json.dumps(_entry(one, source), ensure_ascii=False) + "\n" for one in documents]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def split_sources(sources: Mapping[str, SplitSource], folder: str) -> dict[str, dict[str, str]]:
    """`data.splits` of a study file for the files of `write_splits`.

    Other answers stay in all files; a study reads those of the forget set alone.
    """
    return {
        name: {"path": f"{folder}/{name}.jsonl", "id": "id"}
        | _fields(sources[origin_of_split(name, sources)], name == "forget")
        for name in SPLITS
    }


def origin_of_split(name: str, sources: Mapping[str, SplitSource]) -> str:
    """The set that a split's documents come from."""
    if name == "approximate":
        return name if name in sources else "forget"
    return name.partition("_")[0]


def _fields(source: SplitSource, with_others: bool) -> dict[str, str]:
    others = {kind: kind for kind in source.other_answers if with_others}
    if source.messages is not None:
        return {"messages": "messages"} | others
    return {"prompt": "prompt", "answer": "answer"} | others if source.has_answers else {}


def _entry(document: Document, source: SplitSource) -> dict[str, Any]:
    others = {kind: document.others(kind) for kind in source.other_answers}
    if source.messages is not None:
        turns = [turn._asdict() for turn in document.turns]
        return {"id": document.id, "messages": turns} | others
    if source.has_answers:
        prompt, answer = document.turns
        content = {"id": document.id, "prompt": prompt.content, "answer": answer.content}
        return content | others
    return {"id": document.id, "text": document.text}


def documents_digest(documents: Documents) -> str:
    """Digest of every document, its id and its place."""
    content = json.dumps(documents, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]

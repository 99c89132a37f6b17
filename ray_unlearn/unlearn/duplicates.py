"""Warnings of documents that are nearly the same, in two splits or in one.

Exact copies in two splits are refused (`data.prepare`).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from ray_unlearn.spec.data_spec import SPLITS
from ray_unlearn.spec.document import Document
from ray_unlearn.unlearn.document_hash import text_hash
from ray_unlearn.unlearn.finding import Finding
from ray_unlearn.unlearn.near_duplicates import near_duplicates

EXAMPLES = 3
CHECKED = "copies of documents"
CONSEQUENCES = {
    ("forget", "approximate"): "the target is then the loss of text that the model has seen",
    ("forget", "retain"): "the same text is then to be forgotten and kept",
    ("forget", "retain_heldout"): "utility is then measured on what is to be forgotten",
    ("forget", "general_retain"): "the same text is then to be forgotten and kept",
    ("forget", "general_evaluation"): "utility is then measured on what is to be forgotten",
    ("retain", "retain_heldout"): "utility is then measured on what is trained",
    ("general_retain", "general_evaluation"): "utility is then measured on what is trained",
    ("retain", "general_evaluation"): "utility is then measured on what is trained",
    ("retain_heldout", "general_retain"): "utility is then measured on what is trained",
}
"""What follows from copies in two splits."""
SEEN = "the target is then the loss of text that is trained on or measured elsewhere"

Member = tuple[str, Document]


def duplicate_findings(documents: Mapping[str, Sequence[Document]]) -> Iterator[Finding]:
    """Findings on near duplicates between splits and on copies inside each.

    Args:
        documents: of each split, as read: conversations by the contents of their messages.
    """
    members = [(name, document) for name in SPLITS for document in documents[name]]
    groups = near_duplicates([document.text for _, document in members])
    found = [[members[index] for index in group] for group in groups]
    findings = [*_between(documents, found), *_inside(documents, found)]
    yield from findings or [Finding(CHECKED, "ok", "no near duplicates")]


def _between(
    documents: Mapping[str, Sequence[Document]], groups: Sequence[Sequence[Member]]
) -> Iterator[Finding]:
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for group in groups:
        ids = _ids_by_split(group)
        for one, other in combinations(ids, 2):
            pairs[one, other] += [(ids[one][0], copy) for copy in ids[other]]
    for (one, other), copies in sorted(pairs.items(), key=lambda item: _rank(item[0])):
        consequence = CONSEQUENCES.get((one, other), SEEN)
        examples = ", ".join(f"{copy!r} of {original!r}" for original, copy in copies[:EXAMPLES])
        yield Finding(
            CHECKED,
            "warning",
            f"data: {len(copies):,} of {len(documents[other]):,} documents of `{other}` are near "
            f"duplicates of documents of `{one}` ({examples}{_more(len(copies))}): {consequence}",
            "remove them from one of the two",
        )


def _inside(
    documents: Mapping[str, Sequence[Document]], groups: Sequence[Sequence[Member]]
) -> Iterator[Finding]:
    copies: dict[str, list[tuple[str, str]]] = defaultdict(list)
    exact: dict[str, int] = defaultdict(int)
    for group in groups:
        for name, ids in _ids_by_split(group).items():
            copies[name] += [(ids[0], copy) for copy in ids[1:]]
            texts = [text_hash(document.text) for split, document in group if split == name]
            exact[name] += len(texts) - len(set(texts))
    for name in SPLITS:
        if not (found := copies[name]):
            continue
        examples = ", ".join(f"{copy!r} of {original!r}" for original, copy in found[:EXAMPLES])
        yield Finding(
            CHECKED,
            "warning",
            f"data.splits.{name}: {len(found):,} of {len(documents[name]):,} documents are copies "
            f"of others ({exact[name]:,} of them exact; {examples}{_more(len(found))}): they count "
            "more than once, and in both halves",
            "keep one of each",
        )


def _ids_by_split(group: Sequence[Member]) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {}
    for name, document in group:
        ids.setdefault(name, []).append(document.id)
    return ids


def _rank(pair: tuple[str, str]) -> tuple[int, int]:
    return SPLITS.index(pair[0]), SPLITS.index(pair[1])


def _more(count: int) -> str:
    return " ..." if count > EXAMPLES else ""

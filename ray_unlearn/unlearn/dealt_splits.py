"""Splits that a study file gives no source for, dealt from one pool or from the bundled text.

Who gets which document depends on the texts alone: groups of near duplicates stay together, and
stand in the order of their hashes, whatever the order of the file. A document that nearly repeats
one of a split that was given is left out, so a pool may hold the forget set.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ray_unlearn.demo import DOMAINS
from ray_unlearn.demo import documents as demo_documents
from ray_unlearn.spec.data_spec import DEALT, IN_DISTRIBUTION, DataSpec, Origin, SplitSource
from ray_unlearn.spec.document import Document
from ray_unlearn.spec.errors import UserError
from ray_unlearn.unlearn.document_hash import text_hash
from ray_unlearn.unlearn.finding import Finding
from ray_unlearn.unlearn.near_duplicates import near_duplicates

Documents = Mapping[str, Sequence[Document]]

FRACTIONS = {"approximate": 0.4, "retain_heldout": 0.2, "general_evaluation": 0.2}
"""Of the documents of an origin, to splits that are measured; the others share the rest."""
MOST_MEASURED = 500
"""Documents of a pool in such a split: each evaluation is a pass over all of them."""
BUNDLED_SIZES = {"approximate": 60, "retain_heldout": 60, "general_evaluation": 60}
BUNDLED_TRAINED = 120
"""Documents of bundled text in other splits; they have 170 to 310 characters."""
FEWEST = 2
"""Documents of a split: one for each half."""
BUNDLED = f"the text that comes with the package ({', '.join(DOMAINS.values())})"


def deal_splits(
    spec: DataSpec, given: Documents, pool: Sequence[Document]
) -> tuple[dict[str, list[Document]], list[Finding]]:
    """Deal the documents of `spec.dealt`.

    Args:
        spec: what is dealt from where.
        given: the splits that have sources.
        pool: the documents of `data.pool`.

    Returns:
        The dealt splits, and what was dealt from where.

    Raises:
        UserError: the pool has too few documents that are in no other split.
    """
    splits: dict[str, list[Document]] = {}
    left_out: dict[Origin, int] = {}
    for origin, names in _by_origin(spec).items():
        documents = pool if origin == "pool" else bundled_documents()
        groups, left_out[origin] = _groups_apart(documents, [*given.values(), *splits.values()])
        sizes = _sizes(names, origin, sum(map(len, groups)))
        splits |= _filled(groups, sizes)
        _check_sizes(spec, {name: splits[name] for name in names}, left_out[origin])
    counts = {name: len(documents) for name, documents in splits.items()}
    return splits, list(dealt_findings(spec, counts, left_out))


def bundled_documents() -> list[Document]:
    """All bundled text: each passage once, though domains share some."""
    found: dict[str, Document] = {}
    for domain in DOMAINS:
        for documents in demo_documents(domain).values():
            found |= {text_hash(document.text): document for document in documents}
    return list(found.values())


def _by_origin(spec: DataSpec) -> dict[Origin, list[str]]:
    found: dict[Origin, list[str]] = {}
    for name in DEALT:
        if name in spec.dealt:
            found.setdefault(spec.dealt[name], []).append(name)
    return dict(sorted(found.items(), reverse=True))  # the pool first


def _groups_apart(
    documents: Sequence[Document], taken: Sequence[Sequence[Document]]
) -> tuple[list[list[Document]], int]:
    """Groups of near duplicates in the order of their hashes, and how many documents are left out.

    Args:
        documents: to be dealt.
        taken: documents of other splits; a group with one of them is left out.
    """
    members = [*documents, *(document for split in taken for document in split)]
    mine = range(len(documents))
    grouped = near_duplicates([document.text for document in members])
    alone = set(mine).difference(*grouped)
    free = [group for group in grouped if all(index in mine for index in group)]
    free += [[index] for index in alone]
    hashes = [text_hash(document.text) for document in documents]
    groups = sorted([sorted(group, key=hashes.__getitem__) for group in free],
                    key=lambda group: hashes[group[0]])  # fmt: skip
    found = [[documents[index] for index in group] for group in groups]
    return found, len(documents) - sum(map(len, found))


def _sizes(names: Sequence[str], origin: Origin, there: int) -> dict[str, int]:
    """How many documents each split gets, those that are measured first."""
    measured = [name for name in names if name in FRACTIONS]
    trained = [name for name in names if name not in FRACTIONS]
    if origin == "bundled":
        return {name: BUNDLED_SIZES[name] for name in measured} | dict.fromkeys(
            trained, BUNDLED_TRAINED
        )
    whole = 1.0 if trained else sum(FRACTIONS[name] for name in measured)
    sizes = {
        name: min(MOST_MEASURED, max(FEWEST, round(there * FRACTIONS[name] / whole)))
        for name in measured
    }
    rest = max(0, there - sum(sizes.values()))
    shares = [rest // len(trained) + (i < rest % len(trained)) for i in range(len(trained))]
    return sizes | dict(zip(trained, shares, strict=True))


def _filled(
    groups: Sequence[list[Document]], sizes: Mapping[str, int]
) -> dict[str, list[Document]]:
    """Fill one split after the other, a group at a time."""
    splits: dict[str, list[Document]] = {name: [] for name in sizes}
    waiting = list(sizes)
    for group in groups:
        while waiting and len(splits[waiting[0]]) >= sizes[waiting[0]]:
            waiting.pop(0)
        if not waiting:
            break
        splits[waiting[0]] += group
    return splits


def _check_sizes(spec: DataSpec, splits: Documents, left_out: int) -> None:
    measured = [name for name in splits if name in FRACTIONS]
    fewest = FEWEST * len(measured) + len(splits) - len(measured)
    short = [
        name for name, found in splits.items() if len(found) < (FEWEST if name in measured else 1)
    ]
    if short:
        there = sum(map(len, splits.values()))
        apart = f" ({left_out:,} more repeat documents of other splits)" if left_out else ""
        raise UserError(
            f"data.pool: {there:,} documents{apart} are too few to be dealt to {_and(splits)}: "
            f"give at least {fewest}, better ten times as many, or leave `data.pool` out to have "
            "the bundled text dealt"
        )


def dealt_findings(
    spec: DataSpec,
    counts: Mapping[str, int] | None = None,
    left_out: Mapping[Origin, int] | None = None,
) -> Iterator[Finding]:
    """What is dealt from where, and what that is worth.

    Args:
        spec: what is dealt from where.
        counts: documents of each split; None: they were not read.
        left_out: documents of each origin that nearly repeat others.
    """
    for origin, names in _by_origin(spec).items():
        kind = [name for name in names if name in IN_DISTRIBUTION]
        other = [name for name in names if name not in IN_DISTRIBUTION]
        apart = (left_out or {}).get(origin, 0)
        if origin == "pool":
            yield Finding("dealt splits", "note", _pool_words(spec, names, counts, apart))
            continue
        if kind:
            said = f"data: {_with_counts(kind, counts)} dealt from {BUNDLED}: {_worth(kind)}"
            yield Finding("dealt splits", "warning", said, _REMEDY)
        if other:
            said = f"data: {_with_counts(other, counts)} dealt from {BUNDLED}"
            yield Finding("dealt splits", "note", said)


_REMEDY = "name `data.pool`, documents of your kind that the model was not trained on"


def _pool_words(
    spec: DataSpec, names: Sequence[str], counts: Mapping[str, int] | None, apart: int
) -> str:
    assert spec.pool is not None
    said = f"data.pool: {_with_counts(names, counts)} dealt from {_name_of(spec.pool)}"
    if apart:
        said += f"; {apart:,} more left out, near duplicates of documents of other splits"
    if "approximate" in names:
        said += (
            "; they stand for text that the model has not seen: documents that it was trained on "
            "make the target too low"
        )
    return said


def _name_of(source: SplitSource) -> str:
    """A study's notes travel with its report, so folders stay at home."""
    return source.hub or Path(source.path or "").name


def _worth(names: Sequence[str]) -> str:
    """What bundled text in place of the forget set's own kind makes of a study."""
    if "approximate" in names:
        return (
            "the target is the loss of that text and not of your documents' kind, so what meets it "
            "says less than with text of your own"
        )
    return "what is kept is that text and not your documents' kind, which says less"


def _with_counts(names: Sequence[str], counts: Mapping[str, int] | None) -> str:
    return _and([name if counts is None else f"{name} {counts[name]:,}" for name in names])


def _and(names: Sequence[str] | Documents) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last

"""Other answers to a question: in other words, and wrong ones, for the truth ratio.

They are documents of their own, each with its question, in splits that are named after the set and
their kind: `forget/perturbed`.

Shapes: D documents of a set, A such answers to all of them.
"""

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.spec.data_spec import COMPARED
from ray_unlearn.spec.document import Document

Owners = dict[str, NDArray[np.int32]]
"""By split, the document [A] of its set that each answer belongs to."""


def split_of(name: str, kind: str) -> str:
    """The split with these answers to a set's questions."""
    return f"{name}/{kind}"


def with_compared(
    documents: dict[str, list[Document]],
) -> tuple[dict[str, list[Document]], Owners]:
    """The splits, those of compared answers added, and who their documents belong to."""
    found, owners = dict(documents), {}
    for name, split in documents.items():
        for kind in COMPARED:
            answers = [
                (number, answer)
                for number, document in enumerate(split)
                for answer in getattr(document, kind)
            ]
            if answers:
                key = split_of(name, kind)
                found[key] = [_answered(split[i], answer, kind) for i, answer in answers]
                owners[key] = np.array([i for i, _ in answers], dtype=np.int32)
    return found, owners


def _answered(document: Document, answer: str, kind: str) -> Document:
    turns = (*document.turns[:-1], document.turns[-1]._replace(content=answer))
    text = "\n".join(turn.content for turn in turns)
    return Document(f"{document.id} ({kind})", text, turns)

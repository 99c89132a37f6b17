"""Alternative answers to the prompts of the forget set, for methods that teach them instead.

They are the data's own (`alternative` of the forget split), or `REFUSALS`. Each is a sequence with
the prompt of its own, in a token set beside the splits.
"""

from dataclasses import replace
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.spec.document import Document, Turn
from ray_unlearn.unlearn.batch import target_documents
from ray_unlearn.unlearn.compared_answers import split_of
from ray_unlearn.unlearn.token_set import TokenSet

ALTERNATIVE = split_of("forget", "alternative")
"""Name of their token set."""
MISMATCHED = split_of("forget", "mismatched")
"""Name of the token set of answers of retain documents (LLMU, Yao et al. 2023, arXiv 2310.10683).
"""
MISMATCHES = 8
"""Answers of retain documents for each prompt of the forget set."""
REFUSALS = (
    "I don't know.",
    "I'm not sure.",
    "I don't know the answer to that.",
    "I have no information about that.",
    "I'm afraid I can't answer that.",
    "That is not something I know about.",
    "I can't say, sorry.",
    "I'm unable to answer this question.",
    "I haven't learned anything about this.",
    "Sorry, that is beyond what I know.",
)
"""Part of the methods that use them: with other ones they would be other methods."""


def alternative_documents(
    forget: list[Document], refusals: bool
) -> tuple[list[Document], NDArray[np.int32]]:
    """The prompts of the forget set with each of their alternative answers.

    Args:
        forget: its documents, before they are written out as texts.
        refusals: whether documents without alternatives of their own get `REFUSALS`; texts have no
            prompt and get none.

    Returns:
        The documents, and the index in `forget` that each belongs to, rising.
    """
    found, owners = [], []
    for index, document in enumerate(forget):
        if not document.turns:
            continue
        *asked, answer = document.turns
        for number, text in enumerate(document.alternatives or (REFUSALS if refusals else ())):
            name = f"{document.id}, alternative {number + 1}"
            found.append(Document(name, text, (*asked, Turn(answer.role, text))))
            owners.append(index)
    return found, np.array(owners, dtype=np.int32)


def mismatched_documents(
    forget: list[Document], retain: list[Document]
) -> tuple[list[Document], NDArray[np.int32]]:
    """The prompts of the forget set, each with some answers of retain documents.

    Which ones depends on the prompt's text alone.

    Returns:
        The documents, and the index in `forget` that each belongs to, rising.
    """
    answers = [document.turns[-1].content for document in retain if document.turns]
    many = min(MISMATCHES, len(answers))
    found, owners = [], []
    for index, document in enumerate(forget):
        *asked, answer = document.turns
        key = crc32("\n".join(turn.content for turn in asked).encode())
        chosen = np.random.Generator(np.random.Philox(key=key)).permutation(len(answers))[:many]
        for number, place in enumerate(chosen):
            text = answers[place]
            name = f"{document.id}, mismatch {number + 1}"
            found.append(Document(name, text, (*asked, Turn(answer.role, text))))
            owners.append(index)
    return found, np.array(owners, dtype=np.int32)


def as_alternatives(tokens: TokenSet, owners: NDArray[np.int32]) -> TokenSet:
    """Padded sequences, one for each alternative, as those of the documents that they belong to."""
    real = tokens.document >= 0
    # One column of padding tells a whole answer from one that is cut.
    width = min(real.shape[1], int(real.sum(axis=1).max()) + 1)
    assert tokens.prompt is not None
    return replace(
        tokens,
        input_ids=tokens.input_ids[:, :width],
        document=np.where(real, owners[:, None], -1).astype(np.int32)[:, :width],
        prompt=tokens.prompt[:, :width],
    )


def drawn_alternatives(
    forget: TokenSet,
    alternative: TokenSet,
    indices: NDArray[np.int64],
    epochs: NDArray[np.int64],
    seed: int,
    kind: str = ALTERNATIVE,
) -> NDArray[np.int64]:
    """A sequence of `alternative` for each document in sequences of the forget set, [D].

    They are in the order of `numbered_documents`. They depend on (seed, document, epoch) alone, so
    they are the same on any worker, in any order.

    Args:
        forget: the forget set.
        alternative: its alternatives.
        indices: sequences of the forget set, [n].
        epochs: pass over the forget set of each, [n].
        seed: the trial's.
        kind: name of `alternative`, so that two kinds are drawn apart.
    """
    places = np.unique(target_documents(forget, indices))
    sequence, document = np.divmod(places, int(forget.document.max()) + 1)
    owner = alternative.document[:, 0]
    first, end = (np.searchsorted(owner, document, side=side) for side in ("left", "right"))
    chosen = [
        start + _drawn(seed, kind, int(number), int(epoch), int(stop - start))
        for start, stop, number, epoch in zip(first, end, document, epochs[sequence], strict=True)
    ]
    return np.array(chosen, dtype=np.int64)


def _drawn(seed: int, kind: str, document: int, epoch: int, many: int) -> int:
    counter = [0, crc32(kind.encode()), epoch, document]
    return int(np.random.Generator(np.random.Philox(key=seed, counter=counter)).integers(many))

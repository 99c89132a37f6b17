"""Documents as token sequences: cut, then padded or packed.

Shapes: N sequences of T tokens, D documents.
"""

import zlib
from typing import Any, NamedTuple

import numpy as np

from ray_unlearn.spec.data_spec import DataSpec, place_of
from ray_unlearn.spec.document import Document
from ray_unlearn.spec.errors import UserError
from ray_unlearn.unlearn.conversations import encoded_answers
from ray_unlearn.unlearn.document_hash import in_selection_half
from ray_unlearn.unlearn.token_set import TokenSet


class Chunk(NamedTuple):
    """Tokens of one document that stay together in a sequence."""

    document: int
    ids: list[int]
    prompt_tokens: int
    """How many of them, from the first on, are context."""


def tokenised(documents: list[Document], tokenizer: Any, spec: DataSpec, name: str) -> TokenSet:
    """Documents -> sequences of `sequence_length` tokens.

    A text is cut into chunks of at most `sequence_length` tokens; a last chunk of one token has no
    target and is left out. A prompt with its answer is one chunk: a later one would have no prompt,
    so an answer that is too long loses its end. `pad`: one chunk per sequence, padded on the right.
    `pack`: chunks share sequences (first fit); a chunk is never cut again, so both layouts have the
    same targets.

    Raises:
        UserError: a document without a target: of fewer than two tokens, or none of its answer.
    """
    compressed = np.zeros(len(documents), dtype=np.int32)
    prompted = any(document.prompt_length is not None for document in documents)
    chunks: list[Chunk] = []
    cut = _answers if prompted else _texts
    for text, members in cut(documents, tokenizer, spec, name):
        compressed[members[0].document] = len(zlib.compress(text.encode()))
        chunks += [chunk for chunk in members if len(chunk.ids) > 1]
    length = spec.sequence_length
    rows = [[chunk] for chunk in chunks] if spec.layout == "pad" else _first_fit(chunks, length)
    pad = (
        tokenizer.pad_token_id
        if tokenizer.pad_token_id is not None
        else (tokenizer.eos_token_id or 0)
    )
    input_ids = np.full((len(rows), length), pad, dtype=np.int32)
    owner = np.full((len(rows), length), -1, dtype=np.int32)
    prompt = np.zeros((len(rows), length), dtype=bool)
    for row, placed in enumerate(rows):
        start = 0
        for index, ids, prompt_tokens in placed:
            input_ids[row, start : start + len(ids)] = ids
            owner[row, start : start + len(ids)] = index
            prompt[row, start : start + prompt_tokens] = True
            start += len(ids)
    halves = np.array([in_selection_half(document.text) for document in documents])
    return TokenSet(input_ids, owner, compressed, halves, prompt if prompted else None)


def _texts(
    documents: list[Document], tokenizer: Any, spec: DataSpec, name: str
) -> list[tuple[str, list[Chunk]]]:
    """The text of each document, as far as it is used, and its chunks."""
    length, most = spec.sequence_length, spec.max_sequences_per_document
    encoded = tokenizer(
        [document.text for document in documents], add_special_tokens=True, verbose=False
    )["input_ids"]
    found = []
    for index, (document, ids) in enumerate(zip(documents, encoded, strict=True)):
        if len(ids) < 2:
            raise UserError(
                f"{place_of(name)}: document {document.id!r} has {len(ids)} token(s), and "
                "nothing to predict; "
                "remove it or join it to another"
            )
        kept = ids[: most * length] if most else ids
        text = document.text if len(kept) == len(ids) else tokenizer.decode(kept)
        pieces = [kept[start : start + length] for start in range(0, len(kept), length)]
        found.append((text, [Chunk(index, piece, 0) for piece in pieces]))
    return found


def _answers(
    documents: list[Document], tokenizer: Any, spec: DataSpec, name: str
) -> list[tuple[str, list[Chunk]]]:
    """The answer of each document, as far as it is used, and its one chunk with the prompt."""
    length = spec.sequence_length
    encoded = encoded_answers(documents, tokenizer, special_tokens=spec.chat_template is None)
    found = []
    for index, (document, (ids, first)) in enumerate(zip(documents, encoded, strict=True)):
        kept = ids[:length]
        if len(kept) <= max(first, 1):  # a first token is never predicted
            raise UserError(
                f"{place_of(name)}: document {document.id!r} {_no_answer(ids, first, length)}"
            )
        answer = document.text[document.prompt_length :]
        text = answer if len(kept) == len(ids) else tokenizer.decode(kept[first:])
        found.append((text, [Chunk(index, kept, first)]))
    return found


def _no_answer(ids: list[int], first: int, length: int) -> str:
    """Why nothing of an answer can be predicted, and what to do."""
    if first < len(ids) and length < len(ids):
        return (
            f"has a prompt of {first} tokens, and `data.sequence_length: {length}` cuts off the "
            f"whole answer; use at least {max(first, 1) + 1}, or remove the document"
        )
    return (
        f"has no token of its answer alone: the last of its {len(ids)} tokens holds the end of the "
        "prompt too; use another `data.separator` or `data.chat_template`, or remove the document"
    )


def _first_fit(chunks: list[Chunk], length: int) -> list[list[Chunk]]:
    """Pack chunks by first fit, but never two chunks of one document side by side.

    The mask would take them for one document.
    """
    rows: list[list[Chunk]] = []
    room: list[int] = []
    open_from = 0
    for chunk in chunks:
        for row in range(open_from, len(rows)):
            if room[row] >= len(chunk.ids) and rows[row][-1].document != chunk.document:
                break
        else:
            row = len(rows)
            rows.append([])
            room.append(length)
        rows[row].append(chunk)
        room[row] -= len(chunk.ids)
        while open_from < len(rows) and room[open_from] < 2:
            open_from += 1
    return rows

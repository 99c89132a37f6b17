"""Likeness of documents: which are copies of each other, and which half they had in old studies.

This is not their identity. A re-wrapped copy is the same document to a reader and must not stand
in two splits, but its tokens are others: caches and digests use the bytes (`data.data_digest`).
"""

import hashlib


def text_hash(text: str) -> str:
    """SHA-256 of a text with its white space folded: the same for a re-wrapped copy.

    Held-out documents of all studies rest on it, and halves of old ones, so it can never change.
    """
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def in_selection_half(text: str) -> bool:
    """A fixed coin per document, as studies of before decision 17 dealt their halves."""
    return int(text_hash(text)[-1], 16) % 2 == 0

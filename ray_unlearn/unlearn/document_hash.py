"""Likeness of documents: which are copies of each other, and which half a document belongs to.

This is not their identity. A re-wrapped copy is the same document to a reader and must not stand
in two splits, but its tokens are others: caches and digests use the bytes (`data.data_digest`).
"""

import hashlib


def text_hash(text: str) -> str:
    """SHA-256 of a text with its white space folded: the same for a re-wrapped copy.

    Halves and held-out documents of all studies rest on it, so it can never change.
    """
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def in_selection_half(text: str) -> bool:
    """A fixed coin per document: the same half in every study, whatever else the split holds."""
    return int(text_hash(text)[-1], 16) % 2 == 0

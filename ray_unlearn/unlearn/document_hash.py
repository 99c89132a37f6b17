"""Hashes of documents: which are copies of each other, and which half they had in old studies.

They do not identify bytes. A re-wrapped copy is the same document to a reader and must not be in
two splits, but its tokens differ: caches and digests use the bytes (`data.split_digest`).
"""

import hashlib


def text_hash(text: str) -> str:
    """SHA-256 of a text with its white space folded, the same for a re-wrapped copy.

    Held-out documents of all studies and halves of old ones depend on it, so it can never change.
    """
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def in_selection_half(text: str) -> bool:
    """Whether a document is in the selection half of a study from before decision 17."""
    return int(text_hash(text)[-1], 16) % 2 == 0

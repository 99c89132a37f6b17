"""Near duplicates among documents: the same but for case, punctuation, spaces or a sentence more.

Documents are compared by their passages of `PASSAGE` bytes, letters and digits alone. Of a long
document only passages whose hash is small are kept, the same ones in every document (sketches as in
Broder, On the resemblance and containment of documents, 1997), so that 20,000 documents of 4,096
tokens take seconds: `python benchmarks/near_duplicates.py`.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

PASSAGE = 16
"""Bytes of a passage, about three words."""
SAMPLE = 128
"""Passages that are kept of a long document, on average one to two times as many."""
ALIKE = 0.8
"""Least fraction of the shorter document's passages that are in the longer one."""
LONGEST_RATIO = 2.0
"""Length of the longer document in units of the shorter one, at most."""

Hashes = NDArray[np.uint64]
_LEFT_OUT = bytes(code for code in range(128) if not chr(code).isalnum())
_PUNCTUATION = re.compile(rb"\xc2[\x80-\xbf]|\xe2[\x80\x81][\x80-\xbf]|\xe3\x80[\x80-\xbf]")
"""UTF-8 of Latin-1 signs, of general punctuation, and of Chinese and Japanese punctuation."""
_FACTORS = tuple(np.uint64(odd) for odd in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F))
_EVERY = 2**64 - 1


def near_duplicates(texts: Sequence[str]) -> list[list[int]]:
    """Groups of texts that are near duplicates of each other, exact copies among them.

    Two texts are alike if one is at most `LONGEST_RATIO` times as long as the other, and `ALIKE` of
    the shorter one's passages are in it. A group joins all that are alike, directly or through
    others.

    Args:
        texts: in any order.

    Returns:
        Indices of the texts of each group of two or more, rising; groups by their first text.
    """
    sketches = [_sketch(text) for text in texts]
    sizes = np.array([size for size, _, _ in sketches])
    parent = list(range(len(texts)))
    for one, other in _candidates([hashes for _, _, hashes in sketches]):
        if max(sizes[one], sizes[other]) > LONGEST_RATIO * min(sizes[one], sizes[other]):
            continue
        if _alike(*sketches[one], *sketches[other]):
            first, second = sorted((_root(parent, one), _root(parent, other)))
            parent[second] = first
    groups: dict[int, list[int]] = {}
    for index in range(len(texts)):
        groups.setdefault(_root(parent, index), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _normalised(text: str) -> bytes:
    """Letters and digits of a text, without case."""
    if text.isascii():
        return text.lower().encode().translate(None, _LEFT_OUT)
    folded = unicodedata.normalize("NFKC", text).casefold().encode()
    return _PUNCTUATION.sub(b"", folded.translate(None, _LEFT_OUT))


def _sketch(text: str) -> tuple[int, int, Hashes]:
    """Number of passages, the largest hash that is kept, and the hashes, rising."""
    content = _normalised(text)
    if not content:
        return 0, _EVERY, np.empty(0, dtype=np.uint64)
    content = content.ljust(PASSAGE, b"\0")
    count = len(content) - PASSAGE + 1
    # A view of the 8 bytes that begin at each byte.
    words = np.ndarray((len(content) - 7,), dtype="<u8", buffer=content, strides=(1,))
    hashes = words[:-8] * _FACTORS[0]
    hashes ^= hashes >> np.uint64(29)
    hashes += words[8:]
    hashes *= _FACTORS[1]
    hashes ^= hashes >> np.uint64(32)
    hashes *= _FACTORS[0]
    largest = _EVERY >> max(0, (count // SAMPLE).bit_length() - 1)
    return count, largest, np.unique(hashes[hashes <= np.uint64(largest)])


def _candidates(sketches: Sequence[Hashes]) -> Iterator[tuple[int, int]]:
    """Pairs of texts that share a quarter of a sketch.

    The texts that share a hash are paired with the next of them and with the first, not each with
    each, so that a passage which stands in every text costs no more than its texts.
    """
    owners = np.repeat(np.arange(len(sketches)), [len(hashes) for hashes in sketches])
    hashes = np.concatenate([*sketches, np.empty(0, dtype=np.uint64)])
    order = np.argsort(hashes, kind="stable")
    hashes, owners = hashes[order], owners[order]
    again = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
    starts = np.arange(len(hashes))
    starts[again] = 0
    firsts = owners[np.maximum.accumulate(starts)[again]] if len(again) else owners[:0]
    nexts = owners[again - 1]
    one = np.concatenate([nexts, firsts[firsts != nexts]])
    other = np.concatenate([owners[again], owners[again][firsts != nexts]])
    pairs, shared = np.unique(one * len(sketches) + other, return_counts=True)
    for pair, count in zip(pairs.tolist(), shared.tolist(), strict=True):
        first, second = divmod(pair, len(sketches))
        if 4 * count >= min(len(sketches[first]), len(sketches[second])):
            yield first, second


def _alike(
    size: int, largest: int, hashes: Hashes, size_2: int, largest_2: int, hashes_2: Hashes
) -> bool:
    most = np.uint64(min(largest, largest_2))
    one, other = hashes[hashes <= most], hashes_2[hashes_2 <= most]
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared > 0 and shared >= ALIKE * len(one if size <= size_2 else other)


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index

"""ROUGE-L of two texts (Lin 2004): how much of one the other holds, word by word, in order.

Words are runs of a-z and 0-9 after lower-casing, as in Google's `rouge-score`, whose values these
are without its stemmer; texts in other scripts have no words, and score 0.
"""

import re
from typing import NamedTuple

WORD = re.compile(r"[a-z0-9]+")


class RougeL(NamedTuple):
    """Longest common subsequence over the words of the true text, and its F1."""

    recall: float
    f1: float


def rouge_l(true: str, given: str) -> RougeL:
    """ROUGE-L of a given text; 0 where either has no words.

    recall = LCS / words of the true text, precision = LCS / words of the given text.
    """
    expected, found = WORD.findall(true.lower()), WORD.findall(given.lower())
    common = longest_common(expected, found)
    if not common:
        return RougeL(0.0, 0.0)
    recall, precision = common / len(expected), common / len(found)
    return RougeL(recall, 2 * precision * recall / (precision + recall))


def longest_common(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence, a row of the usual table at a time as one integer.

    Hyyro 2004, "Bit-parallel LCS-length computation revisited".
    """
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << index
    every = row = (1 << len(first)) - 1
    for word in second:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & every
    return len(first) - row.bit_count()

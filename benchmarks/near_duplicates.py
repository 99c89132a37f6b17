"""Seconds to look for near duplicates in many long documents, and whether planted ones are found.

    python benchmarks/near_duplicates.py --documents 20000 --words 3000

3,000 words are about 4,096 tokens. The documents are words drawn at random; planted among them are
copies in upper case, wrapped anew, and with a sentence more.
"""

import argparse
import time

import numpy as np

from ray_unlearn.unlearn.near_duplicates import near_duplicates

VOCABULARY = 30_000
CHANGES = (
    str.upper,
    lambda text: text.replace(" ", "\n") + ".",
    lambda text: text + " Nobody had expected that anything of the kind could happen here.",
)


def drawn(documents: int, words: int, dashes: bool) -> list[str]:
    """Documents of words of two to nine letters; `dashes`: with signs that are not ASCII."""
    draw = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    lengths = draw.integers(2, 10, VOCABULARY)
    vocabulary = ["".join(draw.choice(letters, length)) for length in lengths]
    join = " \N{EN DASH} " if dashes else " "
    return [
        " ".join(vocabulary[i] for i in draw.integers(0, VOCABULARY, words // 2))
        + join
        + " ".join(vocabulary[i] for i in draw.integers(0, VOCABULARY, words - words // 2))
        for _ in range(documents)
    ]


def main() -> None:
    """Measure and print one line for each kind of text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--words", type=int, default=3_000)
    parser.add_argument("--planted", type=int, default=300)
    arguments = parser.parse_args()
    for dashes in (False, True):
        texts = drawn(arguments.documents, arguments.words, dashes)
        texts += [CHANGES[i % len(CHANGES)](texts[i]) for i in range(arguments.planted)]
        began = time.perf_counter()
        found = near_duplicates(texts)
        seconds = time.perf_counter() - began
        right = sum(group == [i, arguments.documents + i] for i, group in enumerate(found))
        print(
            f"{'not ASCII' if dashes else 'ASCII'}: {len(texts):,} documents of "
            f"{sum(map(len, texts)) / len(texts):,.0f} characters in {seconds:.1f} s; "
            f"{right} of {arguments.planted} planted copies found, {len(found) - right} others"
        )


if __name__ == "__main__":
    main()

"""Documents, sequences, tokens and targets of each split, and of its halves."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ray_unlearn.store.schema import HALVES
from ray_unlearn.unlearn.data import HALVED_SPLITS, StudyData


@dataclass(frozen=True)
class SplitCount:
    """What a split, or one half of it, holds."""

    split: str
    half: str
    """`selection`, `reporting`, or empty for the whole split."""
    documents: int
    sequences: int
    tokens: int
    targets: int


def split_counts(data: StudyData) -> Iterator[SplitCount]:
    """Counts of every split, each followed by those of its halves where they are dealt.

    Args:
        data: of the study; its halves are not shown before they are dealt.
    """
    for name, split in data.splits.items():
        whole = np.ones(len(split.selection), dtype=bool)
        parts = {"": whole}
        if name in HALVED_SPLITS and not data.to_deal:
            parts |= dict(zip(HALVES, (split.selection, ~split.selection), strict=True))
        for half, chosen in parts.items():
            own = (split.document >= 0) & chosen[split.document]
            yield SplitCount(
                name,
                half,
                int(chosen.sum()),
                int(own.any(axis=1).sum()),
                int(own.sum()),
                int(chosen[split.target_document].sum()),
            )

"""TokenSet: one split as arrays, with the places that are targets.

Shapes: N sequences of T tokens, D documents. A target is a token with a predecessor in its own
document's sequence; there are N x (T - 1) places for targets, and `target_mask` says which are
real. Padding is never a target, nor is a document's first token, nor a token of a prompt.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenSet:
    """One split as arrays; picklable, and shared between processes without copying."""

    input_ids: NDArray[np.int32]
    """[N, T]"""
    document: NDArray[np.int32]
    """[N, T]: index of the token's document; -1 is padding."""
    compressed_bytes: NDArray[np.int32]
    """[D]: length of the document's text after zlib."""
    selection: NDArray[np.bool_]
    """[D]: True for the selection half, False for the reporting half; by hash until a study's
    dealing is known (`StudyData.as_dealt`)."""
    prompt: NDArray[np.bool_] | None = None
    """[N, T]: True for tokens of a prompt, which are context and no targets; None: no prompts."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @cached_property
    def target_mask(self) -> NDArray[np.bool_]:
        """[N, T - 1]: True where token t + 1 is predicted from token t of the same document."""
        within = (self.document[:, 1:] == self.document[:, :-1]) & (self.document[:, 1:] >= 0)
        return within if self.prompt is None else within & ~self.prompt[:, 1:]

    @property
    def full_answers(self) -> int:
        """Answers that end where their sequence does; all that are cut are among them."""
        if self.prompt is None:
            return 0
        one = (self.document == self.document[:, :1]).all(axis=1) & (self.document[:, 0] >= 0)
        return int(one.sum())

    @cached_property
    def position_ids(self) -> NDArray[np.int64] | None:
        """Positions [N, T] that restart at each document of a packed sequence.

        None if no sequence holds two documents.
        """
        start = np.zeros(self.document.shape, dtype=bool)
        start[:, 1:] = (self.document[:, 1:] != self.document[:, :-1]) & (self.document[:, 1:] >= 0)
        if not start.any():
            return None
        index = np.arange(self.document.shape[1], dtype=np.int64)
        return index - np.maximum.accumulate(np.where(start, index, 0), axis=1)

    @cached_property
    def target_document(self) -> NDArray[np.int32]:
        """[targets]: document of each real target, in sequence order."""
        return self.document[:, 1:][self.target_mask]

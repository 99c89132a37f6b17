"""The sequences of each update: a pure function of (seed, split, update).

It is the same for any number of workers.
"""

from functools import lru_cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=64)
def _order(seed: int, split: str, epoch: int, size: int) -> NDArray[np.int64]:
    generator = np.random.Generator(
        np.random.Philox(key=seed, counter=[0, 0, epoch, crc32(split.encode())])
    )
    return generator.permutation(size)


def batch(
    seed: int, split: str, update: int, batch_size: int, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sequence indices [batch_size] and their epochs [batch_size] for `update` (from 1).

    Passes over the split follow each other without a gap, each in its own random order. The order
    depends on the split's name and not on the method, so methods with one seed forget the same
    sequences at the same updates.
    """
    place = (update - 1) * batch_size + np.arange(batch_size)
    epochs = place // size
    indices = np.array(
        [
            _order(seed, split, int(epoch), size)[p % size]
            for p, epoch in zip(place, epochs, strict=True)
        ]
    )
    return indices, epochs

"""Labels that replace the truth on the forget set."""

import numpy as np
from numpy.typing import NDArray


def random_labels(
    true: NDArray[np.int32], allowed: NDArray[np.int32], seed: int, sequence: int, epoch: int
) -> NDArray[np.int32]:
    """Labels for one sequence, uniform over `allowed` without the true token of each position.

    They are drawn anew in each epoch and depend on (seed, sequence, epoch) alone, so they are the
    same on any worker, in any order.

    Args:
        true: [T - 1] true next tokens.
        allowed: [A] rising ids that are not special (never a special or padding id, never ignored).
        seed: the trial's seed.
        sequence: index in the forget set.
        epoch: pass over the forget set.

    Returns:
        [T - 1] labels.
    """
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, epoch, sequence]))
    place = np.searchsorted(allowed, true)
    is_allowed = allowed[np.minimum(place, len(allowed) - 1)] == true
    drawn = generator.integers(0, len(allowed) - is_allowed)
    return allowed[drawn + (is_allowed & (drawn >= place))]

"""Ranges to search that are proposed for a model of some size, each with where it is from."""

import math
from dataclasses import dataclass

METHODS_FIRST = (
    "gradient_ascent",
    "ascent_descent_in_distribution",
    "ascent_kl_in_distribution",
)
"""Methods of a first study: the plain one, and the two that the reference campaign recommends."""
WHY_METHODS = (
    "docs/reference, 756 trials of models of 0.9 M parameters: ascent + KL needs the least tuning, "
    "ascent + descent comes next, plain ascent is what both are compared with"
)
PUBLISHED_BATCH = 32
"""Sequences per update in TOFU's and MUSE's scripts."""
SMALL_BATCH = 8
"""As in the shipped search spaces."""
EPOCHS = 5
"""Passes over the forget set: TOFU (arXiv 2401.06121); OpenUnlearning and MUSE make 10."""
FEWEST_STEPS, MOST_STEPS = 40, 500
"""Of the highest step that is searched; 40 is that of the shipped search spaces."""


@dataclass(frozen=True)
class ProposedRanges:
    """Ranges for a size of model, and what they rest on."""

    learning_rate: tuple[float, float]
    retain_weight: tuple[float, float]
    source: str


BY_SIZE: tuple[tuple[float, ProposedRanges], ...] = (
    (
        2e7,
        ProposedRanges(
            (2e-4, 2e-3),
            (0.5, 8.0),
            "docs/reference (0.9 M parameters): good learning rates 6e-4 to 1.3e-3, none below "
            "3e-4 for methods that retain; retain weights 0.66 to 1.6 (descent), 1.2 to 8 (KL)",
        ),
    ),
    (
        5e8,
        ProposedRanges(
            (1e-5, 2e-4),
            (0.5, 4.0),
            "docs/smollm2.md (135 M parameters): a study of two trials, so these are wide on "
            "purpose",
        ),
    ),
    (
        math.inf,
        ProposedRanges(
            (1e-6, 1e-4),
            (0.5, 10.0),
            "published work on 1 B parameters and up: 1e-7 to 5e-5; 1e-5 in TOFU and MUSE, 2e-5 "
            "for Yi-6B (arXiv 2402.15159)",
        ),
    ),
)
"""By the number of parameters that it goes up to."""


def proposed_ranges(parameters: float) -> ProposedRanges:
    """The ranges for a model of so many parameters."""
    return next(ranges for most, ranges in BY_SIZE if parameters < most)


def proposed_batch(sequences: int) -> int:
    """Forget sequences per update."""
    if sequences >= 8 * PUBLISHED_BATCH:
        return PUBLISHED_BATCH
    return max(1, min(SMALL_BATCH, sequences))


def proposed_steps(sequences: int, batch: int) -> int:
    """The most updates of a trial."""
    return min(MOST_STEPS, max(FEWEST_STEPS, EPOCHS * math.ceil(sequences / batch)))

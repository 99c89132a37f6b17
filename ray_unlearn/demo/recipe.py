"""Recipes of the demo models.

Every field is part of the cache key, so a changed recipe makes new models.
"""

from dataclasses import dataclass

VERSION = 1  # raise when the meaning of a field or of the training code changes


@dataclass(frozen=True)
class Recipe:
    """Tokenizer, model and optimizer of a demo model.

    The model has about 0.9 M parameters; measured figures are in docs/demo_world.md.
    """

    vocabulary: int = 1024  # byte-level BPE tokens, special ones included
    context: int = 128  # tokens of a chunk
    hidden: int = 128
    intermediate: int = 320
    layers: int = 4
    heads: int = 4
    # The same for both models: without the forget set an epoch is shorter, so there are more.
    steps: int = 1080
    batch: int = 4  # chunks per step
    learning_rate: float = 3e-3  # peak, after warm-up; cosine to zero
    warmup: float = 0.05  # fraction of the steps
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.95
    initial_scale: float = 0.1  # SD of initial weights; with 0.02, 1,000 steps learn little
    clip: float = 1.0  # gradient norm
    seed: int = 0


# The less text, the sooner a model memorises it; past that point the two models only drift apart on
# unseen text.
RECIPES = {
    "shakespeare": Recipe(steps=1080),
    "stdlib": Recipe(steps=950),
    "latex": Recipe(steps=900, initial_scale=0.08),
}

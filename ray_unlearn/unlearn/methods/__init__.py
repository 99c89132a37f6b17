"""The unlearning methods as terms of one trial: documents, labels, a pure loss and a weight.

`ray_unlearn.spec.method_registry.METHODS` says which terms a method has; here are the terms with a
trial's values.
"""

from collections.abc import Collection
from dataclasses import dataclass

from ray_unlearn.spec.method_registry import method_named
from ray_unlearn.spec.method_terms import Labels, Loss, TermSpec
from ray_unlearn.spec.own_hyperparameters import LAYER_DEPTH, TRAINED_LAYERS
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.unlearn.methods.losses import LOSSES


@dataclass(frozen=True)
class Term:
    """One part of a trial's loss: weight * loss on `batch_size` documents of `split`."""

    name: str
    split: str
    loss: Loss
    labels: Labels
    weight: float
    batch_size: int
    layer_depth: float = 1.0
    """Depth of the layer that a loss of hidden states looks at."""
    trained_layers: int | None = None
    """Layers that are trained, that one and those below it; None: all."""


def loss_of(term: TermSpec) -> Loss:
    """The loss of a term, ours by its name or a user's own."""
    return term.loss if isinstance(term.loss, Loss) else LOSSES[term.loss]


def other_answers(methods: Collection[str]) -> frozenset[str]:
    """Which other answers to the forget set's prompts these methods ask for."""
    return frozenset(kind for name in methods for kind in method_named(name).other_answers)


def terms(config: TrialConfig) -> tuple[Term, ...]:
    """The terms whose weighted sum the trial minimises.

    The mixing weights appear here and nowhere else.
    """
    return tuple(
        Term(
            spec.name,
            spec.split,
            loss_of(spec),
            spec.labels,
            1.0 if spec.weight is None else getattr(config, spec.weight),
            config.batch_size if spec.split == "forget" else config.retain_batch_size,
            getattr(config, LAYER_DEPTH.name, 1.0),
            getattr(config, TRAINED_LAYERS.name, None),
        )
        for spec in config.definition.terms
    )

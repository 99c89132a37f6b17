"""What attacks on a study's models measured: `attacks.json` in the study's folder.

One entry per attacked model; attacking it again replaces what is measured again. Losses are
token means over the attacked documents in nats per token.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.given_file import given_bytes, json_value
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.store.typed_fields import has_its_types

ATTACKS_FILE = "attacks.json"
PARAPHRASES = "paraphrases"
"""`text` of an outcome on other documents than those before the attack."""
TRIAL, VANILLA, RETRAINED = "trial", "vanilla", "exact_retrain"
ATTACKED = (TRIAL, VANILLA, RETRAINED)
"""Names of the models that are attacked alike; `exact_retrain` where the study has one."""
LEAST_RISE = 0.01
"""Nats per token that a model must have forgotten for a share of it to come back."""


@dataclass(frozen=True)
class AttackOutcome:
    """One attack in one setting, on the trial's model and on those it is compared with."""

    attack: str
    """`relearn`, `quantise` or `prompts`."""
    setting: str
    """In words: `20 updates on a quarter of the forget set`."""
    text: str
    """What relearning learnt (a split), or `paraphrases`; else empty."""
    amount: float
    """Updates, or bits; 0 where there is no number."""
    before: dict[str, float]
    """NLL of the same targets without the attack, by model."""
    nll: dict[str, float]
    """NLL under the attack, by model."""
    accuracy: dict[str, float] = field(default_factory=dict)
    """Share of next tokens that are the argmax, by model; `prompts` alone."""

    def undone(self, model: str = TRIAL) -> float | None:
        """The share of what a model had forgotten that the attack takes back.

        It is (before - after) / (before - vanilla before). Paraphrases are other documents, so
        there it is what is missing of the rise over the vanilla model on the same paraphrases:
        1 - (after - vanilla after) / (before - vanilla before).

        Returns:
            0: nothing came back, 1: all of it, below 0: the attack did harm only; None for the
            vanilla model and for one that has forgotten less than 0.01 nats, which has nothing to
            take back.
        """
        if model not in self.nll or VANILLA not in self.before:
            return None
        rise = self.before[model] - self.before[VANILLA]
        if model == VANILLA or not rise >= LEAST_RISE:
            return None
        against = self.nll if self.text == PARAPHRASES else self.before
        share = 1 - (self.nll[model] - against[VANILLA]) / rise
        return share if math.isfinite(share) else None


@dataclass(frozen=True)
class AttackedModel:
    """The model of one trial, and what every attack did to it."""

    method: str
    number: int
    trial_id: str
    seed: int
    update: int
    strength: float
    confirmation: str = ""
    """Folder of the confirmation whose trial it is (`confirm`); empty: the study's own."""
    confirms: str = ""
    """Id of the study's trial whose configuration this one repeats."""
    outcomes: tuple[AttackOutcome, ...] = ()

    @property
    def key(self) -> tuple[str, int, int, float]:
        """What tells the models of a study apart."""
        return self.confirmation, self.number, self.update, self.strength

    def of(self, attack: str) -> tuple[AttackOutcome, ...]:
        """The outcomes of one attack."""
        return tuple(one for one in self.outcomes if one.attack == attack)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """A flat record for each attack and setting, for a table or a data frame."""
        about = {name: value for name, value in asdict(self).items() if name != "outcomes"}
        return [about | _line(outcome) for outcome in self.outcomes]


def strongest(outcomes: Iterable[AttackOutcome]) -> AttackOutcome | None:
    """The hardest setting of one attack: most updates on the forget set, or fewest bits."""
    own = [one for one in outcomes if one.text in ("", "forget")] or list(outcomes)
    hardest = {"relearn": max, "quantise": min}.get(own[0].attack, max) if own else max
    return hardest(own, key=lambda one: one.amount, default=None)


def read_attacks(folder: Path) -> list[AttackedModel]:
    """All attacked models of a study; none where nothing was attacked.

    Raises:
        StorageError: the file is damaged.
    """
    path = folder / ATTACKS_FILE
    try:
        content = json_value(given_bytes(path))
        return [_model(entry) for entry in content["models"]]
    except FileNotFoundError:
        return []
    except (ArithmeticError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StorageError(
            f"{path}: cannot be read: {type(error).__name__}: {error}; remove it, and attack again "
            "with `ray-unlearn attack`"
        ) from None


def write_attacks(folder: Path, found: Iterable[AttackedModel]) -> Path:
    """Add attacked models to the file of a study.

    A model that is there already has the attacks that were made again replaced.

    Returns:
        The file's path.

    Raises:
        StorageError: the file is damaged or cannot be written.
    """
    models = {model.key: model for model in read_attacks(folder)}
    for model in found:
        again = {outcome.attack for outcome in model.outcomes}
        before = models[model.key].outcomes if model.key in models else ()
        rest = tuple(outcome for outcome in before if outcome.attack not in again)
        content = asdict(model) | {"outcomes": (*rest, *model.outcomes)}
        models[model.key] = AttackedModel(**content)
    lines = [_finite_or_none(asdict(models[key])) for key in sorted(models)]
    path = folder / ATTACKS_FILE
    try:
        text = json.dumps({"models": lines}, indent=1, allow_nan=False)
        write_whole(path, f"{text}\n".encode())
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from None
    return path


def _line(outcome: AttackOutcome) -> dict[str, Any]:
    line: dict[str, Any] = {
        "attack": outcome.attack,
        "setting": outcome.setting,
        "text": outcome.text,
        "amount": outcome.amount,
    }
    for name in ATTACKED:
        line |= {
            f"{name}_before_nll": outcome.before.get(name),
            f"{name}_nll": outcome.nll.get(name),
            f"{name}_undone": outcome.undone(name),
        }
        if outcome.accuracy:
            line[f"{name}_accuracy"] = outcome.accuracy.get(name)
    return line


def _model(entry: Mapping[str, Any]) -> AttackedModel:
    outcomes = tuple(AttackOutcome(**_with_nan(one)) for one in entry["outcomes"])
    model = AttackedModel(**{**entry, "outcomes": outcomes})
    if not all(map(has_its_types, (model, *outcomes))):
        raise TypeError("a value of another type")
    return model


def _with_nan(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An outcome as it was before `_finite_or_none`."""
    numbers = {
        name: {model: _number(number) for model, number in entry.get(name, {}).items()}
        for name in ("before", "nll", "accuracy")
    }
    return {**entry, **numbers}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _finite_or_none(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _finite_or_none(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite_or_none(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content

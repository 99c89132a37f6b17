"""Attacks on models of a study, and on the trials of its confirmation."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray_unlearn.spec.attack_spec import UNPROMPTED, AttackSpec
from ray_unlearn.spec.strict import validated
from ray_unlearn.store.attack_file import AttackedModel, read_attacks, write_attacks
from ray_unlearn.store.location import fetched, send
from ray_unlearn.store.storage import below, storage_at

if TYPE_CHECKING:
    from ray_unlearn.analysis.guidelines.confirmation import Confirmation

Chosen = tuple[str, int | None, float | None]


def attack_spec(attacks: Iterable[str] | None, **settings: Any) -> AttackSpec:
    """The attacks that a caller asks for.

    Args:
        attacks: names; None: relearn and quantise, and prompts where some are given.
        settings: other fields of `AttackSpec`; None: its default.

    Raises:
        UserError: a setting that does not exist or is out of its bounds.
    """
    content = {name: value for name, value in settings.items() if value is not None}
    if attacks is None:
        prompted = content.get("prefixes") or content.get("paraphrases") is not None
        attacks = (*UNPROMPTED, *(("prompts",) if prompted else ()))
    return validated(AttackSpec, content | {"attacks": tuple(attacks)}, "attack")


def attacked(
    location: str,
    chosen: list[Chosen],
    how: AttackSpec,
    say: Callable[[str], None],
    *,
    confirmation: str = "",
    confirms: Sequence[str] = (),
) -> list[AttackedModel]:
    """Attack models and add what was measured to the study's `attacks.json`.

    Args:
        location: the study.
        chosen: trials, each with update and strength, as in `attack_trials`.
        how: the attacks.
        say: called with each line of progress.
        confirmation: folder of the confirmation whose trials these are; empty: the study's own.
        confirms: for each of them the id of the study's trial that it repeats.

    Raises:
        UserError: as `attack_trials`.
        StorageError: the study cannot be read, or the file cannot be written.
    """
    from ray_unlearn.unlearn.attacks.attack_trials import attack_trials

    place = below(location, confirmation) if confirmation else location
    found = []
    with fetched(location) as study, fetched(place) as folder:
        made = attack_trials(folder, storage_at(place), chosen, how, say)
        for one, repeated in zip(made, confirms or [""] * len(chosen), strict=True):
            model = replace(one, confirmation=confirmation, confirms=repeated)
            send(location, [write_attacks(study, [model])])
            found.append(model)
    return found


def attack_repeats(
    location: str, found: "Confirmation", how: AttackSpec, say: Callable[[str], None]
) -> None:
    """Attack the models of a confirmation, those that have been attacked so before left out.

    Args:
        location: the confirmed study.
        found: its confirmation.
        how: the attacks.
        say: called with each line of progress.
    """
    with fetched(location) as study:
        known = {
            model.key: {outcome.attack for outcome in model.outcomes}
            for model in read_attacks(study)
        }
    missing = [
        (c.trial_id, repeat)
        for c in found.configurations
        for repeat in c.repeats
        if not set(how.attacks) <= known.get((found.folder, *repeat), set())
    ]
    if missing:
        chosen: list[Chosen] = [(str(n), update, strength) for _, (n, update, strength) in missing]
        confirms = [trial_id for trial_id, _ in missing]
        attacked(location, chosen, how, say, confirmation=found.folder, confirms=confirms)

"""Attacks on the models of a study's trials, made again in this process."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ray_unlearn.spec.attack_spec import AttackSpec
from ray_unlearn.store.attack_file import AttackedModel
from ray_unlearn.store.storage import Storage
from ray_unlearn.unlearn.attacks.measured_attacks import Attacker
from ray_unlearn.unlearn.same_model import check_same
from ray_unlearn.unlearn.trial_model import TrialModels

Chosen = tuple[str, int | None, float | None]
"""A trial (`best`, id or number), its update and its strength; None: those of its scored row."""


def attack_trials(
    study: Path,
    storage: Storage,
    chosen: Sequence[Chosen],
    how: AttackSpec,
    say: Callable[[str], None],
) -> Iterator[AttackedModel]:
    """Make the model of each trial as `export` does, and attack it.

    Args:
        study: study directory, or a copy of it.
        storage: where the study's weights are.
        chosen: the trials.
        how: the attacks.
        say: called with each line of progress.

    Raises:
        UserError: no such trial or update, no score, model or data have changed since, a trial
            diverges, a model is not that of the ledger's row, or an attack cannot be made.
        StorageError: the study cannot be read.
    """
    models = TrialModels(study, storage, say)
    attacker = None
    for trial, update, strength in chosen:
        made = models.make(trial, update, strength)
        single = models.single
        check_same(single.workspace, made, single.spec.model.dtype)
        attacker = attacker or Attacker(single.workspace, single.spec, how, say)
        say(f"attacking {made.how}")
        yield AttackedModel(
            method=made.trial.method,
            number=made.trial.number,
            trial_id=made.trial.trial_id,
            seed=made.config.seed,
            update=made.at[0],
            strength=made.at[1],
            outcomes=attacker.attack_policy(),
        )

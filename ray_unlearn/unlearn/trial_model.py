"""The unlearned model of a study's trial, from its best weights or by running the trial again."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ray_unlearn.spec.errors import EXIT_FAILED_TRIALS, UserError
from ray_unlearn.spec.strict import validated
from ray_unlearn.spec.study_file import where_it_is_now
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.files import kept_weights
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.row_score import Baselines
from ray_unlearn.store.schema import AS_TRAINED, Row, RowKey, row_key
from ray_unlearn.store.score import ScoreRule
from ray_unlearn.store.status import open_study
from ray_unlearn.store.storage import Storage, local_file
from ray_unlearn.unlearn.single_trial import Single, shortened
from ray_unlearn.unlearn.target_strength import MOST_STRENGTH

Say = Callable[[str], None]


class TrialEndedBadly(UserError):
    """A trial that was run again for its model diverged or ran out of memory."""

    exit_code = EXIT_FAILED_TRIALS


@dataclass(frozen=True)
class MadeModel:
    """What the policy is now: the model of a trial."""

    trial: Trial
    config: TrialConfig
    at: RowKey
    row: Row | None
    """The ledger's row of that update and strength; None where there is none."""
    how: str
    """Where its weights are from, for people."""


class TrialModels:
    """The models of a study's trials, made one after another in this process.

    Args:
        study: study directory, or a copy of it.
        storage: where the study's weights are.
        say: called with each line of progress.

    Raises:
        UserError: there is no study.
        StorageError: it cannot be read.
    """

    def __init__(self, study: Path, storage: Storage, say: Say) -> None:
        self.spec, self.record = open_study(study)
        self._study = study
        self._storage = storage
        self._say = say

    @cached_property
    def single(self) -> Single:
        """Model and data, whose policy is the model that was made last."""
        return Single(where_it_is_now(self.spec, self._study), self._say, self.record)

    @cached_property
    def _baselines(self) -> Baselines:
        self._say("measuring the baselines")
        return self.single.baselines()

    def make(
        self, trial: str, update: int | None = None, strength: float | None = None
    ) -> MadeModel:
        """Make the policy the model of a trial.

        The study has the best trial's weights. For another trial this process runs it again, which
        gives the same weights bit for bit on one CPU worker.

        Args:
            trial: as in `chosen_for_export`, like all below.
            update: the update.
            strength: a in W_0 + a (W_t - W_0).

        Raises:
            UserError: as in `chosen_for_export`; model or data have changed since, or the trial
                diverges.
            StorageError: weights cannot be read.
        """
        chosen, at = chosen_for_export(self.spec, self.record, trial, update, strength)
        wanted, mixed = at
        config = validated(TrialConfig, chosen.config, "ledger: config")
        single = self.single
        if not single.can_repeat(config):
            raise UserError(
                "model, data or evaluation have changed since the study was run; its trial cannot "
                "be repeated: put them back"
            )
        kept = kept_weights(self._storage, self.record, chosen.number, *at)
        if kept is not None:
            with local_file(self._storage, kept) as path:
                single.load_weights(path)
            how = f"the weights that the study kept of trial {chosen.number}, update {wanted}"
        else:
            _run_again(single, shortened(config, wanted), self._baselines, self._say)
            if mixed != AS_TRAINED:
                single.mix(mixed)
            how = f"trial {chosen.number} run again to update {wanted}"
        if mixed != AS_TRAINED:
            how += f", at strength {mixed:.4g}"
        return MadeModel(chosen, config, at, row_at(chosen, at), how)


def chosen_for_export(
    spec: StudySpec,
    record: Record,
    trial: str,
    update: int | None = None,
    strength: float | None = None,
) -> tuple[Trial, RowKey]:
    """The trial to export, and the update and strength of its model.

    Args:
        spec: the study's spec.
        record: what its ledger says.
        trial: id or number of a trial, or `best`.
        update: the update; None: that of the row that scores the trial.
        strength: the strength; None: that of the same row, or 1 if `update` is given.

    Raises:
        UserError: no such trial or update, no score, or a strength that is not in (0, 2].
    """
    rule = ScoreRule.of(record, spec)
    best = rule.best(record)
    chosen = (None if best is None else best[0]) if trial == "best" else _named(record, trial)
    if chosen is None:
        raise UserError(f"{spec.name}: {rule.why_none(record)}, so there is no best one")
    steps = int(chosen.config["steps"])
    if update is None:
        scored = rule.row(chosen)
        if scored is None:
            outside = rule.outside(chosen)
            why = f" within the constraints ({outside})" if outside else ""
            raise UserError(
                f"trial {trial} ({chosen.status}) has no scored row{why}; name an update"
            )
        wanted, found = row_key(scored)
    else:
        wanted, found = update, AS_TRAINED
    if not 1 <= wanted <= steps:
        raise UserError(f"update {wanted}: trial {trial} has updates 1 to {steps}")
    if strength is not None and not 0 < strength <= MOST_STRENGTH:
        raise UserError(
            f"strength {strength:g}: must be above 0 and at most {MOST_STRENGTH:g}; 1 is the model "
            "as trained"
        )
    return chosen, (wanted, found if strength is None else strength)


def row_at(trial: Trial, at: RowKey) -> Row | None:
    """A trial's row at an update and strength; None where nothing was measured there."""
    return next((row for row in trial.rows if row_key(row) == at), None)


def _named(record: Record, trial: str) -> Trial:
    for known in record.trials.values():
        if trial in (known.trial_id, str(known.number)):
            return known
    last = max(record.trials, default=None)
    numbers = "there are none yet" if last is None else f"numbers go from 0 to {last}"
    raise UserError(f"no trial {trial!r}; give `best`, an id, or a number: {numbers}")


def _run_again(single: Single, config: TrialConfig, baselines: Baselines, say: Say) -> None:
    ended = single.run(
        config,
        baselines,
        lambda row: say(
            f"update {row['update']}/{config.steps}: forget ppl {row['forget_ppl']:.1f}, "
            f"score {row['score_selection']:.3f}"
        ),
    )
    if ended.status != "complete":
        raise TrialEndedBadly(
            f"run again, the trial ended {ended.status}: {ended.reason}; no model"
        )

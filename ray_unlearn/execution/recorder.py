"""The one place where results enter the study: first the ledger, on disk, then everybody else.

Ray Tune tells its scheduler of a row before its searcher and its callbacks
(`TuneController._process_trial_result`), so the scheduler's side calls the recorder, and nobody
is told of a row that a power cut could take back.

What comes in may be late, or be said twice. So each entry says what it assumes:

    asked, outcome   nothing: the first word counts, later ones change nothing
    row              the trial has no outcome; of one key, which is an update and a strength, the
                     first row counts
    weights_saved    the row is the best still
    settled          the trial was begun by an earlier session
    note             nothing
"""

import contextlib
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Protocol

from ray_unlearn.execution.early_stopping import Pruner
from ray_unlearn.execution.messages import BestWeights, Incumbent
from ray_unlearn.execution.resume import drop_outdated_weights
from ray_unlearn.execution.search import Search
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.event import (
    BestWeightsKept,
    Note,
    RowMeasured,
    TrialAsked,
    TrialEnded,
)
from ray_unlearn.store.files import remove_checkpoints
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import (
    AS_TRAINED,
    HALVED_SETS,
    HALVES,
    Outcome,
    Row,
    RowKey,
    row_key,
)
from ray_unlearn.store.score import OBJECTIVE, ScoreRule
from ray_unlearn.store.storage import FolderStorage, Storage
from ray_unlearn.store.target import ForgetTarget

_log = logging.getLogger(__name__)


class Observer(Protocol):
    """An observer of a study, called after the ledger is written.

    Its errors never reach the study.
    """

    def on_trial(self, trial: Trial) -> None:
        """A trial was handed out."""

    def on_row(self, trial: Trial, row: Row) -> None:
        """A trial has a new evaluation row."""

    def on_outcome(self, trial: Trial) -> None:
        """A trial has ended."""


class Recorder:
    """The ledger's only writer while trials run.

    All calls come from the thread that runs Tune.
    """

    def __init__(
        self,
        spec: StudySpec,
        ledger: Ledger,
        search: Search,
        pruner: Pruner,
        observers: Sequence[Observer] = (),
        storage: Storage | None = None,
    ) -> None:
        record = ledger.record
        flops = record.header.retraining_flops
        self._baselines = Baselines(
            record.baselines["vanilla"], record.baselines.get("exact_retrain"), flops
        )
        self._weights = spec.objective.weights
        self._calibrates = spec.evaluation.strength != "trained"
        self._screens = spec.evaluation.screen is not None
        self._ledger = ledger
        self._search = search
        self._pruner = pruner
        self._observers = list(observers)
        self._storage = storage or FolderStorage(ledger.folder.parent)
        self._rule = ScoreRule.of(record, spec)
        self._best = self._lowest()
        self.fatal = ""
        """Why the study cannot go on, once it cannot."""

    @property
    def target(self) -> ForgetTarget | None:
        """What lanes are to calibrate trained states to; None: nothing."""
        return self._baselines.forget_target if self._calibrates else None

    def incumbent(self, method: str) -> Incumbent | None:
        """What the rows of a trial of this method are screened against; None: nothing is."""
        if not self._screens:
            return None
        found = self._rule.row_to_keep(self.record, method)
        score = math.inf if found is None else float(found[1][OBJECTIVE])
        vanilla = self._baselines.vanilla
        names = [f"{name}_nll_{half}" for name in HALVED_SETS for half in HALVES]
        return Incumbent(score, {name: float(vanilla[name]) for name in names})

    @property
    def record(self) -> Record:
        """What the ledger says so far."""
        return self._ledger.record

    def asked(self, number: int, config: TrialConfig, source: str = "") -> None:
        """Record that trial `number` is handed out.

        A trial that a resumed study asks again is in the ledger already. `source` is the name of
        the sampler that chose it, evidence for the analysis.
        """
        if number not in self.record.trials:
            content, named = config.model_dump(mode="json"), self.record.trial_id(config)
            self._ledger.append(
                TrialAsked(number=number, trial_id=named, source=source, config=content)
            )
        self._show("on_trial", self.record.trials[number])

    def row(self, number: int, attempt: int, metrics: Row) -> str | None:
        """Record an evaluation row, once per update and strength whatever is replayed.

        A stopped trial's outcome is recorded here too.

        Returns:
            A reason to stop the trial, or None.
        """
        trial = self.record.trials[number]
        if trial.status is not None:
            return trial.reason or trial.status
        known = next((row for row in trial.rows if row_key(row) == row_key(metrics)), None)
        if known is None:
            known = scored(metrics, self._baselines, self._weights, self._rule.objective)
            self._note_absent(trial.method, known)
            self._ledger.append(
                RowMeasured(
                    number=number,
                    trial_id=trial.trial_id,
                    attempt=attempt,
                    update=metrics["update"],
                    metrics=known,
                )
            )
            self._show("on_row", trial, known)
            if self._rule.is_settled(known, trial):
                self._best = min(self._best, (known[OBJECTIVE], number, row_key(known)))
        reason = self._pruner.verdict(self.record, number, known)
        if reason is not None:
            self.outcome(number, attempt, "pruned", reason)
        return reason

    def _note_absent(self, method: str, row: Row) -> None:
        """Say once of each method that its rows lack what the objective reads."""
        for name in self._rule.objective.absent(row):
            text = (
                f"rows of {method} have no `{name}`, which the study's objective reads: none of "
                "them can score its trial"
            )
            if text not in self.record.notes:
                self.note(text)

    def settled(self, number: int) -> bool:
        """Whether a trial that a stopped study had begun is over.

        The study may have died between a row and the verdict on it; the verdict, asked again, then
        stops the trial.
        """
        trial = self.record.trials[number]
        if trial.status is None and trial.rows:
            last = max(trial.rows, key=row_key)
            reason = self._pruner.verdict(self.record, number, last)
            if reason is not None:
                self.outcome(number, trial.attempt, "pruned", reason)
        return trial.status is not None

    def outcome(self, number: int, attempt: int, status: Outcome, reason: str) -> None:
        """Record how a trial ended, once, then tell the search."""
        trial = self.record.trials[number]
        if trial.status is not None:
            return
        self._ledger.append(
            TrialEnded(
                number=number,
                trial_id=trial.trial_id,
                attempt=attempt,
                status=status,
                reason=reason,
            )
        )
        self._search.tell(trial)
        self._show("on_outcome", trial)
        remove_checkpoints(self._storage, number)
        if status not in ("complete", "pruned") and number == self._best[1]:
            self._best = self._lowest()  # its rows do not count any more
            self.drop_outdated_weights()

    def is_best(self, number: int, key: RowKey) -> bool:
        """Whether this row is the best so far, rows of running trials included."""
        return self._best[1:] == (number, key)

    def weights_saved(self, weights: BestWeights) -> None:
        """A lane has saved the weights of a row that was the best when it was asked to.

        They are recorded if that row is the best still, and those of the one before are deleted. A
        word that comes late, when another row is the best, costs its own file and nothing else.
        """
        recorded = self.record.best_weights
        if not self.is_best(weights.number, weights.key):
            if recorded is None or recorded.file != weights.file:
                self._remove(weights.file)
            return
        trial_id = self.record.trials[weights.number].trial_id
        kept = BestWeightsKept(trial_id=trial_id, **asdict(weights))
        if kept == recorded:
            return  # said twice: nobody knew whether the first word had arrived
        self._ledger.append(kept)
        if recorded is not None and recorded.file != kept.file:
            self._remove(recorded.file)

    def drop_outdated_weights(self) -> None:
        """See `resume.drop_outdated_weights`."""
        drop_outdated_weights(self._ledger, self._rule, self._storage)

    def _remove(self, file: str) -> None:
        with contextlib.suppress(OSError):  # then it is a leftover
            self._storage.remove(file)

    def _lowest(self) -> tuple[float, int, RowKey]:
        """Score, trial and key of the best row so far, as `ScoreRule` orders them."""
        found = self._rule.row_to_keep(self.record)
        if found is None:
            return math.inf, -1, (-1, AS_TRAINED)
        trial, row = found
        return row[OBJECTIVE], trial.number, row_key(row)

    def note(self, text: str) -> None:
        """Record something an operator should see."""
        self._ledger.append(Note(text))

    def _show(self, event: str, *content: object) -> None:
        for observer in list(self._observers):
            try:
                getattr(observer, event)(*content)
            except Exception as error:  # a full log disk or a closed terminal must not cost a study
                self._observers.remove(observer)
                _log.warning(
                    "%s is switched off for this study: %r", type(observer).__name__, error
                )

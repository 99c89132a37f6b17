"""The one place where results enter the study: first the ledger, on disk, then everybody else.

Ray Tune tells its scheduler of a row before its searcher and its callbacks
(`TuneController._process_trial_result`), so the scheduler's side calls the recorder, and nobody
hears of a row that a power cut could take back.
"""

import contextlib
import logging
import math
from collections.abc import Sequence
from typing import Any, Protocol

from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.event import BestWeightsKept, Note, RowMeasured, TrialAsked, TrialEnded
from ray_unlearn.store.files import remove_checkpoints
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.row_score import Baselines, Weights, scored
from ray_unlearn.store.schema import Outcome, Row
from ray_unlearn.store.score import OBJECTIVE, ScoreRule
from ray_unlearn.store.storage import FolderStorage, Storage

_log = logging.getLogger(__name__)


class Observer(Protocol):
    """Watches a study. Told after the ledger; its errors never reach the study."""

    def on_trial(self, trial: Trial) -> None:
        """A trial was handed out."""

    def on_row(self, trial: Trial, row: Row) -> None:
        """A trial has a new evaluation row."""

    def on_outcome(self, trial: Trial) -> None:
        """A trial has ended."""


class TellsSearch(Protocol):
    """What the recorder needs of the search."""

    def tell(self, trial: Trial) -> None:
        """A finished trial."""


class GivesVerdict(Protocol):
    """What the recorder needs of early stopping."""

    def verdict(self, record: Record, number: int, row: Row) -> str | None:
        """A reason to stop the trial at this row, or None."""


class Recorder:
    """The ledger's only writer while trials run. All calls come from the thread that runs Tune."""

    def __init__(
        self,
        spec: StudySpec,
        ledger: Ledger,
        search: TellsSearch,
        pruner: GivesVerdict,
        observers: Sequence[Observer] = (),
        storage: Storage | None = None,
    ) -> None:
        record = ledger.record
        flops = record.header.retraining_flops
        self._baselines = Baselines(
            record.baselines["vanilla"], record.baselines.get("exact_retrain"), flops
        )
        self._weights = Weights(
            spec.objective.forget_gap, spec.objective.retain, spec.objective.general
        )
        self._ledger = ledger
        self._search = search
        self._pruner = pruner
        self._observers = list(observers)
        self._storage = storage or FolderStorage(ledger.folder.parent)
        self._improved: tuple[int, int] | None = None
        self._rule = ScoreRule.of(record, spec)
        self._best, self._best_number = self._lowest()
        self.fatal = ""
        """Why the study cannot go on, once it cannot."""

    @property
    def record(self) -> Record:
        """What the ledger says so far."""
        return self._ledger.record

    def asked(self, number: int, config: TrialConfig, source: str = "") -> None:
        """Trial `number` is handed out; a trial that a resumed study asks again is in the ledger
        already.

        `source` says who chose it (a sampler's name), evidence for the analysis.
        """
        if number not in self.record.trials:
            content, named = config.model_dump(mode="json"), self.record.trial_id(config)
            self._ledger.append(
                TrialAsked(number=number, trial_id=named, source=source, config=content)
            )
        self._show("on_trial", self.record.trials[number])

    def row(self, number: int, attempt: int, metrics: Row) -> str | None:
        """Record an evaluation row, once per update whatever is replayed. Returns a reason to stop
        the trial, or None.

        A stopped trial's outcome is recorded here too.
        """
        trial = self.record.trials[number]
        if trial.status is not None:
            return trial.reason or trial.status
        update = metrics["update"]
        known = next((row for row in trial.rows if row["update"] == update), None)
        if known is None:
            known = scored(metrics, self._baselines, self._weights)
            self._ledger.append(
                RowMeasured(
                    number=number,
                    trial_id=trial.trial_id,
                    attempt=attempt,
                    update=update,
                    metrics=known,
                )
            )
            self._show("on_row", trial, known)
            if self._rule.is_settled(known, trial) and known[OBJECTIVE] < self._best:
                self._best, self._best_number, self._improved = (
                    known[OBJECTIVE],
                    number,
                    (number, update),
                )
        reason = self._pruner.verdict(self.record, number, known)
        if reason is not None:
            self.outcome(number, attempt, "pruned", reason)
        return reason

    def settled(self, number: int) -> bool:
        """Whether a trial that a stopped study had begun is over: it died between a row and the
        verdict on it, and the verdict, asked again, stops it."""
        trial = self.record.trials[number]
        if trial.status is None and trial.rows:
            last = max(trial.rows, key=lambda row: row["update"])
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
        if status not in ("complete", "pruned") and number == self._best_number:
            self._best, self._best_number = self._lowest()  # its rows do not count any more

    def is_best(self, number: int, update: int) -> bool:
        """Whether the row that was recorded last is this one, and the best so far."""
        return self._improved == (number, update)

    def artefact(self, number: int, file: dict[str, Any]) -> None:
        """The weights of the best row so far are in `file`; those of the one before are deleted."""
        before = self.record.best_weights
        trial_id = self.record.trials[number].trial_id
        kept = BestWeightsKept(number=number, trial_id=trial_id, **file)
        self._ledger.append(kept)
        if before is not None and before.file != kept.file:
            with contextlib.suppress(OSError):
                self._storage.remove(before.file)

    def _lowest(self) -> tuple[float, int]:
        """The best score so far and its trial."""
        found = self._rule.row_to_keep(self.record)
        return (math.inf, -1) if found is None else (found[1][OBJECTIVE], found[0].number)

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

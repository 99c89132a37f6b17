"""All that a ledger says, in memory: trials with their rows, baselines, notes."""

from dataclasses import dataclass, field
from typing import Any

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.trial_config import TrialConfig, with_defaults
from ray_unlearn.spec.trial_id import trial_id
from ray_unlearn.store.event import (
    KINDS,
    BaselineMeasured,
    BestWeightsGone,
    BestWeightsKept,
    Event,
    EventLost,
    EventsWithdrawn,
    HalvesDealt,
    Header,
    LedgerOpened,
    Note,
    RowMeasured,
    SessionBegan,
    StudyExtended,
    TrialAsked,
    TrialEnded,
    TrialEvent,
    TrialReopened,
    UnknownEvent,
)
from ray_unlearn.store.schema import Outcome, Row, row_key


@dataclass
class Trial:
    """A trial, its rows and its outcome."""

    number: int
    trial_id: str
    config: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    status: Outcome | None = None
    reason: str = ""
    attempt: int = 0
    source: str = ""
    """Who chose the configuration: `quasi_random`, `random`, `grid` or an adaptive sampler's
    name."""

    @property
    def method(self) -> str:
        """Name of the unlearning method."""
        return str(self.config["method"])


@dataclass
class Record:
    """All the ledger says, in memory."""

    header: Header
    baselines: dict[str, Row] = field(default_factory=dict)
    trials: dict[int, Trial] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sessions: list[SessionBegan] = field(default_factory=list)
    best_weights: BestWeightsKept | None = None
    """Where the weights of the best row are; None when they are not kept."""
    trials_per_method: int | None = None
    """As of the last extension; None when the study was never extended."""
    halves: dict[str, str] = field(default_factory=dict)
    """As in `HalvesDealt`; empty where the header's `dealing` says it all."""

    def apply(self, event: Event) -> None:
        """Apply one event; a row that is already there (a retry replays it) changes nothing.

        Raises:
            StorageError: an event of an unknown kind, or of a trial that was never begun.
        """
        match event:
            case BaselineMeasured():
                self.baselines[event.name] = event.metrics
            case HalvesDealt():
                self.halves = event.splits
            case TrialAsked():
                self.trials[event.number] = Trial(
                    event.number,
                    event.trial_id,
                    with_defaults(event.config),
                    source=event.source,
                )
            case RowMeasured():
                trial = self._trial(event)
                if not any(row_key(row) == event.key for row in trial.rows):
                    trial.rows.append(event.metrics)
            case TrialEnded():
                trial = self._trial(event)
                trial.status, trial.reason = event.status, event.reason
                trial.attempt = event.attempt
            case TrialReopened():
                trial = self._trial(event)
                trial.status, trial.reason = None, ""
            case Note():
                self.notes.append(event.text)
            case SessionBegan():
                self.sessions.append(event)
            case BestWeightsKept():
                self.best_weights = event
            case BestWeightsGone():
                self.best_weights = None
            case StudyExtended():
                self.trials_per_method = event.trials_per_method
            case LedgerOpened() | EventLost() | EventsWithdrawn():
                pass
            case Header():
                raise StorageError(
                    "ledger: a second header; `ray-unlearn verify --repair` withdraws it"
                )
            case UnknownEvent():
                raise StorageError(
                    f"ledger: event of unknown kind {event.kind!r}; was it written by a newer "
                    "version?"
                )

    def _trial(self, event: TrialEvent) -> Trial:
        try:
            return self.trials[event.number]
        except KeyError:
            raise StorageError(
                f"ledger: a {KINDS[type(event)]} of trial {event.number}, which was never begun; "
                "`ray-unlearn verify --repair` sets it aside"
            ) from None

    def trial_id(self, config: TrialConfig) -> str:
        """The id that a trial has in this ledger: the schema version of the header decides."""
        return trial_id(config, self.header.schema_version)

    @property
    def finished(self) -> list[Trial]:
        """Trials with an outcome, by number."""
        return [trial for _, trial in sorted(self.trials.items()) if trial.status is not None]

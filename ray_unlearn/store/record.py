"""All that a ledger says, in memory: trials with their rows, baselines, notes. See `ledger` for the
kinds of events."""

from dataclasses import dataclass, field
from typing import Any

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.event import Event
from ray_unlearn.store.schema import Outcome, Row


@dataclass
class Trial:
    """One trial as the ledger tells it."""

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

    header: Event
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)
    trials: dict[int, Trial] = field(default_factory=dict)
    notes: list[Event] = field(default_factory=list)
    sessions: list[Event] = field(default_factory=list)
    artefact: Event | None = None
    """The last one: the best row's weights."""
    trials_per_method: int | None = None
    """The last amendment; None when the study was never extended."""

    def apply(self, event: Event) -> None:
        """Take one event in. A row that is already there (a retry replays it) changes nothing.

        Raises:
            StorageError: a kind that this code does not know, or a trial that was never begun.
        """
        match event["kind"]:
            case "baseline":
                self.baselines[event["name"]] = event["metrics"]
            case "trial":
                self.trials[event["number"]] = Trial(
                    event["number"],
                    event["trial_id"],
                    event["config"],
                    source=event.get("source", ""),
                )
            case "row":
                trial = self._trial(event)
                if not any(row["update"] == event["update"] for row in trial.rows):
                    trial.rows.append(event["metrics"])
            case "outcome":
                trial = self._trial(event)
                trial.status, trial.reason, trial.attempt = (
                    event["status"],
                    event["reason"],
                    event["attempt"],
                )
            case "reopened":
                trial = self._trial(event)
                trial.status, trial.reason = None, ""
            case "note":
                self.notes.append(event)
            case "session":
                self.sessions.append(event)
            case "artefact":
                self.artefact = event if event["file"] else None
            case "amendment":
                self.trials_per_method = event["trials_per_method"]
            case unknown:
                raise StorageError(
                    f"ledger: event of unknown kind {unknown!r}; was it written by a newer version?"
                )

    def _trial(self, event: Event) -> Trial:
        try:
            return self.trials[event["number"]]
        except KeyError:
            raise StorageError(
                f"ledger: a {event['kind']} of trial {event['number']}, which was never begun; "
                "`ray-unlearn verify --repair` sets it aside"
            ) from None

    @property
    def finished(self) -> list[Trial]:
        """Trials with an outcome, by number."""
        return [trial for _, trial in sorted(self.trials.items()) if trial.status is not None]

"""What a ledger records: one class per kind of event.

An event is a frozen dataclass. `entry` writes it as one checked line of JSON; the order of a
class's fields is the order of its keys on disk.
"""

from dataclasses import dataclass, field
from typing import Any

from ray_unlearn.store.schema import (
    AS_TRAINED,
    SCHEMA_VERSION,
    Dealing,
    Outcome,
    Row,
    RowKey,
    strength_of,
)


@dataclass(frozen=True)
class Header:
    """The first event, with everything that decides the study's results."""

    schema_version: int = SCHEMA_VERSION
    spec: dict[str, Any] = field(default_factory=dict)
    """The resolved study spec."""
    domain: str = ""
    data_digest: str = ""
    split_digests: dict[str, str] = field(default_factory=dict)
    """Digest of each split's documents and tokens; empty in older ledgers."""
    model_digest: str = ""
    context: str = ""
    """Digest of everything that is the same for every trial; part of each trial's id."""
    retraining_flops: float = 0.0
    """Estimated cost of retraining without the forget set; 0 if unknown."""
    code_version: str = ""
    libraries: dict[str, str] = field(default_factory=dict)
    """Versions, by name."""
    dealing: Dealing = "hash"
    """How documents come to their halves; ledgers of before decision 17 do not say."""
    methods: dict[str, str] = field(default_factory=dict)
    """By name, a digest of the source of each method that is the user's own."""
    tasks: dict[str, str] = field(default_factory=dict)
    """By name, a digest of each file of a task whose metrics are columns of rows."""
    other: dict[str, Any] = field(default_factory=dict)
    """Keys that this version does not know."""


@dataclass(frozen=True)
class SessionBegan:
    """A process began to work on the study."""

    total: int | None = None
    """Trials of the whole study; None in ledgers that do not record it."""
    host: str = ""
    pid: int = 0
    code_version: str | None = None
    libraries: dict[str, str] | None = None


@dataclass(frozen=True)
class StudyExtended:
    """The study has another number of trials from now on."""

    trials_per_method: int | None


@dataclass(frozen=True)
class BaselineMeasured:
    """Metrics of a model that no trial changed, such as `vanilla`."""

    name: str
    metrics: Row


@dataclass(frozen=True)
class HalvesDealt:
    """Which half each document belongs to, for a study whose `dealing` is `balanced`."""

    splits: dict[str, str]
    """By split, a character per document: `s` (selection) or `r` (reporting)."""


@dataclass(frozen=True, kw_only=True)
class TrialAsked:
    """A trial was asked for."""

    number: int
    trial_id: str
    source: str = ""
    """Name of the sampler that chose the configuration."""
    config: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RowMeasured:
    """An evaluation row of a trial."""

    number: int
    trial_id: str = ""
    attempt: int = 0
    update: int
    metrics: Row

    @property
    def key(self) -> RowKey:
        """Update and strength: what tells a trial's rows apart."""
        return self.update, strength_of(self.metrics)


@dataclass(frozen=True, kw_only=True)
class BestWeightsKept:
    """The weights of the best row so far are in a file of the study."""

    number: int
    trial_id: str = ""
    update: int
    strength: float = AS_TRAINED
    file: str
    """The file's name below the study."""
    sha256: str
    bytes: int


@dataclass(frozen=True)
class BestWeightsGone:
    """The file of the last `BestWeightsKept` is gone or changed."""

    number: int
    update: int
    file: str = field(default="", init=False)
    strength: float = AS_TRAINED


@dataclass(frozen=True, kw_only=True)
class TrialEnded:
    """A trial has its outcome."""

    number: int
    trial_id: str = ""
    attempt: int = 0
    status: Outcome
    reason: str


@dataclass(frozen=True)
class TrialReopened:
    """A trial's outcome no longer counts, and the trial runs again."""

    number: int
    reason: str


@dataclass(frozen=True)
class Note:
    """Something an operator should see, such as the restart of a lane."""

    text: str


@dataclass(frozen=True)
class LedgerOpened:
    """A process has made the study its own: whoever wrote it before cannot go on."""

    host: str = ""
    pid: int = 0
    key: str = ""
    """Tells it from every other process."""


@dataclass(frozen=True)
class EventLost:
    """What a repair puts in the place of an event that is damaged or gone."""

    reason: str = ""


@dataclass(frozen=True)
class EventsWithdrawn:
    """Events that do not count, because a repair found that they contradict others."""

    numbers: list[int]
    reason: str = ""


@dataclass(frozen=True)
class UnknownEvent:
    """An event of a kind that this version does not know."""

    kind: str


TrialEvent = RowMeasured | TrialEnded | TrialReopened | BestWeightsKept | BestWeightsGone
"""Events that mean nothing without their trial's `TrialAsked`."""
Event = (
    Header | SessionBegan | StudyExtended | BaselineMeasured | HalvesDealt | TrialAsked
    | TrialEvent | Note | LedgerOpened | EventLost | EventsWithdrawn | UnknownEvent
)  # fmt: skip

KINDS: dict[type[Any], str] = {
    Header: "header", SessionBegan: "session", StudyExtended: "amendment",
    BaselineMeasured: "baseline", HalvesDealt: "halves", TrialAsked: "trial", RowMeasured: "row",
    BestWeightsKept: "artefact", BestWeightsGone: "artefact", TrialEnded: "outcome",
    TrialReopened: "reopened", Note: "note", LedgerOpened: "opened", EventLost: "lost",
    EventsWithdrawn: "withdrawn",
}  # fmt: skip
"""Name of each class on disk."""

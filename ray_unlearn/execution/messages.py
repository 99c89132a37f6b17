"""Messages between hub, lanes, Tune's side and recorder, frozen and typed.

Messages arrive late, and the sender of a question may be gone when its answer comes. So each
message that changes state names what it assumes, and the receiver compares that with its own state:

    Launch       the n-th time that the driver started this lane: earlier messages are void
    LaneStart    the n-th worker group of a lane: messages of a replaced group are void
    attempt      the n-th run of a trial: messages about an earlier one's rows are void
    key          the row that a message is about: its update and strength
    request      the n-th request for a checkpoint: an older checkpoint does not answer it

The hub's process has to start in a second, so neither torch nor pydantic is imported here.
"""

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ray_unlearn.store.schema import AS_TRAINED, Outcome, Row, RowKey, row_key, strength_of
from ray_unlearn.store.target import ForgetTarget

FIRST_JOB = -1
"""Number of the job before trial 0: `Prepare`."""

NodeFate = Literal["", "preempted", "node", "unknown"]
"""Whether a worker died because its node did; see `cluster.died_with_node`."""


class Answer(enum.Enum):
    """The hub's answer to a lane that asked for a job or for the verdict on a row."""

    GO = "go"
    GO_AND_SAVE = "go and save"
    """The row is the best so far: save its weights and go on."""
    STOP = "stop"
    WAIT = "wait"
    """There is no answer yet: ask again."""
    QUIT = "quit"
    """The study is over, or another worker group has replaced this one."""


@dataclass(frozen=True)
class Prepare:
    """The study's first job: baselines (if asked for), and what all lanes share."""

    baselines: bool


@dataclass(frozen=True)
class KnownRow:
    """A recorded row, as far as a lane must know of it."""

    update: int
    strength: float
    forget_nll: float

    @classmethod
    def of(cls, row: Row) -> "KnownRow":
        """What is known of this row."""
        return cls(*row_key(row), row.get("forget_nll", math.nan))


@dataclass(frozen=True)
class Incumbent:
    """The best row of a method so far, against which rows are screened."""

    score: float
    """On the selection half; infinity: there is none yet."""
    vanilla: Mapping[str, float]
    """The vanilla baseline's nlls of the sets that have halves."""


@dataclass(frozen=True)
class RunTrial:
    """A trial to be run."""

    config: Mapping[str, Any]
    """Content of its `TrialConfig`."""
    known: tuple[KnownRow, ...] = ()
    """Rows that an earlier attempt has recorded."""
    target: ForgetTarget | None = None
    """The target that some trained states are calibrated to; None: no state is."""
    incumbent: Incumbent | None = None
    """Of its method; None: all rows are measured in full."""


Order = Prepare | RunTrial


@dataclass(frozen=True)
class Assignment:
    """A job as a lane receives it."""

    number: int
    attempt: int
    """0 for the first in this session of the study."""
    order: Order


@dataclass(frozen=True)
class Prepared:
    """The result of the first job."""

    rows: Mapping[str, Row]
    """Baseline rows by name."""
    shared: Any = None
    """Quantities for the other lanes, which stay in the hub."""
    notes: tuple[str, ...] = ()
    """Notes for the record on how the results were made."""
    halves: Mapping[str, str] = field(default_factory=dict)
    """As in `HalvesDealt`, where this job dealt them."""


@dataclass(frozen=True)
class RowReported:
    """A trial was evaluated after this update."""

    update: int
    metrics: Row

    @property
    def key(self) -> RowKey:
        """Which of the trial's rows it is."""
        return self.update, strength_of(self.metrics)


@dataclass(frozen=True)
class JobEnded:
    """A job is over."""

    status: Outcome
    reason: str = ""
    prepared: Prepared | None = None


@dataclass(frozen=True)
class Fatal:
    """The study cannot go on."""

    reason: str


@dataclass(frozen=True)
class Interrupted:
    """The job has no end: the study stops, or the job was released meanwhile."""

    reason: str = "interrupted"


Reported = RowReported | JobEnded
Item = Reported | Fatal | Interrupted


@dataclass(frozen=True)
class BestWeights:
    """A file with the weights of one row."""

    number: int
    update: int
    file: str
    bytes: int
    sha256: str
    strength: float = AS_TRAINED

    @property
    def key(self) -> RowKey:
        """Which of the trial's rows it is."""
        return self.update, self.strength


@dataclass(frozen=True)
class Delivery:
    """An item on its way to the recorder."""

    item: Item
    sequence: int
    """1 for the job's first item; asking for the next one means that this one is dealt with."""
    attempt: int
    lane: int | None = None
    notes: tuple[str, ...] = ()
    """Notes for the operator, from anywhere in the study."""
    weights: BestWeights | None = None
    """The trial's last saved weights, until a delivery with them is dealt with."""


@dataclass(frozen=True)
class Launch:
    """The `number`-th time that the driver started a lane."""

    lane: int
    number: int


@dataclass(frozen=True)
class LaneStart:
    """The `number`-th start of a lane's worker group, or of its replacement."""

    lane: int
    number: int


@dataclass(frozen=True)
class Worker:
    """One process of a lane, with the handles to end it and to free its resources."""

    pid: int
    node: str = ""
    actor: Any = None
    group: Any = None
    """Its placement group."""


@dataclass(frozen=True)
class Fault:
    """The reason why a worker group is gone."""

    reason: str
    no_memory: bool = False
    """Whether Ray ended it because memory ran out."""
    node: NodeFate = ""


@dataclass(frozen=True)
class LaneState:
    """A lane as the hub sees it at one moment."""

    index: int
    state: str
    """State in one word, for people: see `live.LANE_STATES`."""
    start: LaneStart
    pids: tuple[int, ...]
    """Processes of the last start; empty once the lane is known to be down."""
    nodes: tuple[str, ...]
    """Ids of the nodes that it runs on."""
    up: bool
    """Whether a worker group runs."""
    ready: bool
    """Whether it holds model and data."""
    job: int | None
    leaving: str
    """Why it is about to leave its node."""
    retired: bool
    waiting_for: str
    silent_s: float
    """Seconds since its last sign of life."""
    restarts: int
    tokens: int
    """LM tokens in the rows this lane has reported."""
    busy_s: float
    verdict_s: float
    idle_s: float

    @property
    def up_s(self) -> float:
        """Seconds in which it could run trials."""
        return self.busy_s + self.verdict_s + self.idle_s


@dataclass(frozen=True)
class HubState:
    """The hub at one moment."""

    lanes: tuple[LaneState, ...]
    queued: tuple[int, ...]
    """Jobs that wait for a lane."""
    attempts: Mapping[int, int]
    """Present attempt of each job."""
    over: bool
    unsettled: int
    """Number of faults for which it is not yet known whether a node died."""

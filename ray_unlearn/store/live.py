"""`live.json`: what only the driver of a running study knows, and its sign of life. Everything else
is in the ledger.

The driver replaces the file every few seconds, so its age tells whether the driver lives. Nothing
reads it to decide anything about the study: it may be lost, old or torn without harm.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from ray_unlearn.store.atomic_write import write_whole

LIVE_FILE = "live.json"
SCHEMA_VERSION = 1

SILENT_S = 60.0
"""After so long without a sign of life a driver counts as gone; the ledger's lease expires as
fast."""

LANE_STATES = ("starting", "pending", "idle", "busy", "draining", "lost")
LANE_FIELDS = (
    "index", "state", "trial", "node", "pids", "busy_s", "verdict_s", "idle_s", "up_s", "restarts",
    "waiting_for",
)  # fmt: skip
"""`busy_s`: computing; `verdict_s`: a row waits for the driver; `idle_s`: no trial; `up_s`: their
sum."""

Sign = Literal["running", "silent", "ended", "unknown"]
"""`silent`: it did not say that it ended, and says nothing any more. `unknown`: there is no
`live.json`."""


@dataclass(frozen=True)
class Live:
    """One look at a running study, by its driver."""

    study: str
    running: bool
    """False in the last one of a run, however it ended."""
    time: str
    """When it was written, and `started` when the run began: ISO 8601, UTC, by the driver's
    clock."""
    started: str
    host: str
    pid: int
    asked_for: int
    outcomes: dict[str, int]
    """Finished trials."""
    trials_running: int
    rows: int
    updates: int
    """Up to each trial's last row, over the whole study, as are `tokens`, by set."""
    tokens: dict[str, int]
    updates_per_s: float | None
    """Over the last ten minutes in which trials ran; None before this run's first row.
    The same holds for `tokens_per_s`."""
    tokens_per_s: float | None
    best: dict[str, float]
    """Lowest score of each method, on the selection half."""
    lanes: list[dict[str, Any]]
    """Each with `LANE_FIELDS`; None for what is not known."""
    queued: int
    """Trials that wait for a lane."""
    utilisation: float | None
    """Busy seconds of all lanes over the seconds that they were up, in this run."""
    eta_s: float | None
    """Until the last trial is done; None until two trials of this run have ended, which say how
    long one takes."""
    events: int
    """Acknowledged events of the ledger."""
    problems: list[str] = field(default_factory=list)
    """What cannot be observed, and why."""
    schema_version: int = SCHEMA_VERSION

    def write(self, study: Path) -> None:
        """Replace the file in the study directory. Raises OSError."""
        write_whole(study / LIVE_FILE, json.dumps(asdict(self), indent=1).encode() + b"\n")


def read_live(study: Path) -> Live | None:
    """The last one that was written; None where there is none, or none of this version."""
    try:
        content = json.loads((study / LIVE_FILE).read_bytes())
        if content["schema_version"] != SCHEMA_VERSION:
            return None
        return Live(**{f.name: content[f.name] for f in fields(Live)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def age_s(live: Live, now: datetime) -> float:
    """Seconds since it was written, by this machine's clock; not below 0, for clocks differ."""
    return max(0.0, (now - datetime.fromisoformat(live.time)).total_seconds())


def sign_of_life(live: Live | None, age: float | None) -> Sign:
    """What the last `live.json` and its age say about the driver."""
    if live is None or age is None:
        return "unknown"
    if not live.running:
        return "ended"
    return "running" if age < SILENT_S else "silent"


def in_words(seconds: float) -> str:
    """A duration for people: the two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min"
        if hours
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )

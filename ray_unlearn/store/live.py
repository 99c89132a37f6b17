"""`live.json`: the sign of life of a running study's driver, and what only the driver knows.

Everything else is in the ledger. The driver replaces the file every few seconds, so its age shows
whether the driver is alive. Nothing about the study is decided from it: it may be lost, old or torn
without harm.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from ray_unlearn.spec.given_file import given_bytes, json_value
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.store.typed_fields import has_its_types, is_number

LIVE_FILE = "live.json"
SCHEMA_VERSION = 1

SILENT_S = 60.0
"""Seconds without a sign of life after which a driver counts as gone, as for the ledger's lease."""

LANE_STATES = ("starting", "pending", "idle", "busy", "draining", "lost")
LANE_FIELDS = (
    "index", "state", "trial", "node", "pids", "busy_s", "verdict_s", "idle_s", "up_s", "restarts",
    "waiting_for",
)  # fmt: skip
"""Columns of a lane, with seconds in each state.

`busy_s`: computing; `verdict_s`: a row waits for the driver; `idle_s`: no trial; `up_s`: their sum.
"""
_SHOWN = {"index", "state", "trial", "node", "busy_s", "up_s", "restarts", "waiting_for"}

Sign = Literal["starting", "running", "silent", "ended", "unknown"]
"""State of the driver by its sign of life.

`starting`: a process holds the study and has not reported yet (`Status.starting`). `silent`: it did
not report its end, but no longer writes. `unknown`: there is no `live.json`.
"""


@dataclass(frozen=True)
class Live:
    """One report of a running study by its driver."""

    study: str
    running: bool
    """False in the last report of a run, however it ended."""
    time: str
    """When the report was written, ISO 8601, UTC, by the driver's clock."""
    started: str
    """When the run began, in the form of `time`."""
    host: str
    pid: int
    asked_for: int
    outcomes: dict[str, int]
    """Number of finished trials by outcome."""
    trials_running: int
    rows: int
    updates: int
    """Updates up to each trial's last row, over the whole study."""
    tokens: dict[str, int]
    """Tokens by set, up to each trial's last row, over the whole study."""
    updates_per_s: float | None
    """Rate over the last ten minutes in which trials ran; None before this run's first row."""
    tokens_per_s: float | None
    """Rate of tokens, over the same time as `updates_per_s`."""
    best: dict[str, float]
    """Lowest score of each method, on the selection half."""
    lanes: list[dict[str, Any]]
    """Each lane with `LANE_FIELDS`; None for what is not known."""
    queued: int
    """Trials that wait for a lane."""
    utilisation: float | None
    """Busy seconds of all lanes over their seconds up, in this run."""
    eta_s: float | None
    """Estimated seconds until the last trial is done.

    None until two trials of this run have ended, which show how long one takes.
    """
    events: int
    """Acknowledged events of the ledger."""
    problems: list[str] = field(default_factory=list)
    """What cannot be observed and why, one sentence each."""
    schema_version: int = SCHEMA_VERSION

    def write(self, study: Path) -> None:
        """Replace the file in the study directory.

        Raises:
            OSError: it cannot be written.
        """
        write_whole(study / LIVE_FILE, json.dumps(asdict(self), indent=1).encode() + b"\n")


def read_live(study: Path) -> Live | None:
    """The last report that was written; None if there is none of this version."""
    try:
        return parsed_live(given_bytes(study / LIVE_FILE))
    except OSError:
        return None


def parsed_live(text: bytes) -> Live | None:
    """The report in a `live.json`; None if it is of another version, or torn."""
    try:
        content = json_value(text)
        if content["schema_version"] != SCHEMA_VERSION:
            return None
        if datetime.fromisoformat(content["time"]).tzinfo is None:
            return None
        live = Live(**{f.name: content[f.name] for f in fields(Live)})
    except (ValueError, KeyError, TypeError):
        return None
    return live if has_its_types(live) and all(map(_is_lane, live.lanes)) else None


def _is_lane(lane: dict[str, Any]) -> bool:
    """Whether a lane has what a view shows of it."""
    times = [lane.get(name) for name in ("busy_s", "up_s")]
    return lane.keys() >= _SHOWN and all(t is None or is_number(t) for t in times)


def age_s(live: Live, now: datetime) -> float:
    """Seconds since the report was written, by this machine's clock; never negative."""
    return max(0.0, (now - datetime.fromisoformat(live.time)).total_seconds())


def sign_of_life(live: Live | None, age: float | None) -> Sign:
    """The driver's state by its last `live.json` and the file's age."""
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

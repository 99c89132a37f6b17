"""What a running study is doing, seen from its files alone, and when its next phase comes.

start        from the driver's start to the first sign of a trial
trial        updates are made
evaluation   no checkpoint for longer than an update takes, and the row is not there yet
checkpoint   a draft of a checkpoint, or one on its way to the store
publish      a draft of anything else: best weights, tables, journal, signs of life
end          every trial has its outcome, the driver has not ended yet
"""

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

PHASES = ("start", "trial", "evaluation", "checkpoint", "publish", "end")
WRITING_S = 0.02
"""A draft lasts about so long."""
OPENING = 0.5
"""Of the kills in a start: those that are aimed at the moment in which it opens the study."""
OPENING_S = 0.2
OF_A_TRIAL = {"trial", "row", "outcome"}
MEASURED = OF_A_TRIAL | {"baseline"}


class Watch:
    """One study, through all of its sessions.

    Args:
        events: finds the file of events, if there is one yet.
        trials: the folder of checkpoints and best weights.
        requests: the folder where the object store names requests that it carries out now.
    """

    def __init__(
        self, events: Callable[[], Path | None], trials: Path, requests: Path | None = None
    ) -> None:
        self._find, self._trials, self._requests = events, trials, requests
        self._read: tuple[Path, int] | None = None
        self._lines: list[bytes] = []
        self._updates: list[float] = []
        self.start_s, self.end_s = 15.0, 3.0
        self.row_s, self.evaluation_s = 3.0, 1.0
        self.lost = ""
        """How a line that had been there is gone; empty while none is."""
        self.total: int | None = None
        """Trials asked for, by the last session."""
        self.driver_starts()
        self.look()
        self.driver_starts()

    def driver_starts(self) -> None:
        """Forget what the session before was doing."""
        self.started = self.changed = time.monotonic()
        self._started_s = time.time()
        self._started_at = datetime.now(UTC).isoformat()
        self._fresh = 0
        self.at_work = False
        self.progress = 0
        self.row_at = self.over_at = self.checkpoint_at = 0.0
        self.trial = self.rows = 0
        self._checkpoint = self._newest_checkpoint()

    def taken_away(self) -> None:
        """A start that failed has freed its place, which it may until something was measured."""
        measured = [event for event in map(_event, self._lines) if event]
        if any(event.get("kind") in MEASURED for event in measured):
            self.lost = f"all {len(self._lines)} lines are gone, with what was measured"
        self._lines, self._read, self.total = [], None, None

    def look(self) -> None:
        """Read what is new."""
        self._look_at_events()
        self._look_at_checkpoints()

    @property
    def over(self) -> bool:
        """Whether every trial has its outcome."""
        return self.over_at > 0

    @property
    def phase(self) -> str:
        """What the study is doing now."""
        if self.over:
            return "end"
        if drafts := list(self._drafts()):
            return "checkpoint" if any(map(_is_checkpoint, drafts)) else "publish"
        if not self.at_work:
            return "start"
        silent = time.monotonic() - max(self.checkpoint_at, self.row_at)
        pace = sorted(self._updates)[len(self._updates) // 2] if self._updates else 0.5
        return "evaluation" if silent > 2 * pace and self.checkpoint_at > self.row_at else "trial"

    def moment(self, phase: str, rng: random.Random) -> Callable[[], bool]:
        """A random moment of a phase: true once it has come, for who asks again and again."""
        if phase == "start":
            at = self.started + rng.uniform(0, self.start_s)
            opening = rng.random() < OPENING
            return lambda: self._is_opened(rng) if opening else time.monotonic() >= at
        if phase in ("checkpoint", "publish"):
            return lambda: self.at_work and self._being_written(phase == "checkpoint", rng)
        share, before, last_row = rng.random(), self.progress, self.row_at

        def come() -> bool:
            now = time.monotonic()
            if phase == "end":
                return self.over and now >= self.over_at + share * self.end_s
            if not self.at_work or self.progress == before:
                return False
            if phase == "trial":
                return now >= self.changed + share * self.row_s or self.over
            training_s = self.row_s - self.evaluation_s
            evaluates = self.row_at + training_s
            return self.row_at > last_row and now >= evaluates + share * self.evaluation_s

        return come

    def _is_opened(self, rng: random.Random) -> bool:
        """Whether the driver has just taken the study over, or begins it."""
        opened = any(self._drafts())
        with contextlib.suppress(OSError):
            lease = self._trials.parent / "ledger" / "lease.json"
            opened = opened or lease.stat().st_mtime > self._started_s
        if opened:
            time.sleep(rng.uniform(0, OPENING_S))
        return opened

    def _being_written(self, checkpoint: bool, rng: random.Random) -> bool:
        if not any(_is_checkpoint(name) is checkpoint for name in self._drafts()):
            return False
        time.sleep(rng.uniform(0, WRITING_S))
        return True

    def _drafts(self) -> Iterator[str]:
        """Files that are being written, or sent, at this moment."""
        if self._requests is not None:
            with contextlib.suppress(OSError):
                yield from (unquote(path.name) for path in self._requests.iterdir())
            return
        study = self._trials.parent
        folders = [study, study / "ledger", self._trials / "best"]
        with contextlib.suppress(OSError):  # a folder may go while it is looked at
            folders += self._trials.glob("[0-9]*/")
        for folder in folders:
            with contextlib.suppress(OSError):
                yield from (str(path) for path in folder.iterdir() if path.suffix == ".tmp")

    def _look_at_events(self) -> None:
        path = self._find()
        if path is None:
            return
        with contextlib.suppress(OSError):
            seen = (path, path.stat().st_size)
            if seen == self._read:
                return
            content = path.read_bytes()
            self._take_in(content[: content.rfind(b"\n") + 1].splitlines())
            self._read = seen

    def _take_in(self, lines: list[bytes]) -> None:
        same = 0
        for old, new in zip(self._lines, lines, strict=False):
            if old != new:
                break
            same += 1
        if same < len(self._lines) and self._requests is None:
            self.lost = f"line {same + 1} of {len(self._lines)} is gone: {self._lines[same][:80]!r}"
        self._lines = lines
        events = [event for event in map(_event, lines) if event]
        of_trials = [event for event in events if event.get("kind") in OF_A_TRIAL]
        fresh = [event for event in of_trials if event["time"] > self._started_at]
        if len(fresh) > self._fresh:
            self._fresh, self.trial = len(fresh), fresh[-1]["number"]
            self._progressed()
            if any(event["kind"] == "row" for event in fresh[-2:]):
                self.row_at = time.monotonic()
        rows = [e for e in events if e.get("kind") == "row" and e["number"] == self.trial]
        self.rows = len(rows)
        if len(rows) > 1:
            a, b = (row["metrics"] for row in rows[-2:])
            self.row_s = b["wall_s"] - a["wall_s"]
            self.evaluation_s = b["evaluation_wall_s"] - a["evaluation_wall_s"]
        ended = {e["number"] for e in events if e.get("kind") == "outcome"}
        self.total = next((e["total"] for e in events[::-1] if e.get("kind") == "session"), None)
        if self.at_work and not self.over and self.total is not None and len(ended) >= self.total:
            self.over_at = time.monotonic()

    def _newest_checkpoint(self) -> int:
        paths: list[Path] = []
        with contextlib.suppress(OSError):
            paths += self._trials.glob("[0-9]*/last*.pt")
        newest = 0
        for path in paths:
            with contextlib.suppress(OSError):
                newest = max(newest, path.stat().st_mtime_ns)
        return newest

    def _look_at_checkpoints(self) -> None:
        newest = self._newest_checkpoint()
        if newest <= self._checkpoint:
            return
        self._checkpoint = newest
        now = time.monotonic()
        if self.checkpoint_at and self.row_at < self.checkpoint_at:
            self._updates = [*self._updates[-20:], now - self.checkpoint_at]
        self.checkpoint_at = now
        self._progressed()

    def _progressed(self) -> None:
        now = time.monotonic()
        if not self.at_work:
            self.at_work = True
            self.start_s = now - self.started
        self.progress += 1
        self.changed = now


def _event(line: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found: dict[str, Any] = json.loads(line)
        return found
    return {}


def _is_checkpoint(name: str) -> bool:
    return "/trials/0" in name or "/trials/1" in name

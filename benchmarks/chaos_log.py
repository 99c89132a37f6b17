"""The state of a run of `chaos.py`: JSON lines that are only ever appended to.

{"kind": "piece", "piece": 3, "name": "object store"}          a study begins
{"kind": "kill", "piece": 3, "target": "worker", "pid": 7, ...}  and what was running
{"kind": "outcome", "kill": 41, "driver": "went on", ...}        what became of the study
{"kind": "leg", "piece": 3, "trials": 2}                        all trials have their outcome
{"kind": "violation", "piece": 3, "what": "..."}
{"kind": "time", "seconds": 61.0}                               that it has taken so far
{"kind": "end", "piece": 3, "seconds": 251.0, "rows": 35}       verified and compared
"""

import json
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class ChaosLog:
    """What has been done in a folder so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._since = time.monotonic()
        self.lines: list[Line] = []
        if path.exists():
            whole = path.read_bytes().rpartition(b"\n")[0]
            self.lines = [json.loads(line) for line in whole.splitlines()]
            path.write_bytes(whole + b"\n" * bool(whole))

    def add(self, kind: str, **content: Any) -> None:
        """Append a line."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"kind": kind, "at": now} | content
        self.lines.append(line)
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")

    def add_time(self) -> None:
        """Append the seconds since the last such line, or since this run began."""
        now = time.monotonic()
        self.add("time", seconds=now - self._since)
        self._since = now

    def of(self, kind: str, piece: int | None = None) -> list[Line]:
        """The lines of a kind, of one piece or of all."""
        found = [line for line in self.lines if line["kind"] == kind]
        return [line for line in found if piece is None or line["piece"] == piece]

    @property
    def next_piece(self) -> int:
        """The piece to go on with: the first that has not ended."""
        return len(self.of("end"))

    def totals(self) -> str:
        """Kills by target and by phase, what became of them, and how long it all took."""
        kills = self.of("kill")
        ended = self.of("end")
        seconds = sum(one["seconds"] for one in self.of("time"))
        pace = f"{60 * len(kills) / seconds:.1f} kills per minute" if seconds else "no time yet"
        lines = [
            f"{len(kills)} kills: {_counted(kills, 'target')}",
            f"while the study was in: {_counted(kills, 'phase')}",
            f"outcomes: {_counted(self.of('outcome'), 'driver')}",
            f"{len(ended)} pieces verified and compared, {sum(one['rows'] for one in ended)} rows: "
            f"{_counted(self.of('piece'), 'name')}",
            f"{seconds:.0f} s, {pace}",
            f"{len(self.of('violation'))} violations",
        ]
        lines += [f"  piece {one['piece']}: {one['what']}" for one in self.of("violation")]
        return "\n".join(lines)


def _counted(lines: list[Line], name: str) -> str:
    counts = Counter(str(line[name]) for line in lines)
    return ", ".join(f"{count} x {value}" for value, count in counts.most_common()) or "none"

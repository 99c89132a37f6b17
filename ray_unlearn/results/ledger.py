"""The study's append-only record. Everything else (status, resume, tables, best trial) is derived from it.

`ledger/events.jsonl` holds one JSON object per line; each is on disk (fsync) before `append` returns. Kinds:

    header    first line: schema and code versions, resolved spec, data and model digests
    baseline  name, metrics
    trial     number, trial_id, config          a trial was asked for
    row       number, trial_id, attempt, update, metrics
    outcome   number, trial_id, attempt, status, reason
    note      anything an operator should see (a lane restarted, a tail repaired)

pandas reads it: `pd.read_json("ledger/events.jsonl", lines=True)`.
"""

import fcntl
import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from ray_unlearn.results.schema import SCHEMA_VERSION, Outcome, Row
from ray_unlearn.spec.errors import StorageError

Event = dict[str, Any]


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

    @property
    def method(self) -> str:
        """Name of the unlearning method."""
        return str(self.config["method"])


@dataclass
class Record:
    """All the ledger says, in memory."""

    header: Event
    baselines: dict[str, Row] = field(default_factory=dict)
    trials: dict[int, Trial] = field(default_factory=dict)
    notes: list[Event] = field(default_factory=list)

    def apply(self, event: Event) -> None:
        """Take one event in. A row that is already there (a retry replays it) changes nothing."""
        match event["kind"]:
            case "baseline":
                self.baselines[event["name"]] = event["metrics"]
            case "trial":
                self.trials[event["number"]] = Trial(event["number"], event["trial_id"], event["config"])
            case "row":
                trial = self.trials[event["number"]]
                if not any(row["update"] == event["update"] for row in trial.rows):
                    trial.rows.append(event["metrics"] | {"update": event["update"]})
            case "outcome":
                trial = self.trials[event["number"]]
                trial.status, trial.reason, trial.attempt = event["status"], event["reason"], event["attempt"]
            case "note":
                self.notes.append(event)
            case unknown:
                raise StorageError(f"ledger: event of unknown kind {unknown!r}; was it written by a newer version?")

    @property
    def finished(self) -> list[Trial]:
        """Trials with an outcome, by number."""
        return [trial for _, trial in sorted(self.trials.items()) if trial.status is not None]


class Ledger:
    """The one writer of a study's events. A context manager: it holds an exclusive lock while open.

    `record` is always what a reader of the file would see.
    """

    def __init__(self, folder: Path, file: IO[bytes], record: Record) -> None:
        self.folder = folder
        self.record = record
        self._file = file

    @classmethod
    def create(cls, folder: Path, header: Event) -> Self:
        """Start a ledger in `folder` with its header line.

        Raises:
            StorageError: the folder already has a ledger, or cannot be written.
        """
        path = events_file(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = open(path, "xb")  # noqa: SIM115  (the ledger holds it while it is open)
        except FileExistsError:
            raise StorageError(f"{path} exists; continue that study with `ray-unlearn resume`") from None
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error}") from None
        _lock(file, path)
        header = {"kind": "header", "schema_version": SCHEMA_VERSION, **header}
        ledger = cls(folder, file, Record(header))
        ledger._write(header)
        return ledger

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open for appending; a torn last line (the process died inside a write) is cut and noted.

        Raises:
            StorageError: no ledger there, another process holds it, a line other than the last is unreadable,
                or the schema is newer than this code.
        """
        path = events_file(folder)
        if not path.exists():
            raise StorageError(f"{path}: no ledger there; is this a study directory?")
        file = open(path, "r+b")  # noqa: SIM115
        _lock(file, path)
        record, good_bytes, torn = _read(path)
        file.seek(good_bytes)
        if torn:
            file.truncate(good_bytes)
        ledger = cls(folder, file, record)
        if torn:
            ledger.append({"kind": "note", "text": f"cut a torn last line of {torn} bytes"})
        return ledger

    def append(self, event: Event) -> None:
        """Write one event; it is on disk when this returns, and only then part of `record`.

        Raises:
            StorageError: the disk is full or the file cannot be written. Nothing that was there before is lost.
        """
        event = event | {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        self._write(event)
        self.record.apply(event)

    def _write(self, event: Event) -> None:
        start = self._file.tell()
        try:
            self._file.write(json.dumps(_jsonable(event), allow_nan=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):  # a torn tail that stays is cut on the next open
                self._file.truncate(start)
            raise StorageError(
                f"{events_file(self.folder)}: {error}; free some space, then `ray-unlearn resume`"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock."""
        self._file.close()


def read_ledger(folder: Path) -> Record:
    """What the ledger says, without locking or repairing it: safe beside a running study.

    Raises:
        StorageError: as `Ledger.open`, but a torn last line is left out silently.
    """
    path = events_file(folder)
    if not path.exists():
        raise StorageError(f"{path}: no ledger there; is this a study directory?")
    return _read(path)[0]


def events_file(folder: Path) -> Path:
    """The file of events in a ledger folder."""
    return folder / "events.jsonl"


def _read(path: Path) -> tuple[Record, int, int]:
    """The record, the number of good bytes, and the bytes of a torn last line (0 if none)."""
    record: Record | None = None
    good = 0
    for number, line in enumerate(_lines(path), start=1):
        event = _parse(line)
        if event is None:
            size = path.stat().st_size
            if good + len(line) < size:
                raise StorageError(f"{path}: line {number} is damaged, and it is not the last; restore it from a copy")
            assert record is not None or number == 1
            if record is None:
                raise StorageError(f"{path}: the header line is damaged; nothing was recorded, remove the directory")
            return record, good, size - good
        if record is None:
            if event.get("kind") != "header":
                raise StorageError(f"{path}: does not begin with a header; this is no ledger")
            if event["schema_version"] > SCHEMA_VERSION:
                raise StorageError(
                    f"{path}: schema version {event['schema_version']} is newer than {SCHEMA_VERSION}; update"
                )
            record = Record(event)
        else:
            record.apply(_restored(event))
        good += len(line)
    if record is None:
        raise StorageError(f"{path}: empty; nothing was recorded, remove the directory")
    return record, good, 0


def _lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from file


def _parse(line: bytes) -> Event | None:
    if not line.endswith(b"\n"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "kind" in event else None


def _jsonable(event: Event) -> Event:
    """JSON has no NaN: non-finite metrics are written as null, and read back as NaN."""
    if "metrics" not in event:
        return event
    metrics = {k: v if math.isfinite(v) else None for k, v in event["metrics"].items()}
    return event | {"metrics": metrics}


def _restored(event: Event) -> Event:
    if "metrics" not in event:
        return event
    return event | {"metrics": {k: math.nan if v is None else v for k, v in event["metrics"].items()}}


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise StorageError(f"{path}: another process is writing this study; wait for it, or stop it first") from None

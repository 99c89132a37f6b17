"""The study's append-only record. Everything else (status, resume, tables, best trial) is derived from it.

`ledger/events.jsonl` holds one JSON object per line (see `lines`); each is on disk (fsync) before `append` returns. Kinds:

    header     first line: schema and code versions, resolved spec, data and model digests; `header.json` is a copy
    session    a process began to write: host, pid, versions
    amendment  trials_per_method                 the study was extended
    baseline   name, metrics
    trial      number, trial_id, config          a trial was asked for
    row        number, trial_id, attempt, update, metrics
    artefact   number, update, file, sha256      the weights of the best row so far were kept; no file: they are gone
    outcome    number, trial_id, attempt, status, reason
    reopened   number, reason                    an outcome does not count any more: a repair found its rows incomplete
    note       anything an operator should see (a lane restarted, a tail repaired)

Beside it `acknowledged` holds the number of the last event that `append` returned for: a file that was cut at the end of a
line looks whole, and only this tells that something is gone. pandas reads the events:
`pd.read_json("ledger/events.jsonl", lines=True)`.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from ray_unlearn.results.lease import Lease
from ray_unlearn.results.lines import Event, decoded, encoded
from ray_unlearn.results.schema import SCHEMA_VERSION, Outcome, Row
from ray_unlearn.spec.errors import StorageError

CHECKED_SINCE = 2
"""Schema version from which on every line has a checksum."""


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
                self.trials[event["number"]] = Trial(event["number"], event["trial_id"], event["config"])
            case "row":
                trial = self._trial(event)
                if not any(row["update"] == event["update"] for row in trial.rows):
                    trial.rows.append(event["metrics"])
            case "outcome":
                trial = self._trial(event)
                trial.status, trial.reason, trial.attempt = event["status"], event["reason"], event["attempt"]
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
                raise StorageError(f"ledger: event of unknown kind {unknown!r}; was it written by a newer version?")

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


@dataclass(frozen=True)
class Damaged:
    """A line that cannot be trusted."""

    line: int
    """From 1."""
    offset: int
    length: int
    text: str
    """Its first characters."""


@dataclass
class Scan:
    """What is in the file, before anything is concluded from it."""

    events: list[Event] = field(default_factory=list)
    """The good ones; the first is the header."""
    offsets: list[int] = field(default_factory=list)
    """Where the line of each of them begins; -1 for a header that was taken from its copy."""
    damaged: list[Damaged] = field(default_factory=list)
    stale: list[Event] = field(default_factory=list)
    """Written by a process that had lost its lease; they do not count."""
    stale_offsets: list[int] = field(default_factory=list)
    missing: list[tuple[int, int]] = field(default_factory=list)
    """Gaps in the numbering: first and last event that are not there, damaged lines among them."""
    good_bytes: int = 0
    torn_bytes: int = 0
    """Of a last line without its end."""

    @property
    def next_seq(self) -> int:
        """The number of the next event."""
        return int(self.events[-1].get("seq", len(self.events) - 1)) + 1 if self.events else 0


class Ledger:
    """The one writer of a study's events. A context manager: it holds the study's lease while open.

    `record` is always what a reader of the file would see.
    """

    def __init__(self, folder: Path, file: IO[bytes], record: Record, lease: Lease, next_seq: int) -> None:
        self.folder = folder
        self.record = record
        self._file = file
        self._lease = lease
        self._seq = next_seq
        self.mended: list[str] = []
        """What opening found and mended, in words."""
        self._acknowledged = os.open(acknowledged_file(folder), os.O_WRONLY | os.O_CREAT, 0o644)

    @classmethod
    def create(cls, folder: Path, header: Event) -> Self:
        """Start a ledger in `folder` with its header line.

        Raises:
            StorageError: the folder already has a ledger, or cannot be written.
        """
        path = events_file(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = open(path, "xb", buffering=0)  # noqa: SIM115  (the ledger holds it while it is open)
        except FileExistsError:
            raise StorageError(f"{path} exists; continue that study with `ray-unlearn resume`") from None
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error}") from None
        lease = _taken(folder, file)
        header = {"kind": "header", "schema_version": SCHEMA_VERSION, **header}
        ledger = cls(folder, file, Record(header), lease, 0)
        try:
            line = ledger._write(header)
            header_file(folder).write_bytes(line)
        except OSError as error:
            ledger.close()
            raise StorageError(f"{header_file(folder)}: cannot be written: {error}") from None
        except StorageError:
            ledger.close()
            raise
        return ledger

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open for appending. What a crash leaves behind is mended and noted: a torn last line (the process died inside
        a write) is cut; events that were acknowledged and are gone from the end are named, and will be computed again.

        Raises:
            StorageError: no ledger there, another process holds it, a line before the last is damaged,
                or the schema is newer than this code.
        """
        path = events_file(folder)
        if not path.exists():
            raise StorageError(f"{path}: no ledger there; is this a study directory?")
        file = open(path, "ab", buffering=0)  # noqa: SIM115  (appends never overwrite, whatever others do)
        lease = _taken(folder, file)
        try:
            acknowledged = read_acknowledged(folder)
            scan = scanned(folder)
            record = _concluded(scan, path)
            if scan.torn_bytes:
                file.truncate(scan.good_bytes)
                file.seek(0, os.SEEK_END)
            lease.outrank(int(scan.events[-1].get("token", 0)))
            if not header_file(folder).exists():
                header_file(folder).write_bytes(next(line for _, line in _lines(path)))
            ledger = cls(folder, file, record, lease, scan.next_seq)
        except BaseException:
            lease.release()
            file.close()
            raise
        ledger.mended = list(_mended(scan, acknowledged))
        try:
            for text in ledger.mended:
                ledger.append({"kind": "note", "text": text})
        except StorageError:
            ledger.close()
            raise
        return ledger

    @property
    def token(self) -> int:
        """The fencing token of this writer."""
        return self._lease.token

    @property
    def held(self) -> bool:
        """False once another process has taken the study over."""
        try:
            self._lease.check()
        except StorageError:
            return False
        return True

    def append(self, event: Event) -> None:
        """Write one event; it is on disk when this returns, and only then part of `record`.

        Raises:
            StorageError: the disk is full, the file cannot be written, or another process has taken the study over.
                Nothing that was there before is lost.
        """
        event = event | {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        line = self._write(event)
        path = events_file(self.folder)
        stored = decoded(line, path, self._file.tell() - len(line))
        assert stored is not None
        self.record.apply(stored)

    def _write(self, event: Event) -> bytes:
        self._lease.check()
        line = encoded({"seq": self._seq, "token": self.token} | event)
        start = self._file.tell()
        try:
            _write_all(self._file, line)
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):  # a torn tail that stays is cut on the next open
                self._file.truncate(start)
            raise StorageError(
                f"{events_file(self.folder)}: {error}; free some space, then `ray-unlearn resume`"
            ) from None
        with suppress(OSError):  # the mark is a witness, not the record
            os.pwrite(self._acknowledged, b"%020d\n" % self._seq, 0)
        self._seq += 1
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give lease and lock back."""
        if not self._file.closed:
            self._lease.release()
            os.close(self._acknowledged)
            self._file.close()


def read_ledger(folder: Path) -> Record:
    """What the ledger says, without locking or repairing it: safe beside a running study.

    Raises:
        StorageError: as `Ledger.open`, but a torn last line is left out silently.
    """
    path = events_file(folder)
    if not path.exists():
        raise StorageError(f"{path}: no ledger there; is this a study directory?")
    return _concluded(scanned(folder), path)


def events_file(folder: Path) -> Path:
    """The file of events in a ledger folder."""
    return folder / "events.jsonl"


def header_file(folder: Path) -> Path:
    """The copy of the first line."""
    return folder / "header.json"


def acknowledged_file(folder: Path) -> Path:
    """The file with the number of the last event that was acknowledged."""
    return folder / "acknowledged"


def read_acknowledged(folder: Path) -> int:
    """Number of the last event that was acknowledged; -1 when unknown. Read it before the events: a writer goes on."""
    try:
        return int(acknowledged_file(folder).read_bytes())
    except (OSError, ValueError):
        return -1


def scanned(folder: Path, header: bytes | None = None) -> Scan:
    """Every line of the events file, good, damaged, stale or torn.

    Args:
        folder: of the ledger.
        header: stands in for a first line that is damaged, torn or gone (see `copied_header`).

    Raises:
        StorageError: the first line is damaged or no header (its copy is in `header.json`), or of a newer schema.
    """
    path = events_file(folder)
    scan, token, expected, checked = Scan(), 0, 1, True
    if header is not None and not _begins_well(path):
        copy, checked = _header(decoded(header, path, 0), header, header_file(folder))
        scan.events, scan.offsets = [copy], [-1]
    for number, (offset, line) in enumerate(_lines(path), start=1):
        event = decoded(line, path, offset, checked=checked)
        is_header = not scan.events
        if is_header:
            event, checked = _header(event, line, path)
        if event is None:
            if not line.endswith(b"\n"):
                scan.torn_bytes = len(line)
                break
            shown = line[:80].decode("utf-8", "replace")
            scan.damaged.append(Damaged(number, offset, len(line), shown))
            continue
        scan.good_bytes = offset + len(line)
        if event.get("token", 0) < token:
            scan.stale.append(event)
            scan.stale_offsets.append(offset)
            continue
        seq = event.get("seq", expected)  # schema 1 had no numbers
        if event.get("token", 0) > token:
            _overruled(scan, seq)
        token = event.get("token", 0)
        if not is_header:
            if seq > expected:
                scan.missing.append((expected, seq - 1))
            expected = seq + 1
        scan.events.append(event)
        scan.offsets.append(offset)
    if not scan.events:
        raise StorageError(f"{path}: empty; {_lost_or_never_there(path)}")
    return scan


def _overruled(scan: Scan, seq: int) -> None:
    """A new holder's first event: what the old one wrote under this or a later number, the new one never read."""
    while len(scan.events) > 1 and scan.events[-1].get("seq", -1) >= seq:
        scan.stale.append(scan.events.pop())
        scan.stale_offsets.append(scan.offsets.pop())


def _begins_well(path: Path) -> bool:
    for _, line in _lines(path):
        try:
            _header(decoded(line, path, 0), line, path)
        except StorageError:
            return False
        return True
    return False


def _lost_or_never_there(path: Path) -> str:
    """The remedy for a file without a header."""
    acknowledged = read_acknowledged(path.parent)
    if acknowledged > 0:
        return (
            f"events 0 to {acknowledged} had been acknowledged and are gone; restore the file from a copy, or "
            f"`ray-unlearn verify {path.parent.parent} --repair` begins it anew"
        )
    return "nothing was recorded, remove the directory"


def _header(event: Event | None, line: bytes, path: Path) -> tuple[Event, bool]:
    """The first line, and whether all others have checksums: those of older schemas had none."""
    old = decoded(line, path, 0, checked=False) if event is None else event
    if old is None or (event is None and int(old.get("schema_version", 0)) in range(CHECKED_SINCE, SCHEMA_VERSION + 1)):
        if not line.endswith(b"\n"):
            raise StorageError(f"{path}: the header line is torn; {_lost_or_never_there(path)}")
        raise StorageError(f"{path}: the header line is damaged; `ray-unlearn verify --repair` takes it from its copy")
    if old.get("kind") != "header":
        raise StorageError(f"{path}: does not begin with a header; this is no ledger")
    version = int(old.get("schema_version", 0))
    if version > SCHEMA_VERSION:
        raise StorageError(f"{path}: schema version {version} is newer than {SCHEMA_VERSION}; update")
    return old, version >= CHECKED_SINCE


def _concluded(scan: Scan, path: Path) -> Record:
    """The record of a scan that has no damage before its end.

    Raises:
        StorageError: damage, with line numbers and what is gone.
    """
    if scan.damaged:
        first = scan.damaged[0]
        what = "" if len(scan.damaged) == 1 else f" (and {len(scan.damaged) - 1} more)"
        raise StorageError(
            f"{path}: line {first.line}{what} is damaged: {first.text!r}; restore the file from a copy, or "
            f"`ray-unlearn verify {path.parent.parent} --repair` sets it aside and lets its trials run again"
        )
    if scan.missing:
        gaps = ", ".join(f"{first} to {last}" for first, last in scan.missing)
        raise StorageError(
            f"{path}: events {gaps} are missing; restore the file from a copy, or "
            f"`ray-unlearn verify {path.parent.parent} --repair` lets their trials run again"
        )
    record = Record(scan.events[0])
    for event in scan.events[1:]:
        record.apply(event)
    return record


def _mended(scan: Scan, acknowledged: int) -> Iterator[str]:
    """What opening found at the end of the file, in words."""
    lost = acknowledged - scan.next_seq + 1
    if scan.torn_bytes and lost <= 0:
        yield f"cut a torn last line of {scan.torn_bytes} bytes; nothing that was acknowledged is lost"
    elif lost > 0:
        torn = f", and a torn line of {scan.torn_bytes} bytes was cut" if scan.torn_bytes else ""
        yield (
            f"events {scan.next_seq} to {acknowledged} had been acknowledged and are gone from the end of the "
            f"file{torn}: what they recorded is computed again"
        )
    if scan.stale:
        yield f"{len(scan.stale)} event(s) of a process that had lost the study do not count"


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with open(path, "rb") as file:
        for line in file:
            yield offset, line
            offset += len(line)


def _write_all(file: IO[bytes], line: bytes) -> None:
    """Unbuffered: a line that did not fit must not wait in a buffer and follow the next one to disk.

    Raises:
        OSError: the disk is full; a part may have been written.
    """
    rest = memoryview(line)
    while rest:
        rest = rest[file.write(rest) :]


def _taken(folder: Path, file: IO[bytes]) -> Lease:
    try:
        return Lease.take(folder, file, str(events_file(folder)))
    except StorageError:
        file.close()
        raise


def copied_header(folder: Path) -> bytes:
    """The header line from its copy.

    Raises:
        StorageError: there is none, or it is damaged too.
    """
    path = header_file(folder)
    try:
        line = path.read_bytes()
    except OSError:
        line = b""
    event = decoded(line, path, 0)
    if event is None or event.get("kind") != "header":
        raise StorageError(f"{path}: the copy of the header is missing or damaged too; restore the ledger from a copy")
    return line

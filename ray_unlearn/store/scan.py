"""What is in a ledger's files, line by line, before anything is concluded from it: good, damaged,
stale, torn, missing."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.event import Event, decoded
from ray_unlearn.store.schema import SCHEMA_VERSION

CHECKED_SINCE = 2
"""Schema version from which on every line has a checksum."""


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


def scanned(folder: Path, header: bytes | None = None) -> Scan:
    """Every line of the events file, good, damaged, stale or torn.

    Args:
        folder: of the ledger.
        header: stands in for a first line that is damaged, torn or gone (see `copied_header`).

    Raises:
        StorageError: the first line is damaged or no header (its copy is in `header.json`), or of a
        newer schema.
    """
    path = events_file(folder)
    scan, token, expected, checked = Scan(), 0, 1, True
    if header is not None and not _begins_well(path):
        copy, checked = _header(decoded(header, path, 0), header, header_file(folder))
        scan.events, scan.offsets = [copy], [-1]
    for number, (offset, line) in enumerate(lines_of(path), start=1):
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
        raise StorageError(
            f"{path}: the copy of the header is missing or damaged too; restore the ledger from a copy"
        )
    return line


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
    """Number of the last event that was acknowledged; -1 when unknown. Read it before the events: a
    writer goes on."""
    try:
        return int(acknowledged_file(folder).read_bytes())
    except (OSError, ValueError):
        return -1


def _overruled(scan: Scan, seq: int) -> None:
    """A new holder's first event: what the old one wrote under this or a later number, the new one
    never read."""
    while len(scan.events) > 1 and scan.events[-1].get("seq", -1) >= seq:
        scan.stale.append(scan.events.pop())
        scan.stale_offsets.append(scan.offsets.pop())


def _begins_well(path: Path) -> bool:
    for _, line in lines_of(path):
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
    if old is None or (
        event is None
        and int(old.get("schema_version", 0)) in range(CHECKED_SINCE, SCHEMA_VERSION + 1)
    ):
        if not line.endswith(b"\n"):
            raise StorageError(f"{path}: the header line is torn; {_lost_or_never_there(path)}")
        raise StorageError(
            f"{path}: the header line is damaged; `ray-unlearn verify --repair` takes it from its copy"
        )
    if old.get("kind") != "header":
        raise StorageError(f"{path}: does not begin with a header; this is no ledger")
    version = int(old.get("schema_version", 0))
    if version > SCHEMA_VERSION:
        raise StorageError(
            f"{path}: schema version {version} is newer than {SCHEMA_VERSION}; update"
        )
    return old, version >= CHECKED_SINCE


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with open(path, "rb") as file:
        for line in file:
            yield offset, line
            offset += len(line)

"""The lines of a ledger's files: good, damaged, stale, torn or missing.

Nothing is concluded from them here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.given_file import given_bytes
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.store.event import EventsWithdrawn, Header
from ray_unlearn.store.event_line import LINE_BEGINS, Entry, decoded
from ray_unlearn.store.schema import SCHEMA_VERSION

FIRST_READABLE = 2
"""First schema version in which every line has a number and a checksum."""


@dataclass(frozen=True)
class Damaged:
    """A line that cannot be trusted."""

    line: int
    """Number of the line, from 1."""
    offset: int
    length: int
    text: str
    """Its first characters."""


@dataclass
class Scan:
    """The lines of a ledger's file, before anything is concluded from them."""

    entries: list[Entry] = field(default_factory=list)
    """The good lines; the first is the header."""
    damaged: list[Damaged] = field(default_factory=list)
    stale: list[Entry] = field(default_factory=list)
    """Lines of a process that had lost its lease, and numbers a second time; neither counts."""
    withdrawn: list[Entry] = field(default_factory=list)
    """Good lines that a repair has found to contradict others; they do not count."""
    missing: list[tuple[int, int]] = field(default_factory=list)
    """First and last event of each gap in the numbering, which damaged lines cause as well."""
    good_bytes: int = 0
    torn_bytes: int = 0
    """Bytes of a last line without its end."""

    @property
    def next_seq(self) -> int:
        """The number of the next event."""
        if not self.entries:
            return 0
        return self.entries[-1].seq + 1

    @property
    def header(self) -> Header:
        """The first event."""
        header = self.entries[0].event
        assert isinstance(header, Header)
        return header


def scanned(folder: Path, header: bytes | None = None) -> Scan:
    """Every line of the events file, good, damaged, stale or torn.

    Args:
        folder: the ledger's folder.
        header: replaces a first line that is damaged, torn or gone (see `copied_header`).

    Raises:
        StorageError: the first line is damaged or no header (its copy is in `header.json`), or of a
            newer schema.
    """
    path = events_file(folder)
    scan, fence, expected = Scan(), 0, 1
    if header is not None and not _begins_well(path):
        copy = header_file(folder)
        scan.entries = [_header(decoded(header, copy, -1), copy)]
    for number, offset, line, found, torn in _parted(path):
        is_header = not scan.entries
        entry = _header(found, path, torn=torn) if is_header else found
        if entry is None:
            if torn:
                scan.torn_bytes = len(line)
                break
            shown = line[:80].decode("utf-8", "replace")
            scan.damaged.append(Damaged(number, offset, len(line), shown))
            continue
        scan.good_bytes = offset + len(line)
        repeated = entry.fence == fence and entry.seq < expected and not is_header
        if entry.fence < fence or repeated:
            scan.stale.append(entry)
            continue
        if entry.fence > fence:
            _overrule(scan, entry.seq)
        fence = entry.fence
        if not is_header:
            if entry.seq > expected:
                scan.missing.append((expected, entry.seq - 1))
            expected = entry.seq + 1
        scan.entries.append(entry)
    if not scan.entries:
        raise StorageError(f"{path}: empty; {_lost_or_never_there(path)}")
    _withdraw(scan)
    return scan


def _parted(path: Path) -> Iterator[tuple[int, int, bytes, Entry | None, bool]]:
    """Number, offset, bytes and entry of each line, and whether it is torn.

    A line may begin behind one whose end is damaged, or that is torn, as its writer died and one
    that had lost the study woke up. A torn one was not acknowledged; if it was, its number is
    missing.
    """
    for number, (offset, line) in enumerate(lines_of(path), start=1):
        entry = decoded(line, path, offset)
        at = line.rfind(LINE_BEGINS)
        if entry is None and at > 0 and (rest := decoded(line[at:], path, offset + at)):
            before = line[:at]
            if number == 1 or decoded(before[:-1] + b"\n", path, offset):
                yield number, offset, before, None, False
            yield number, offset + at, line[at:], rest, False
        else:
            yield number, offset, line, entry, not line.endswith(b"\n")


def copied_header(folder: Path) -> bytes:
    """The header line from its copy.

    Raises:
        StorageError: there is no copy, or it is damaged too.
    """
    path = header_file(folder)
    try:
        line = given_bytes(path)
    except OSError:
        line = b""
    entry = decoded(line, path, -1)
    if entry is None or not isinstance(entry.event, Header):
        lines = sum(1 for _ in lines_of(events_file(folder)))
        remedy = "restore the ledger from a copy"
        if lines < 2 and read_acknowledged(folder) < 1:
            remedy = "nothing was recorded after it, remove what is there"
        raise StorageError(f"{path}: the copy of the header is missing or damaged too; {remedy}")
    return line


def restore_header_copy(folder: Path, environment: Environment = REAL) -> None:
    """Make the copy of the header equal to the ledger's first line, if that is whole.

    Raises:
        OSError: the copy cannot be written.
    """
    path = events_file(folder)
    _, line = next(lines_of(path))
    if decoded(line, path, 0) is None:
        return  # it was damaged after the study was read; the copy is all that is left
    copy = header_file(folder)
    if not copy.is_file() or copy.read_bytes() != line:
        write_whole(copy, line, environment)


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
    """Number of the last event that was acknowledged; -1 if unknown.

    Read it before the events, because a writer goes on.
    """
    try:
        return int(given_bytes(acknowledged_file(folder), 64))
    except (OSError, ValueError):
        return -1


def write_acknowledged(folder: Path, number: int) -> None:
    """Record the number of the last event that was acknowledged.

    Raises:
        OSError: it cannot be written.
    """
    acknowledged_file(folder).write_bytes(b"%020d\n" % number)


def _overrule(scan: Scan, seq: int) -> None:
    """Drop an old writer's lines from the number of the new writer's first event on.

    The new writer never read them.
    """
    while len(scan.entries) > 1:
        if scan.entries[-1].seq < seq:
            return
        scan.stale.append(scan.entries.pop())


def _withdraw(scan: Scan) -> None:
    """Take the events out that a repair has withdrawn."""
    repairs = [e.event for e in scan.entries if isinstance(e.event, EventsWithdrawn)]
    gone = {number for event in repairs for number in event.numbers}
    if gone:
        scan.withdrawn = [entry for entry in scan.entries if entry.seq in gone]
        scan.entries = [entry for entry in scan.entries if entry.seq not in gone]


def _begins_well(path: Path) -> bool:
    for _, line in lines_of(path):
        try:
            _header(decoded(line, path, 0), path)
        except StorageError:
            return False
        return True
    return False


def _lost_or_never_there(path: Path) -> str:
    """The remedy for a file without a header."""
    acknowledged = read_acknowledged(path.parent)
    if acknowledged > 0:
        return (
            f"events 0 to {acknowledged} had been acknowledged and are gone; restore the file from "
            f"a copy, or `ray-unlearn verify {path.parent.parent} --repair` begins it anew"
        )
    return "nothing was recorded, remove the directory"


def _header(entry: Entry | None, path: Path, *, torn: bool = False) -> Entry:
    """The first line, if it is a header that this version can read."""
    if entry is None:
        if torn:
            raise StorageError(f"{path}: the header line is torn; {_lost_or_never_there(path)}")
        raise StorageError(
            f"{path}: the header line is damaged; `ray-unlearn verify --repair` takes it from its "
            "copy"
        )
    if not isinstance(entry.event, Header):
        raise StorageError(f"{path}: does not begin with a header; this is no ledger")
    version = entry.event.schema_version
    if not FIRST_READABLE <= version <= SCHEMA_VERSION:
        remedy = "update" if version > SCHEMA_VERSION else "read it with the version that wrote it"
        raise StorageError(
            f"{path}: schema version {version} is not one of {FIRST_READABLE} to {SCHEMA_VERSION}, "
            f"which this version reads; {remedy}"
        )
    return entry


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line of a file with its offset."""
    offset = 0
    with open(path, "rb") as file:
        for line in file:
            yield offset, line
            offset += len(line)

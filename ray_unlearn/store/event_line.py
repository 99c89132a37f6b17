"""One event as one line of JSON that ends with a checksum of itself.

    {"seq": 7, "token": 2, "kind": "row", ..., "metrics": {...}, "more": {...}, "crc": "1a2b3c4d"}

`seq` counts the events from 0 (the header), so a missing line is noticed. `token` is the writer's
fence (see `lease`). `crc` is the CRC-32 (zlib) of the line before `, "crc"`, so a flipped bit is
detected when the ledger is opened and again when a row is read. The few columns of a row that
search and status need are in `metrics`, all others in `more`, which stays in the file until it is
needed: a study of 10,000 trials opens in seconds.
"""

import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.given_file import json_value
from ray_unlearn.store.event import (
    KINDS,
    BestWeightsGone,
    BestWeightsKept,
    Event,
    Header,
    TrialEnded,
    UnknownEvent,
)
from ray_unlearn.store.event_types import has_valid_fields, is_row_number
from ray_unlearn.store.schema import AS_TRAINED, FORMER_OUTCOMES
from ray_unlearn.store.typed_fields import is_int

HOT = (
    "score_selection", "forget_gap_selection", "utility_loss_selection", "forget_nll",
    "forget_ppl", "wall_s", "evaluation_wall_s", "strength",
)  # fmt: skip
"""Columns of a row that are parsed when the ledger is opened."""

_CRC = b', "crc": "'
_SUFFIX = len(_CRC) + len('01234567"}\n')
_MORE = b', "more": '
_CLASSES = {kind: kind_class for kind_class, kind in KINDS.items()}
_FIELDS = {
    kind_class: [field.name for field in fields(kind_class) if field.init and field.name != "other"]
    for kind_class in KINDS
}
LINE_BEGINS = b'{"seq": '
"""Stands nowhere else in a line, as quotes inside of text are escaped."""
_ENVELOPE = {"seq", "token", "kind", "time", "crc"}


class Entry(NamedTuple):
    """A line of the ledger."""

    seq: int
    """Number of the event, from 0 for the header."""
    fence: int
    """The writer's fence; `token` on disk."""
    event: Event
    offset: int
    """Byte at which the line begins in its file; -1 for a header from its copy."""
    length: int
    """Bytes of the line, line end included."""


class StoredRow(Mapping[str, Any]):
    """A row whose columns, except for `HOT` and `update`, stay in the file until one is needed.

    Each read checks the line's checksum against the one seen when the ledger was opened.

    Raises:
        StorageError: at any access to a column, if the line has changed.
    """

    __slots__ = ("_crc", "_hot", "_length", "_more", "_offset", "_path")

    def __init__(
        self, hot: dict[str, Any], path: Path, offset: int, length: int, more: int, crc: int
    ) -> None:
        self._hot = hot
        self._path = path
        self._offset = offset
        self._length = length
        self._more = more
        self._crc = crc

    def __getitem__(self, name: str) -> Any:
        return self._hot[name] if name in self._hot else self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())

    def items(self) -> Any:
        """All columns, from one read; a loop over `row[name]` reads the file once per column."""
        return self._all().items()

    def _all(self) -> dict[str, Any]:
        try:
            with open(self._path, "rb", buffering=0) as file:
                line = os.pread(file.fileno(), self._length, self._offset)
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be read: {error}") from None
        body = line[:-_SUFFIX]
        if zlib.crc32(body) != self._crc or line[-_SUFFIX:] != _suffix(self._crc):
            raise StorageError(self._changed())
        more = _metrics(body[self._more :])
        if more is None:  # its checksum is right, so it was written so
            raise StorageError(f"{self._path}: byte {self._offset}: a row that holds no metrics")
        return self._hot | more

    def _changed(self) -> str:
        with open(self._path, "rb") as file:
            number = file.read(self._offset).count(b"\n") + 1
        return (
            f"{self._path}: line {number} (byte {self._offset}) is not what it was when the ledger "
            "was opened; open the study again: if the line is damaged, restore the file from a "
            f"copy, or let its trial run again with `ray-unlearn verify "
            f"{self._path.parent.parent} --repair`"
        )


FORMER = {"strength": AS_TRAINED, "dealing": "hash", "methods": {}, "tasks": {}}
"""Fields that older versions do not know, with the value that all of their lines stand for."""


def encoded(event: Event, seq: int, fence: int, time: str = "") -> bytes:
    """The line of an event.

    Args:
        event: the event; non-finite metrics become null, as JSON has no NaN.
        seq: number of the event.
        fence: the writer's fence.
        time: ISO 8601; left out if empty.
    """
    assert not isinstance(event, UnknownEvent)
    content: dict[str, Any] = {"seq": seq, "token": fence, "kind": KINDS[type(event)]}
    content |= {field.name: getattr(event, field.name) for field in fields(event)}
    if isinstance(event, Header):
        content |= content.pop("other")
    for name, former in FORMER.items():
        if content.get(name) == former:
            del content[name]
    if time:
        content["time"] = time
    if "metrics" in content:
        metrics = {
            name: value if math.isfinite(value) else None
            for name, value in content["metrics"].items()
        }
        content["metrics"] = {name: metrics[name] for name in HOT if name in metrics}
        content["more"] = {name: value for name, value in metrics.items() if name not in HOT}
    return _sealed(content)


def decoded(line: bytes, path: Path, offset: int) -> Entry | None:
    """The entry of a line; None if the line is torn or damaged.

    Args:
        line: the bytes, line end included.
        path: the file, from which a row's remaining columns are read later.
        offset: byte at which the line begins in the file.
    """
    body = line[:-_SUFFIX]
    crc = zlib.crc32(body)
    if line[-_SUFFIX:] != _suffix(crc):
        return None
    at = body.find(_MORE)
    content = _parsed((body if at < 0 else body[:at]) + b"}")
    if content is None:
        return None
    if at >= 0:
        more = at + len(_MORE)
        hot = content.get("metrics", {})
        if content["kind"] == "row":
            content["metrics"] = StoredRow(hot, path, offset, len(line), more, crc)
        elif (rest := _metrics(body[more:])) is None:
            return None
        else:
            content["metrics"] = hot | rest
    return _entry(content, offset, len(line))


def _entry(content: dict[str, Any], offset: int, length: int) -> Entry | None:
    event = _event(content)
    if event is None:
        return None
    return Entry(content["seq"], content["token"], event, offset, length)


def _event(content: dict[str, Any]) -> Event | None:
    """The event of a line's content; None if a key is missing, or has a value of another type."""
    found: type[Any] | None = _CLASSES.get(content["kind"])
    if found is None:
        return UnknownEvent(str(content["kind"]))
    if content["kind"] == "artefact":
        found = BestWeightsKept if content.get("file") else BestWeightsGone
    names = _FIELDS[found]
    known = {name: content[name] for name in names if name in content}
    if found is Header:
        rest = content.keys() - _ENVELOPE - set(names)
        known["other"] = {name: content[name] for name in content if name in rest}
        known.setdefault("schema_version", 0)
    if found is TrialEnded and isinstance(known.get("status"), str):
        known["status"] = FORMER_OUTCOMES.get(known["status"], known["status"])
    try:
        event: Event = found(**known)
    except TypeError:
        return None
    return event if has_valid_fields(event) else None


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        content = json_value(text)
    except ValueError:
        return None
    if not isinstance(content, dict) or not content.keys() >= {"seq", "token", "kind"}:
        return None
    if not (is_int(content["seq"]) and is_int(content["token"])):
        return None
    if not isinstance(content["kind"], str):
        return None
    if "metrics" in content:
        metrics = _numbers(content["metrics"])
        if metrics is None:
            return None
        content["metrics"] = metrics
        if content["kind"] == "row":
            content["metrics"]["update"] = content.get("update")
            content["metrics"].setdefault("strength", AS_TRAINED)
    return content


def _metrics(text: bytes) -> dict[str, Any] | None:
    try:
        return _numbers(json_value(text))
    except ValueError:
        return None


def _numbers(metrics: Any) -> dict[str, Any] | None:
    """Metrics with NaN in place of null, which stood for a non-finite number; None if none."""
    if not isinstance(metrics, dict) or not all(map(is_row_number, metrics.values())):
        return None
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def _sealed(content: dict[str, Any]) -> bytes:
    body = json.dumps(content, allow_nan=False)[:-1].encode()
    return body + _suffix(zlib.crc32(body))


def _suffix(crc: int) -> bytes:
    return _CRC + b'%08x"}\n' % crc

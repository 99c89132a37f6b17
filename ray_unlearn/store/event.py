"""One event, one line: JSON that ends with a checksum of itself, so that no flipped bit passes for
data.

    {"seq": 7, "token": 2, "kind": "row", ..., "metrics": {...}, "more": {...}, "crc": "1a2b3c4d"}

`seq` counts the events from 0 (the header): a line that is missing is noticed. `token` is the
fencing token of the writer (see `lease`). `crc` is CRC-32 (zlib) of the line before `, "crc"`. A
row's few columns that searching and status need stand in `metrics`, all others in `more`, which is
not parsed until somebody asks: a study of 10,000 trials opens in seconds.
"""

import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Event = dict[str, Any]

HOT = (
    "score_selection", "forget_gap_selection", "utility_loss_selection", "forget_nll", "forget_ppl", "wall_s",
    "evaluation_wall_s",
)  # fmt: skip
"""Columns of a row that are parsed at once."""

_CRC = b', "crc": "'
_SUFFIX = len(_CRC) + len('01234567"}\n')
_MORE = b', "more": '


class StoredRow(Mapping[str, Any]):
    """A row of which all but the `HOT` columns and `update` stay in the file until one of them is
    asked for."""

    __slots__ = ("_hot", "_length", "_offset", "_path")

    def __init__(self, hot: dict[str, Any], path: Path, offset: int, length: int) -> None:
        self._hot = hot
        self._path = path
        self._offset = offset
        self._length = length

    def __getitem__(self, name: str) -> Any:
        return self._hot[name] if name in self._hot else self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())

    def items(self) -> Any:
        """All columns, read once: each lookup of a column that is not at hand reads the file
        anew."""
        return self._all().items()

    def _all(self) -> dict[str, Any]:
        with open(self._path, "rb", buffering=0) as file:
            content = os.pread(file.fileno(), self._length, self._offset)
        return self._hot | _numbers(json.loads(content))


def encoded(event: Event) -> bytes:
    """The event's line. Non-finite metrics become null: JSON has no NaN."""
    if "metrics" in event:
        metrics = {
            name: value if math.isfinite(value) else None
            for name, value in event["metrics"].items()
        }
        hot = {name: metrics[name] for name in HOT if name in metrics}
        event = event | {
            "metrics": hot,
            "more": {name: v for name, v in metrics.items() if name not in hot},
        }
    body = json.dumps(event, allow_nan=False)[:-1].encode()
    return body + _CRC + b'%08x"}\n' % zlib.crc32(body)


def decoded(line: bytes, path: Path, offset: int, *, checked: bool = True) -> Event | None:
    """The event of a line at `offset` of `path`; None when the line is torn or damaged.

    Args:
        line: the bytes, line end included.
        path: the file, from which a row's remaining columns are read later.
        offset: of the line in the file.
        checked: False accepts a line without a checksum (ledgers of schema version 1).
    """
    body = line[:-_SUFFIX]
    if line[-_SUFFIX : -_SUFFIX + len(_CRC)] != _CRC:
        return _parsed(line) if not checked and line.endswith(b"\n") else None
    if line[-_SUFFIX + len(_CRC) :] != b'%08x"}\n' % zlib.crc32(body):
        return None
    at = body.find(_MORE)
    if at < 0:
        return _parsed(body + b"}")
    event = _parsed(body[:at] + b"}")
    if event is None:
        return None
    hot = _numbers(event["metrics"])
    start = at + len(_MORE)
    if event["kind"] == "row":
        hot["update"] = event["update"]
        event["metrics"] = StoredRow(hot, path, offset + start, len(body) - start)
    else:
        event["metrics"] = hot | _numbers(json.loads(body[start:]))
    return event


def _parsed(text: bytes) -> Event | None:
    try:
        event = json.loads(text)
    except ValueError:
        return None
    if not text.endswith((b"\n", b"}")) or not isinstance(event, dict) or "kind" not in event:
        return None
    if "metrics" in event:
        event["metrics"] = _numbers(event["metrics"])
        if event["kind"] == "row":
            event["metrics"]["update"] = event["update"]
    return event


def _numbers(metrics: dict[str, Any]) -> dict[str, Any]:
    """null, which stood for a number that was not finite, is NaN again."""
    return {name: math.nan if value is None else value for name, value in metrics.items()}

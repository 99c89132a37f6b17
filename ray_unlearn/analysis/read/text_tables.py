"""Tables as text: any separator, any of the usual encodings, JSON lines."""

import csv
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from ray_unlearn.spec.errors import UserError
from ray_unlearn.store.table import TEXT_COLUMNS

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
SEPARATORS = (",", ";", "\t", "|")
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
NULLS = ["", "NA", "N/A", "n/a", "#N/A", "null", "NULL", "None", "-", "--", "\u2013", "\u2014"]
LOOKED_AT = 2**16
"""Bytes of a file that are looked at to see what separates its cells."""
QUOTED = re.compile(r'"[^"]*"')


def read_text(path: Path) -> tuple[pa.Table, str]:
    """The table, and what separates its cells (`,` for JSON).

    An empty cell is null, a written `nan` or `inf` is a number: they mean different things.

    Raises:
        UserError: a line with another number of cells, text that is no table.
    """
    content = _content(path)
    if path.suffix in (".jsonl", ".ndjson", ".json"):
        return _json_table(path, content), ","
    separator = _separator(path, content)
    options = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(TEXT_COLUMNS, pa.string()),
        null_values=NULLS,
        strings_can_be_null=True,
    )
    quoted = pyarrow.csv.ParseOptions(newlines_in_values=True, delimiter=separator)
    source = path if content is None else io.BytesIO(content)
    try:
        table = pyarrow.csv.read_csv(source, convert_options=options, parse_options=quoted)
        table.column_names  # noqa: B018, decodes the header
        return table, separator
    except UnicodeError as error:
        raise UserError(f"{path}: is no UTF-8 text: {error}; save the file as UTF-8") from None
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        ragged = _ragged(path, content, separator)
        raise UserError(f"{path}: {ragged or f'cannot be read as a table: {reason}'}") from None


def records_table(records: Iterable[dict[str, Any]]) -> pa.Table:
    """Records as a table; what is nested has names like `config.lr`, lists are JSON."""
    flat = [flattened(record) for record in records]
    names = dict.fromkeys(name for record in flat for name in record)
    return pa.table({name: _column([record.get(name) for record in flat]) for name in names})


def flattened(record: dict[str, Any], prefix: str = "", joint: str = ".") -> dict[str, Any]:
    """A record without records in it: `{"config": {"lr": 1}}` as `{"config.lr": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict) and value:
            flat |= flattened(value, f"{prefix}{key}{joint}", joint)
        else:
            flat[f"{prefix}{key}"] = (
                json.dumps(value, sort_keys=True) if isinstance(value, (list, dict)) else value
            )
    return flat


def _column(values: list[Any]) -> pa.Array:
    """Numbers where all are numbers, otherwise text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and kinds:
        return pa.array([None if value is None else float(value) for value in values])
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _content(path: Path) -> bytes | None:
    """The file as UTF-8 where it is written otherwise; None where it can be read as it is."""
    with path.open("rb") as file:
        start = file.read(3)
    encoding = next(
        (name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), None
    )
    if encoding is None:
        return None
    try:
        return path.read_text(encoding=encoding).encode()
    except UnicodeError as error:
        raise UserError(f"{path}: cannot be read as {encoding}: {error}") from None


def _separator(path: Path, content: bytes | None) -> str:
    """What separates the cells of the first line; a comma where nothing does."""
    with path.open("rb") as file:
        start = content if content is not None else file.read(LOOKED_AT)
    head = QUOTED.sub("", start.decode(errors="replace").lstrip().partition("\n")[0])
    if path.suffix == ".tsv" and "\t" in head:
        return "\t"
    return max(SEPARATORS, key=head.count)


def _json_table(path: Path, content: bytes | None) -> pa.Table:
    """A table from one record a line, or from a list of records."""
    try:
        text = (path.read_bytes() if content is None else content).decode()
    except UnicodeError as error:
        raise UserError(f"{path}: is no UTF-8 text: {error}; save the file as UTF-8") from None
    if path.suffix == ".json":
        return records_table(_records(path, text))
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}: line {number} is no JSON: {error}") from None
            if not isinstance(records[-1], dict):
                raise UserError(f"{path}: line {number} is no record `{{...}}`")
    return records_table(records)


def _records(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: is no JSON: {error}") from None
    if isinstance(found, dict) and found and all(isinstance(one, list) for one in found.values()):
        lengths = {len(one) for one in found.values()}
        if len(lengths) == 1:
            lines = zip(*found.values(), strict=True)
            found = [dict(zip(found, line, strict=True)) for line in lines]
    if isinstance(found, list) and all(isinstance(one, dict) for one in found):
        return found
    raise UserError(f"{path}: holds no list of records `[{{...}}, ...]`")


def _ragged(path: Path, content: bytes | None, separator: str) -> str | None:
    """The first line with another number of cells than the header; None where all are alike."""
    text = (path.read_bytes() if content is None else content).decode(errors="replace")
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    header = next(lines, [])
    for cells in lines:
        if cells and len(cells) != len(header):
            return (
                f"line {lines.line_num} has {len(cells)} cells, the header has {len(header)}: "
                f"{separator.join(cells)[:80]!r}; quote cells that hold {separator!r}, or repair "
                "the line"
            )
    return None

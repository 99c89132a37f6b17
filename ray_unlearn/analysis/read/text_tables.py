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
from ray_unlearn.spec.given_file import json_value
from ray_unlearn.store.table import TEXT_COLUMNS

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json")
REPAIRED = b"repaired"
"""Key of a table's metadata: what was done to lines with other numbers of cells than the header."""
SEPARATORS = (",", ";", "\t", "|")
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
NULLS = ["", "NA", "N/A", "n/a", "#N/A", "null", "NULL", "None", "-", "--", "\u2013", "\u2014"]
LOOKED_AT = 2**16
"""Bytes of a file that are looked at to see what separates its cells."""
SPLIT = ("columns", "data")
"""Keys of a table as `DataFrame.to_json(orient="split")` writes it, beside `index`."""
QUOTED = re.compile(r'"[^"]*"')


def read_text(path: Path) -> tuple[pa.Table, str]:
    """The table, and what separates its cells (`,` for JSON).

    An empty cell is null, a written `nan` or `inf` is a number: they mean different things.

    Raises:
        UserError: a line with more cells than the header, text that is no table.
    """
    content = _content(path)
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
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
        text = (path.read_bytes() if content is None else content).decode(errors="replace")
        if (repaired := _evened(path, text, separator)) is None:
            raise UserError(f"{path}: cannot be read as a table: {reason}") from None
        lines, note = repaired
        table = pyarrow.csv.read_csv(
            io.BytesIO(lines.encode()), convert_options=options, parse_options=quoted
        )
        return table.replace_schema_metadata({REPAIRED: note.encode()}), separator


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
    if path.suffix.lower() == ".tsv" and "\t" in head:
        return "\t"
    return max(SEPARATORS, key=head.count)


def _json_table(path: Path, content: bytes | None) -> pa.Table:
    """A table from one record a line, or from a list of records."""
    try:
        text = (path.read_bytes() if content is None else content).decode()
    except UnicodeError as error:
        raise UserError(f"{path}: is no UTF-8 text: {error}; save the file as UTF-8") from None
    if path.suffix.lower() == ".json":
        return records_table(_records(path, text))
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                records.append(json_value(line))
            except ValueError as error:
                raise UserError(f"{path}: line {number} is no JSON: {error}") from None
            if not isinstance(records[-1], dict):
                raise UserError(f"{path}: line {number} is no record `{{...}}`")
    return records_table(records)


def _records(path: Path, text: str) -> list[dict[str, Any]]:
    """A list of records, or what `DataFrame.to_json` makes of one."""
    try:
        found = json_value(text)
    except ValueError as error:
        raise UserError(f"{path}: is no JSON: {error}") from None
    if isinstance(found, dict) and {"columns", "data"} <= found.keys() <= {"index", *SPLIT}:
        found = [dict(zip(found["columns"], line, strict=False)) for line in found["data"]]
    if isinstance(found, dict) and found and all(isinstance(one, dict) for one in found.values()):
        keys = list(dict.fromkeys(key for one in found.values() for key in one))
        found = {name: [one.get(key) for key in keys] for name, one in found.items()}
    if isinstance(found, dict) and found and all(isinstance(one, list) for one in found.values()):
        lengths = {len(one) for one in found.values()}
        if len(lengths) == 1:
            lines = zip(*found.values(), strict=True)
            found = [dict(zip(found, line, strict=True)) for line in lines]
    if isinstance(found, list) and all(isinstance(one, dict) for one in found):
        return found
    raise UserError(f"{path}: holds no list of records `[{{...}}, ...]`")


def _evened(path: Path, text: str, separator: str) -> tuple[str, str] | None:
    """The text with as many cells in each line as in the header, and a note; None if it has.

    Empty cells too many are left out, cells too few are empty at the end of the line.

    Raises:
        UserError: a line with more cells than the header that are not empty.
    """
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    header = next(lines, [])
    found = io.StringIO()
    writer = csv.writer(found, delimiter=separator, lineterminator="\n")
    writer.writerow(header)
    short = []
    for cells in filter(None, lines):
        if any(cells[len(header) :]):
            raise UserError(
                f"{path}: line {lines.line_num} has {len(cells)} cells, the header has "
                f"{len(header)}: {separator.join(cells)[:80]!r}; quote cells that hold "
                f"{separator!r}, or repair the line"
            )
        if len(cells) < len(header):
            short.append(lines.line_num)
        writer.writerow(cells[: len(header)] + [""] * (len(header) - len(cells)))
    which = f"{', '.join(map(str, short[:3]))}{' and more' if len(short) > 3 else ''}"
    note = f"too few cells in line {which}: what is missing at the end counts as empty"
    even = found.getvalue()
    return None if even == text else (even, note if short else "empty cells too many are left out")

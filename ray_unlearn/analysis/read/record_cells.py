"""Cells that hold records, such as W&B's `config` and `summary`: a column for each key."""

import ast
import re
from typing import Any

import pyarrow as pa

from ray_unlearn.analysis.read.text_tables import records_table
from ray_unlearn.spec.given_file import json_value

NOT_FINITE = re.compile(r"(?<=[\s:\[,(])-?(?:nan|inf)\b")
LOOKED_AT = 100
"""Cells of a column that are looked at before all are."""


def without_records(table: pa.Table) -> pa.Table:
    """The table with each column of records, as JSON or as Python prints them, taken apart.

    `{"lr": 1}` in a column `config` becomes 1 in a column `config.lr`. A column whose keys have
    columns of their own already (scikit-learn's `params`) stays as it is.
    """
    if len(set(table.column_names)) < table.num_columns:
        return table  # refused later, with their name
    for name in table.column_names:
        if _records(table[name].slice(0, LOOKED_AT)) is None:
            continue
        records = _records(table[name])
        if not records:
            continue
        parts = records_table([{name: record} if record else {} for record in records])
        keys = {part.removeprefix(f"{name}.") for part in parts.column_names}
        if keys <= {other.removeprefix("param_") for other in table.column_names}:
            continue
        table = table.drop_columns([name])
        for part in (part for part in parts.column_names if part not in table.column_names):
            table = table.append_column(part, parts[part])
    return table


def _records(column: pa.ChunkedArray) -> list[dict[str, Any]] | None:
    """The records in a column of text; None where a cell holds anything else."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return None
    texts = column.to_pylist()
    if not any(texts) or not all(text.lstrip().startswith("{") for text in texts if text):
        return None
    records = [_record(text) if text else {} for text in texts]
    known = [record for record in records if record is not None]
    return known if len(known) == len(records) else None


def _record(text: str) -> dict[str, Any] | None:
    try:
        found = json_value(text)
    except ValueError:
        try:
            found = ast.literal_eval(NOT_FINITE.sub("None", text.strip()))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    named = isinstance(found, dict) and all(isinstance(key, str) for key in found)
    return found if named else None

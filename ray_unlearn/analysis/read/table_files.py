"""Result tables as files: the table, the baselines beside it, and the digest of a file."""

import csv
import hashlib
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ray_unlearn.analysis.read.evaluation_rows import tidy_baselines
from ray_unlearn.analysis.read.text_tables import SUFFIXES, read_text
from ray_unlearn.spec.errors import UserError
from ray_unlearn.store.schema import BASELINE_COLUMNS, SCHEMA_VERSION


def read_table(path: Path) -> pa.Table:
    """The file as it is.

    An empty cell is null, a written `nan` or `inf` is a number: they mean different things.
    """
    return read_cells(path)[0]


def read_cells(path: Path) -> tuple[pa.Table, str]:
    """The file as it is, and what separates its cells (`,` where they are not text)."""
    try:
        if path.suffix.lower() in SUFFIXES:
            table, separator = read_text(path)
            return _with_text(table), separator
        table = _with_text(pq.read_table(path))
    except UserError:
        raise
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot be read as a table: {reason}") from None
    written = (table.schema.metadata or {}).get(b"schema_version", b"0")
    version = int(written) if re.fullmatch(rb"\d{1,9}", written) else None
    if version is None:
        raise UserError(f"{path}: its schema version {written!r} is no number; write it again")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema version {version} is newer than {SCHEMA_VERSION}; update ray_unlearn"
        )
    return table, ","


def _with_text(table: pa.Table) -> pa.Table:
    """The table with columns of bytes as text.

    Raises:
        pa.ArrowException: the bytes are no UTF-8.
    """
    for at, field in enumerate(table.schema):
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            table = table.set_column(at, field.name, table.column(at).cast(pa.string()))
    return table


def baselines_beside(path: Path) -> tuple[Path, pd.DataFrame] | None:
    """The baselines file beside a table, and its lines; None where there is none."""
    stems = (f"{path.stem}.baselines", "baselines")
    for candidate in (
        path.parent / f"{stem}{ending}" for stem in stems for ending in (".parquet", ".csv")
    ):
        if candidate.is_file() and candidate != path:
            return candidate, read_table(candidate).to_pandas()
    return None


def baselines_of(
    study: str, beside: tuple[Path, pd.DataFrame] | None, studies: int
) -> pd.DataFrame:
    """Baselines of one study of a table, by name; empty where none are known."""
    if beside is None:
        return pd.DataFrame(columns=list(BASELINE_COLUMNS), dtype=float)
    path, frame = beside
    if "study" in frame:
        frame = frame[frame["study"].astype(str) == study]
    elif studies > 1:
        raise UserError(
            f"{path}: the table holds {studies} studies; add a `study` column that says whose "
            "baselines these are"
        )
    return tidy_baselines(frame.reset_index(drop=True), str(path))


def check_baselines(rows: pd.DataFrame, baselines: pd.DataFrame, table: Path, path: Path) -> None:
    """Refuse baselines of another study, which would give wrong targets without a sign.

    The rows' forget gap gives them away.
    """
    if "vanilla" not in baselines.index:
        return
    target = float(baselines["approximate_nll_selection"]["vanilla"])
    expected = (rows["forget_nll"] - target).abs()
    difference = (expected - rows["forget_gap_selection"]).abs()
    if (difference > 1e-4).any():
        raise UserError(
            f"{path}: does not belong to {table}: its target contradicts `forget_gap_selection`; "
            "remove or rename it"
        )


def file_digest(path: Path) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]

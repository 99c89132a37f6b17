"""The files of a table: one Parquet per domain, and table.json, which says what is in them."""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.spec.given_file import given_bytes, json_value

FACTS = "table.json"
STEM = re.compile(r"[a-z0-9-]+")
"""Names of its Parquet files: none of them leads out of the folder."""
VERSIONS = (1,)
"""Of tables that this version reads."""
PathLike = str | os.PathLike[str]


def load_facts(path: PathLike) -> dict[str, Any]:
    """What a table says of itself: files, methods with their spaces, baselines, columns.

    Args:
        path: the table's folder.

    Raises:
        UserError: there is no table, or it is of another version.
    """
    file = Path(path) / FACTS
    try:
        facts = json_value(given_bytes(file))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file}: cannot be read: {error}; give the folder that has {FACTS} in it"
        ) from None
    files = facts.get("files") if isinstance(facts, dict) else None
    if not isinstance(files, dict) or not all(isinstance(one, dict) for one in files.values()):
        raise UserError(f"{file}: is not a table's; `files` is missing")
    if odd := [name for name in files if not STEM.fullmatch(name)]:
        raise UserError(f"{file}: files: {odd[0]!r} is no name of a file; fetch it again")
    if facts.get("version") not in VERSIONS:
        raise UserError(
            f"{file}: has version {facts.get('version')!r}, and this one reads {VERSIONS}; install "
            "the ray-unlearn that it was made with"
        )
    return facts


def load_table(path: PathLike, files: str | Iterable[str] | None = None) -> pd.DataFrame:
    """All rows of a table: a line per domain, trained model, method, configuration and update.

    Perplexities, which the files leave out, are made here. Each file is held against its checksum.

    Args:
        path: the table's folder.
        files: stems of its Parquet files (`shakespeare`); None: all of them.

    Returns:
        The columns of docs/tabular_benchmark.md. Metrics are NaN where a row has none.

    Raises:
        UserError: there is no table or no such file, or a file is damaged.

    Examples:
        >>> rows = load_table("table/", "shakespeare")
        >>> rows.groupby("method")["score_selection"].min()
    """
    facts = load_facts(path)
    names = list(facts["files"]) if files is None else [files] if isinstance(files, str) else files
    found = [_file(Path(path), facts, name) for name in names]
    if not found:
        raise UserError(f"{os.fspath(path)}: the table has no files yet")
    table = pd.concat(found, ignore_index=True)
    for name in ("domain", "method", "status"):
        table[name] = table[name].astype("category")
    return table


def _file(folder: Path, facts: dict[str, Any], name: str) -> pd.DataFrame:
    known = facts["files"]
    if name not in known:
        raise UserError(f"{folder}: has no file {name!r}{nearest(name, known)}")
    path = folder / f"{name}.parquet"
    try:
        content = given_bytes(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if hashlib.sha256(content).hexdigest() != known[name].get("sha256"):
        raise UserError(f"{path}: its checksum is not that of {FACTS}; fetch both files again")
    try:
        table: pd.DataFrame = pq.read_table(pa.BufferReader(content)).to_pandas()
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{path}: is no Parquet file: {error}") from None
    return with_perplexities(table)


def with_perplexities(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `forget_ppl` = exp(`forget_nll`), and so for all sets and halves."""
    names = [str(name) for name in table]
    losses = [name for name in names if "_nll" in name and not name.startswith(ATTACKED)]
    with np.errstate(over="ignore"):
        more = {name.replace("_nll", "_ppl"): np.exp(table[name]) for name in losses}
    return pd.concat([table, pd.DataFrame(more, index=table.index)], axis=1)


ATTACKED = ("relearn_", "quantise_")
"""How columns of attacked models begin."""

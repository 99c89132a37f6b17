"""Columns of a file as text or numbers, with errors that name file, column, line and value."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ray_unlearn.analysis.read.column_names import is_factor
from ray_unlearn.analysis.read.evaluation_rows import fingerprints, numbers
from ray_unlearn.analysis.read.foreign_columns import MOST_CATEGORIES
from ray_unlearn.analysis.read.trial_states import words_among_numbers
from ray_unlearn.analysis.read.written_numbers import as_plain_numbers
from ray_unlearn.spec.errors import UserError


class Cells:
    """A table as it was read: null is an empty cell.

    `first_line` is the number of its first line in the file; `separator`: of its cells.
    """

    def __init__(self, table: pa.Table, where: str, first_line: int, separator: str = ",") -> None:
        self._table, self._where, self.first_line = table, where, first_line
        self._separator = separator
        self._read: dict[str, pd.Series] = {}

    def is_null(self, name: str) -> NDArray[np.bool_]:
        """True [n] where the cell is empty."""
        return np.asarray(self._table[name].is_null().to_numpy(), dtype=bool)

    def number(self, name: str) -> NDArray[np.float64]:
        """The column as floats [n]; an empty cell and a written `nan` are NaN."""
        return numbers(self._series(name), self._where, self.first_line).to_numpy()

    def text(self, name: str, needed: bool = False) -> pd.Categorical:
        """The column as text, categories sorted (numbers by size), empty where there is nothing."""
        codes, uniques = pd.factorize(self._series(name), sort=True)
        if needed and (codes < 0).any():
            raise UserError(
                f"{self._where}: line {int(np.argmax(codes < 0)) + self.first_line} has no `{name}`"
            )
        labels = ["", *(category_name(value) for value in uniques)]
        return pd.Categorical.from_codes(codes + 1, pd.Index(labels, dtype=object), validate=False)

    def score(
        self, name: str, failed: tuple[str, ...] = ()
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.object_]]:
        """The column as floats [n], whether each cell says nothing, and outcomes in its words.

        A word for a failure, such as `FAIL`, is no score; its outcome is "failed".

        Args:
            name: of the column.
            failed: more words for a failure, lower case.

        Raises:
            UserError: a word that is not known.
        """
        empty = self.is_null(name)
        values, outcome = words_among_numbers(self._series(name), empty, failed)
        try:
            found = numbers(values, self._where, self.first_line).to_numpy()
        except UserError as error:
            remedy = "; if it marks a failed trial, name it: --failed WORD"
            raise UserError(f"{error}{remedy}") from None
        return found, empty | (values.isna().to_numpy() & (outcome != "")), outcome

    def hyperparameter(self, name: str, known: bool) -> pd.Categorical | NDArray[np.float64] | str:
        """Numbers, or text with few values; otherwise why it can be neither.

        Args:
            name: of the column.
            known: it is one for sure, so that a word among its numbers is an error.
        """
        values = self._series(name)
        if not values.notna().any():
            return "it is empty"
        few = values.nunique() <= MOST_CATEGORIES
        if _numeric(values):
            found = values.to_numpy(dtype=float)
            strange = ~np.isfinite(found) & ~self.is_null(name)
            if not strange.any():
                return found
            if not known:
                return "it has values that are not finite"
            line = int(np.argmax(strange))
            raise UserError(
                f"{self._where}: column `{name}` is {found[line]} in line "
                f"{line + self.first_line}; a hyperparameter "
                "is finite, or left empty where it has no part; if it is none, `--map "
                f"{name}=ignore`"
            )
        texts = values.dropna().astype(str).str.strip()
        share = pd.to_numeric(texts, errors="coerce").notna().mean()
        if share == 1 or (share >= 0.5 and known and not few):
            return numbers(values, self._where, self.first_line).to_numpy()
        if share >= 0.5 and known and is_factor(name):
            return numbers(values, self._where, self.first_line).to_numpy()
        return self.text(name) if few else f"text with more than {MOST_CATEGORIES} values"

    def holds_numbers(self, name: str) -> bool:
        """Whether most cells are numbers, of those that neither are empty nor say `FAIL`."""
        values, _ = words_among_numbers(self._series(name), self.is_null(name), ())
        known = values.dropna()
        if known.empty or pd.api.types.is_bool_dtype(known.dtype):
            return False
        return bool(pd.to_numeric(known.astype(str), errors="coerce").notna().mean() >= 0.5)

    def is_full(self, name: str) -> bool:
        """Whether no cell is empty."""
        return bool(self._series(name).notna().all())

    def differs_in_every_line(self, name: str) -> bool:
        """Whether no two cells are alike, and none is empty."""
        return self.is_full(name) and bool(self._series(name).is_unique)

    def line_prints(self) -> NDArray[np.uint64]:
        """A hash [n] of each whole line."""
        return fingerprints(self._table.to_pandas().astype(str))

    def _series(self, name: str) -> pd.Series:
        if name not in self._read:
            self._read[name] = self._series_of(self._table[name], name)
        return self._read[name]

    def _series_of(self, column: pa.ChunkedArray, name: str) -> pd.Series:
        if pa.types.is_binary(column.type):
            raise UserError(
                f"{self._where}: column `{name}` is no UTF-8 text; save the file as UTF-8"
            )
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_decimal(column.type):
            column = column.cast(pa.float64())
        if pa.types.is_nested(column.type):
            return pd.Series(list(map(_as_json, column.to_pylist())), name=name, dtype=object)
        if pa.types.is_null(column.type):
            return pd.Series(np.full(len(column), np.nan), name=name)
        if (
            pa.types.is_timestamp(column.type)
            or pa.types.is_date(column.type)
            or pa.types.is_time(column.type)
        ):
            column = column.cast(pa.string())
        values = column.to_pandas().rename(name)
        if _numeric(values) or pd.api.types.is_bool_dtype(values.dtype):
            return values
        return as_plain_numbers(values.where(values != ""), self._separator)


def _numeric(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(
        values.dtype
    )


def _as_json(value: Any) -> str | None:
    """A list or a record as text, so that it can be a category."""
    return None if value is None else json.dumps(value, sort_keys=True, default=str)


def category_name(value: object) -> str:
    """A value as a name: 4 and 4.0 are `4`."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)

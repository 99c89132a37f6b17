"""Columns of a file as text or numbers, with errors that name file, column, line and value."""

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ray_unlearn.analysis.read.evaluation_rows import numbers
from ray_unlearn.analysis.read.foreign_columns import IGNORE, MOST_CATEGORIES
from ray_unlearn.spec.errors import UserError


class Cells:
    """A table as it was read: null is an empty cell.

    `first_line` is the number of its first line in the file.
    """

    def __init__(self, table: pa.Table, where: str, first_line: int) -> None:
        self._table, self._where, self.first_line = table, where, first_line

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

    def hyperparameter(self, name: str) -> pd.Categorical | NDArray[np.float64] | None:
        """Numbers, or text with few values; None for text with many."""
        values = self._series(name)
        if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(
            values.dtype
        ):
            found = values.to_numpy(dtype=float)
            strange = ~np.isfinite(found) & ~self.is_null(name)
            if strange.any():
                line = int(np.argmax(strange))
                raise UserError(
                    f"{self._where}: column `{name}` is {found[line]} in line "
                    f"{line + self.first_line}; a hyperparameter "
                    "is finite, or left empty where it has no part; if it is none, `--map "
                    f"{name}={IGNORE}`"
                )
            return found
        texts = values.dropna().astype(str).str.strip()
        if not texts.empty and pd.to_numeric(texts, errors="coerce").notna().mean() >= 0.5:
            return numbers(values, self._where, self.first_line).to_numpy()
        return self.text(name) if values.nunique() <= MOST_CATEGORIES else None

    def _series(self, name: str) -> pd.Series:
        column = self._table[name]
        if pa.types.is_binary(column.type):
            raise UserError(
                f"{self._where}: column `{name}` is no UTF-8 text; save the file as UTF-8"
            )
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_decimal(column.type):
            column = column.cast(pa.float64())
        if pa.types.is_null(column.type):
            return pd.Series(np.full(len(column), np.nan), name=name)
        if (
            pa.types.is_timestamp(column.type)
            or pa.types.is_date(column.type)
            or pa.types.is_time(column.type)
        ):
            column = column.cast(pa.string())
        values = column.to_pandas().rename(name)
        return values if pd.api.types.is_numeric_dtype(values.dtype) else values.where(values != "")


def category_name(value: object) -> str:
    """A value as a name: 4 and 4.0 are `4`."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)

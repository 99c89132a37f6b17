"""Numbers as people and spreadsheets write them: decimal commas, thousands, percentages."""

import re

import pandas as pd

WRITTEN = re.compile(r"[+-]?(?:\d[\d.,]*|[.,]\d+)(?:[eE][+-]?\d+)?\s*%?")
SPREAD = re.compile(r"(?<=[\d%])\s*(?:\u00b1|\+/-)\s*[\d.,]+(?:[eE][+-]?\d+)?\s*%?$")
"""A spread after a mean: `0.53 \u00b1 0.02`."""
THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
EXAMINED = 1_000
"""Texts that are looked at before a column is converted."""


def as_plain_numbers(values: pd.Series, separator: str) -> pd.Series:
    """The column with `0,5` as `0.5`, `1,000` as `1000`, `12 %` as `12`, `1 \u00b1 0.1` as `1`.

    A comma is a decimal one unless cells are separated by commas and it groups thousands. Columns
    of other text stay as they are; so do numbers without comma and percent sign.

    Args:
        values: text, missing where a cell is empty.
        separator: of the file's cells.
    """
    texts = values.dropna()
    texts = texts[texts.map(lambda value: isinstance(value, str))].str.strip()
    some = texts.iloc[:EXAMINED]
    if not some.str.contains(r"[,%\u00b1]|\+/-", regex=True).any():
        return values
    texts = texts.str.replace(SPREAD, "", regex=True)
    some = texts.iloc[:EXAMINED]
    matches = some.map(lambda text: WRITTEN.fullmatch(text) is not None)
    if matches.mean() <= 0.5:
        return values
    written = texts[texts.map(lambda text: WRITTEN.fullmatch(text) is not None)]
    bare = written.str.replace(r"\s*%$", "", regex=True)
    commas = bare[bare.str.contains(",", regex=False)]
    grouped = separator == "," and all(map(THOUSANDS.fullmatch, commas))
    if grouped:
        bare = bare.str.replace(",", "", regex=False)
    else:
        both = bare.str.contains(",", regex=False) & bare.str.contains(".", regex=False)
        bare = bare.mask(both, bare.str.replace(".", "", regex=False))
        bare = bare.str.replace(",", ".", regex=False)
    plain = values.astype(object).copy()
    plain[bare.index] = bare
    return plain

"""One line of shell that makes JSONL of a file of another form, for error messages."""

import json
import shlex
from pathlib import Path

from ray_unlearn.spec.given_file import json_value

LOOKED_AT = 2**20
"""Characters of a first line that are read."""

FROM_TABLE = (
    "import pandas; pandas.read_csv({given}, sep={separator}, dtype=str, keep_default_na=False)"
    '.to_json({made}, orient="records", lines=True, force_ascii=False)'
)
FROM_ARRAY = (
    'from json import dumps, load; open({made}, "w", encoding="utf-8").writelines('
    'dumps(row, ensure_ascii=False) + "\\n"'
    ' for row in load(open({given}, encoding="utf-8-sig")))'
)
SEPARATORS = {".csv": ",", ".tsv": "\t"}


def as_jsonl(path: Path) -> str:
    """`; write it as JSONL, and name that: python -c '...'`; empty where nothing is known to do.

    Every cell of a table stays text as it is written: `007` and `NA` are documents too.

    Args:
        path: of a file that is there.
    """
    kind = path.suffix.lower()
    made = path.with_suffix(".jsonl") if kind != ".jsonl" else path.with_suffix(".lines.jsonl")
    if kind in SEPARATORS:
        return _said(_python(FROM_TABLE, path, made, separator=json.dumps(SEPARATORS[kind])))
    if kind in (".json", ".jsonl"):
        first = _first_line(path)
        if first.startswith("["):
            return _said(_python(FROM_ARRAY, path, made))
        if kind == ".json" and _is_object(first):
            return _said(f"cp {shlex.quote(str(path))} {shlex.quote(str(made))}")
    return ""


def _said(command: str) -> str:
    return f"; write it as JSONL, and name that file: {command}"


def _python(code: str, path: Path, made: Path, **more: str) -> str:
    given = code.format(given=json.dumps(str(path)), made=json.dumps(str(made)), **more)
    return f"python -c {shlex.quote(given)}"


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            return lines.readline(LOOKED_AT).strip()
    except (OSError, UnicodeError):
        return ""


def _is_object(line: str) -> bool:
    """Whether a line is a whole object, so that the file is JSONL by another name."""
    try:
        return isinstance(json_value(line), dict)
    except ValueError:
        return False

"""Which fields of a file hold its documents, guessed from its first row."""

import gzip
import zlib
from collections.abc import Collection
from pathlib import Path

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.given_file import json_value

TEXTS = ("text", "content", "document", "body")
ANSWERED = (
    ("question", "answer"),
    ("prompt", "answer"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("instruction", "response"),
    ("instruction", "output"),
    ("input", "output"),
)
MESSAGES = ("messages", "conversation", "conversations")


def guessed_fields(path: Path, where: str) -> dict[str, str]:
    """Keys of a source beside `path`: `text`, `prompt` and `answer`, or `messages`.

    A file without fields, or one that cannot be read, gives none: its reader says more.

    Args:
        path: of a file or folder.
        where: the option that names it, for messages.

    Raises:
        UserError: it has fields, and none of them is known.
    """
    try:
        row = _first_row(path)
    except (OSError, ValueError, EOFError, zlib.error):
        return {}
    if not row:
        return {}
    if text := next((name for name in TEXTS if row.get(name) == "text"), None):
        return {} if text == "text" else {"text": text}
    if messages := next((name for name in MESSAGES if row.get(name) == "list"), None):
        return {"messages": messages}
    for prompt, answer in ANSWERED:
        if prompt in row and answer in row:
            return {"prompt": prompt, "answer": answer}
    texts = [name for name, kind in row.items() if kind == "text"]
    if len(texts) == 1:
        return {"text": texts[0]}
    raise UserError(
        f"{where}: {path}: which field holds the documents? It has {_listed(row)}; say it with "
        "--field text=NAME, or --field prompt=NAME --field answer=NAME"
    )


def _first_row(path: Path) -> dict[str, str]:
    """Fields of the first row, and whether each is a text, a list or something else."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig") as lines:
            first = next((line for line in lines if line.strip()), "{}")
        entry = json_value(first)
        return {n: _kind(value) for n, value in entry.items()} if isinstance(entry, dict) else {}
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq  # its errors are values' and the system's

        schema = pq.read_schema(path)
        kinds = {name: str(schema.field(name).type) for name in schema.names}
        return {
            name: "text" if "string" in kind and "<" not in kind else "list" if "list" in kind
            else "other"
            for name, kind in kinds.items()
        }  # fmt: skip
    return {}


def _kind(value: object) -> str:
    return "text" if isinstance(value, str) else "list" if isinstance(value, list) else "other"


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, names))

"""Mistakes in documents: files, encodings, fields, and sets that hold the wrong ones."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from mistake import Change, Mistake, Workplace, both, data_bytes, documents, key

FORGET = "data.splits.forget"


def _parquet(column: str, values: list[object]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({column: values}), file)
    return file.getvalue()


def _swapped(place: Workplace) -> None:
    splits = place.content["data"]["splits"]
    splits["retain"] = splits["forget"]


def _same_file(split: str) -> Change:
    return key(f"data.splits.{split}.path", "data/forget.jsonl")


def _folder(place: Workplace) -> None:
    (place.folder / "books").mkdir()
    place.content["data"]["splits"]["forget"] = {"path": "books"}


def _wrong_folder(place: Workplace) -> None:
    (place.folder / "books").mkdir()
    (place.folder / "books" / "one.pdf").write_bytes(b"%PDF-1.4")
    place.content["data"]["splits"]["forget"] = {"path": "books"}


def _unreadable(place: Workplace) -> None:
    place.data().unlink()
    place.data().mkdir()


MISTAKES = [
    Mistake(
        "a path misspelt",
        key(f"{FORGET}.path", "data/froget.jsonl"),
        (f"{FORGET}.path", "did you mean 'forget.jsonl'"),
    ),
    Mistake(
        "a folder misspelt",
        key(f"{FORGET}.path", "dta/forget.jsonl"),
        (f"{FORGET}.path", "no such file or folder"),
    ),
    Mistake(
        "a home that is not there",
        key(f"{FORGET}.path", "~/nowhere/forget.jsonl"),
        (f"{FORGET}.path", "no such file or folder"),
    ),
    Mistake(
        "Windows' slashes",
        key(f"{FORGET}.path", "data\\forget.jsonl"),
        (f"{FORGET}.path", "no such file or folder"),
    ),
    Mistake("an empty file", data_bytes(lambda b: b""), (FORGET, "no documents")),
    Mistake("an empty folder", _folder, (FORGET, "no file in", "set `pattern`")),
    Mistake("a folder of PDF", _wrong_folder, (FORGET, "no file in", "set `pattern`")),
    Mistake("a folder named like a file", _unreadable, (FORGET,)),
    Mistake(
        "a JSON array",
        data_bytes(
            lambda b: json.dumps([json.loads(x) for x in b.splitlines()]).encode(), "forget.json"
        ),
        (FORGET, "forget.json", "python -c 'from json import "),
    ),
    Mistake(
        "a JSON array named .jsonl",
        data_bytes(lambda b: json.dumps([json.loads(x) for x in b.splitlines()]).encode()),
        (FORGET, "line 1", "must be an object", "python -c 'from json import "),
    ),
    Mistake(
        "indented JSON named .jsonl",
        data_bytes(lambda b: json.dumps(json.loads(b.splitlines()[0]), indent=1).encode()),
        (FORGET, "line 1", "not valid JSON", "one object to a line"),
    ),
    Mistake(
        "CSV",
        data_bytes(lambda b: b"text\nabc\n", "forget.csv"),
        (FORGET, "forget.csv", "python -c 'import pandas; "),
    ),
    Mistake(
        "a Word document",
        data_bytes(lambda b: b"PK\x03\x04", "forget.docx"),
        (FORGET, "forget.docx", ".txt"),
    ),
    Mistake(
        "no suffix", data_bytes(lambda b: b, "forget"), (FORGET, "unknown file type", ".jsonl")
    ),
    Mistake("a cut line", data_bytes(lambda b: b[:-20]), (FORGET, "line 24", "not valid JSON")),
    Mistake(
        "a number in a line",
        documents(lambda d: [*d[:3], "12"]),
        (FORGET, "line 4", "must be an object"),
    ),
    Mistake(
        "no field `text`",
        documents(lambda d: [{"content": x["text"]} for x in d]),
        (FORGET, "line 1", "no field 'text'", "content"),
    ),
    Mistake(
        "a field misspelt",
        key(f"{FORGET}.text", "txt"),
        (FORGET, "line 1", "no field 'txt'", "did you mean 'text'"),
    ),
    Mistake(
        "a field of numbers",
        documents(lambda d: [{"text": 5}]),
        (FORGET, "line 1", "must be text", "int"),
    ),
    Mistake(
        "a field of lists",
        documents(lambda d: [{"text": ["a"]}]),
        (FORGET, "line 1", "must be text", "list"),
    ),
    Mistake(
        "a blank document",
        documents(lambda d: [*d, {"text": "  "}]),
        (FORGET, "line 25", "data.blank_rows: skip"),
    ),
    Mistake(
        "a null document",
        documents(lambda d: [*d, {"text": None}]),
        (FORGET, "line 25", "data.blank_rows: skip"),
    ),
    Mistake(
        "documents of one token",
        documents(lambda d: [{"id": "x", "text": "a"}] * 3),
        (FORGET, "1 token(s)"),
    ),
    Mistake(
        "half a surrogate pair",
        documents(lambda d: ['{"text": "abc \\ud800 def"}']),
        (FORGET, "line 1", "not valid Unicode"),
    ),
    Mistake("NaN in JSON", documents(lambda d: ['{"text": NaN}']), (FORGET, "line 1")),
    Mistake(
        "nested without end",
        documents(lambda d: ['{"text": ' + "[" * 100_000 + "]" * 100_000 + "}"]),
        (FORGET, "line 1"),
    ),
    Mistake(
        "JSONL in Windows-1252",
        data_bytes(lambda b: '{"text": "caf\xe9 au lait"}\n'.encode("cp1252")),
        (FORGET, "forget.jsonl", "UTF-8"),
    ),
    Mistake(
        "JSONL in UTF-16",
        data_bytes(lambda b: b.decode().encode("utf-16")),
        (FORGET, "forget.jsonl", "UTF-8"),
    ),
    Mistake(
        "text in Latin-1",
        data_bytes(lambda b: "caf\xe9 au lait".encode("latin-1"), "forget.txt"),
        (FORGET, "forget.txt", "UTF-8"),
    ),
    Mistake(
        "a binary file",
        data_bytes(lambda b: bytes(range(256)) * 4, "forget.txt"),
        (FORGET, "forget.txt", "UTF-8"),
    ),
    Mistake(
        "a cut archive",
        data_bytes(lambda b: gzip.compress(b)[:-50], "forget.jsonl.gz"),
        (FORGET, "forget.jsonl.gz", "whole"),
    ),
    Mistake(
        "no archive",
        data_bytes(lambda b: b, "forget.jsonl.gz"),
        (FORGET, "forget.jsonl.gz", "cannot be read"),
    ),
    Mistake(
        "an archive without its suffix",
        data_bytes(gzip.compress),
        (FORGET, "forget.jsonl", "UTF-8"),
    ),
    Mistake(
        "no Parquet",
        data_bytes(lambda b: b, "forget.parquet"),
        (FORGET, "forget.parquet", "cannot be read"),
    ),
    Mistake(
        "a cut Parquet",
        data_bytes(lambda b: _parquet("text", ["abc def"] * 50)[:-20], "forget.parquet"),
        (FORGET, "forget.parquet", "whole"),
    ),
    Mistake(
        "Parquet without the column",
        data_bytes(lambda b: _parquet("content", ["abc def"] * 50), "forget.parquet"),
        (FORGET, "no column 'text'", "content"),
    ),
    Mistake(
        "Parquet of numbers",
        both(
            data_bytes(lambda b: _parquet("text", [1, 2]), "forget.parquet"),
            key(f"{FORGET}.id", None),
        ),
        (FORGET, "row 1", "must be text"),
    ),
    Mistake(
        "a git-lfs pointer",
        data_bytes(
            lambda b: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
        ),
        (FORGET, "forget.jsonl", "git lfs pull"),
    ),
    Mistake(
        "a web page",
        data_bytes(lambda b: b"<!DOCTYPE html><html></html>"),
        (FORGET, "line 1", "not valid JSON"),
    ),
    Mistake(
        "the forget set to be kept, too",
        _same_file("retain"),
        ("data", "splits must not share documents", "remove it"),
    ),
    Mistake(
        "the forget set as the unseen one",
        _same_file("approximate"),
        ("data", "splits must not share documents", "remove it"),
    ),
    Mistake(
        "one document in two sets",
        both(
            documents(lambda d: [*d, {"id": "x", "text": "one and the same document"}]),
            documents(
                lambda d: [*d, {"id": "y", "text": "one and the same document"}],
                "general_evaluation",
            ),
        ),
        ("'x'", "'y'", "remove it"),
    ),
    Mistake(
        "a single unseen document",
        documents(lambda d: d[:1], "approximate"),
        ("data.splits.approximate", "give more documents"),
    ),
    Mistake(
        "a pattern for nothing",
        both(_wrong_folder, key(f"{FORGET}.pattern", "*.tex")),
        (FORGET, "*.tex", "set `pattern`"),
    ),
    Mistake("a limit of 0", key(f"{FORGET}.limit", 0), ("study.yaml", f"{FORGET}.limit")),
    Mistake(
        "a prompt of text files",
        both(
            data_bytes(lambda b: b"abc", "forget.txt"),
            key(f"{FORGET}.prompt", "q"),
            key(f"{FORGET}.answer", "a"),
        ),
        (FORGET, "no fields 'q', 'a'", ".jsonl"),
    ),
    Mistake(
        "no answers",
        both(key(f"{FORGET}.prompt", "id"), key(f"{FORGET}.answer", "reply")),
        (FORGET, "line 1", "no field 'reply'"),
    ),
    Mistake(
        "conversations without an answer",
        both(
            documents(
                lambda d: (
                    [
                        {
                            "m": [
                                {"role": "user", "content": "a b c"},
                                {"role": "user", "content": "d e f"},
                            ]
                        }
                    ]
                    * 3
                )
            ),
            key(f"{FORGET}.messages", "m"),
            key("data.chat_template", "{{ messages }}"),
        ),
        (FORGET, "line 1", "assistant"),
    ),
    Mistake(
        "an id that no row has",
        key(f"{FORGET}.id", "uuid"),
        (FORGET, "no line has a field 'uuid'", "id"),
    ),
    Mistake(
        "an absolute path of another machine",
        key(f"{FORGET}.path", "/home/someone/forget.jsonl"),
        (f"{FORGET}.path", "no such file or folder"),
    ),
    Mistake(
        "a watched set that is not there",
        key("evaluation.sets", {"news": {"path": "data/news.jsonl"}}),
        ("evaluation.sets.news", "no such file"),
    ),
]

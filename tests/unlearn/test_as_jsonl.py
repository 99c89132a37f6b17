"""A file of another form is refused with a command that makes JSONL of it."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ray_unlearn.spec.data_spec import SplitSource
from ray_unlearn.spec.errors import UserError
from ray_unlearn.unlearn.as_jsonl import as_jsonl
from ray_unlearn.unlearn.sources import read_source

ROWS = [
    {"question": "Who's there?", "answer": "NA"},
    {"question": 'say "a,\nb"', "answer": "007"},
    {"question": "où\t?", "answer": "true"},
]
CSV = '\ufeffquestion,answer\nWho\'s there?,NA\n"say ""a,\nb""",007\noù\t?,true\n'
FORMS = {
    "it's.csv": CSV,
    "a b.tsv": 'question\tanswer\nWho\'s there?\tNA\n"say ""a,\nb"""\t007\n"où\t?"\ttrue\n',
    "one line.json": json.dumps(ROWS),
    "indented.json": json.dumps(ROWS, indent=1, ensure_ascii=False),
    "array.jsonl": json.dumps(ROWS),
    "indented.jsonl": json.dumps(ROWS, indent=1),
    "forget10.json": "".join(json.dumps(row) + "\n" for row in ROWS),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_command_of_a_refusal_makes_a_file_with_the_same_documents(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_text(FORMS[name], encoding="utf-8")
    with pytest.raises(UserError) as refused:
        list(read_source(_source(path), "data.splits.forget"))
    said, _, command = str(refused.value).partition("; write it as JSONL, and name that file: ")
    assert str(path) in said or name in said
    words = shlex.split(command)
    words[0] = words[0].replace("python", sys.executable)
    subprocess.run(words, check=True)
    (made,) = (one for one in tmp_path.iterdir() if one != path)
    found = [document.turns for document in read_source(_source(made), "data.splits.forget")]
    assert [(one.content, two.content) for one, two in found] == [
        (row["question"], row["answer"]) for row in ROWS
    ]


def test_what_no_command_is_known_for_gets_none(tmp_path: Path) -> None:
    for name, text in (("a.xlsx", "x"), ("a.json", '{\n"data": []\n}'), ("a.jsonl", '{"text": ')):
        (tmp_path / name).write_text(text)
        assert as_jsonl(tmp_path / name) == ""


def _source(path: Path) -> SplitSource:
    return SplitSource(path=str(path), prompt="question", answer="answer")

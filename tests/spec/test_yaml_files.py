"""YAML as people and their editors write it is read as meant, or refused with line and remedy."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import REPOSITORY

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.strict import read_yaml, yaml_text
from ray_unlearn.spec.study_file import load_study, model_place

TEXT = "name: café\nmodel: {source: x}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "study.yaml"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-5", 1e-5),
        ("1.0e-5", 1e-5),
        ("1E-5", 1e-5),
        ("-3e4", -3e4),
        (".5e1", 5.0),
        ("2.e-3", 2e-3),
        ("1e+3", 1e3),
        ("'1e-5'", "1e-5"),
        ("1e-5x", "1e-5x"),
        ("e-5", "e-5"),
        ("1-e5", "1-e5"),
        ("3f2e5a", "3f2e5a"),
    ],
)
def test_a_learning_rate_is_a_number_however_it_is_written(
    file: Path, written: str, value: object
) -> None:
    file.write_text(f"rate: {written}\nrates: [{written}]\n")
    assert read_yaml(file) == {"rate": value, "rates": [value]}


@settings(max_examples=300, deadline=None)
@given(
    st.from_regex(r"[-+.0-9eE_:]{1,8}", fullmatch=True)
    | st.text(max_size=8)
    | st.floats(allow_nan=False)
)
@example("\x85")
@example("a\u2028b")
@example("12e5")
def test_a_study_that_is_written_is_read_as_it_was(tmp_path_factory, value: object) -> None:
    """A revision such as 12e5 must not come back as a number."""
    file = tmp_path_factory.mktemp("yaml") / "study.yaml"
    try:
        content = yaml_text({"revision": value})
    except yaml.YAMLError:
        return
    file.write_text(content, encoding="utf-8")
    assert read_yaml(file) == {"revision": value}


def test_a_byte_order_mark_is_no_part_of_the_first_key(file: Path) -> None:
    file.write_bytes(TEXT.encode("utf-8-sig"))
    assert list(read_yaml(file)) == ["name", "model"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT.encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (TEXT.encode("utf-16-le"), "is UTF-16 text; save it as UTF-8"),
        (TEXT.encode("utf-32"), "is UTF-32 text; save it as UTF-8"),
        (
            TEXT.encode("cp1252"),
            "line 1: not UTF-8, probably Windows-1252 or Latin-1 ('café'); save it as UTF-8",
        ),
        (b"a: 1\nb: \x81\xff\n", "line 2: byte 0x81 is not UTF-8, and no Windows-1252 either"),
        (b"a:\n\tb: 1\n", "line 2, column 1: not valid YAML: a tab; indent with spaces"),
        (b"a: 1\na: 2\n", "line 2: key 'a' is given twice; keep one of them"),
        (b"m:\n  a: 1\n  a: 2\n", "line 3: key 'a' is given twice; keep one of them"),
        (b"? [a, b]\n: 1\n", "line 1: a key must be a name, got a sequence; quote it"),
        (b"m: {[a]: 1}\n", "line 1: a key must be a name"),
        (b"yes: 1\n", "key True must be a name; quote it"),
        (b"a: 1\nb: [1, 2\n", "line 3, column 1: not valid YAML: "),
        (b"a: &x 1\nb: *x\n", "line 2: alias *x: write the value out instead"),
        (b"", "must hold a mapping of keys to values, got nothing"),
        (b"a: b: c\n", "line 1, column 5: not valid YAML: "),
        (b"a: \x00\n", "not valid YAML: "),
        (b"abcdef: \x07\n", "not valid YAML: "),
    ],
)
def test_what_no_study_file_can_be_is_refused_with_its_line(
    file: Path, content: bytes, message: str
) -> None:
    file.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        read_yaml(file)
    assert str(refused.value).startswith(f"{file}: ")


def test_a_number_where_text_belongs_says_to_quote_it(file: Path) -> None:
    content = (REPOSITORY / "studies/demo.yaml").read_text()
    file.write_text(content.replace("name: demo", "name: 1e5"))
    with pytest.raises(UserError, match=r"name: must be text; put it in quotes, got 100000\.0"):
        load_study(file)


@pytest.mark.parametrize(
    "given", ["./typo", "../typo", "/typo", "~/typo", "typo/", "models/typo/", "a/b/c", "here"]
)
def test_what_looks_like_a_path_is_never_asked_of_the_hub(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    place = model_place(tmp_path, given, None, "model.source")
    assert Path(place).is_absolute()
    assert place == str((tmp_path / given.replace("~", str(tmp_path / "home"))).resolve())


@pytest.mark.parametrize("given", ["gpt2", "org/name", "demo:shakespeare"])
def test_a_hub_id_stays_one(given: str, tmp_path: Path) -> None:
    assert model_place(tmp_path, given, None, "model.source") == given


def test_a_home_folder_is_found_in_every_path_of_a_study(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/spaces").symlink_to(REPOSITORY / "search_spaces")
    content = yaml.safe_load((REPOSITORY / "studies/yi_6b_github.yaml").read_text())
    content["model"]["source"] = "~/model"
    content["spaces"] = "~/spaces"
    content["data"]["splits"]["forget"] = {"path": "~/forget.jsonl"}
    file.write_text(yaml.safe_dump(content))
    spec = load_study(Path("~") / ".." / file.name)
    assert spec.model.source == str(tmp_path / "home/model")
    assert spec.data.splits["forget"].path == str(tmp_path / "home/forget.jsonl")

"""Near duplicates are said before a study starts: a target of text that the model has seen, or a
document that counts twice, runs a whole study otherwise."""

import json
from pathlib import Path

import numpy as np
import pytest

from ray_unlearn.demo import documents as demo_documents
from ray_unlearn.spec.data_spec import SPLITS, DataSpec, SplitSource
from ray_unlearn.spec.document import Document
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.duplicates import duplicate_findings
from ray_unlearn.unlearn.near_duplicates import near_duplicates

SENTENCE = " Nobody had expected that anything of the kind could happen here."


def prose(seed: int, words: int = 200) -> str:
    """Words drawn at random, with a full stop now and then."""
    draw = np.random.default_rng(seed)
    vocabulary = ["".join(draw.choice(list("abcdefghij"), 6)) for _ in range(500)]
    drawn = draw.choice(vocabulary, words)
    return " ".join(word + "." * (i % 9 == 8) for i, word in enumerate(drawn))


COPIES = {
    "upper case": str.upper,
    "one full stop more": lambda text: text + ".",
    "other punctuation": lambda text: text.replace(
        ".", " \N{EM DASH} \N{LEFT DOUBLE QUOTATION MARK}"
    ),
    "another line length": lambda text: text.replace(" ", "\n  "),
    "a sentence more at the end": lambda text: text + SENTENCE,
    "a sentence more at the start": lambda text: SENTENCE + text,
    "a sentence more in the middle": lambda text: text[:300] + SENTENCE + text[300:],
    "a word changed": lambda text: text[:300] + "other" + text[308:],
}


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("words", [40, 200, 4000])
def test_a_changed_copy_is_found(kind: str, words: int) -> None:
    texts = [prose(seed, words) for seed in range(6)]
    assert near_duplicates([*texts, COPIES[kind](texts[2])]) == [[2, 6]]


@pytest.mark.parametrize("text", ["Straße in Ærø", "Größe", "Привет мир", "日本語の文章です。"])
def test_case_and_punctuation_are_ignored_in_every_script(text: str) -> None:
    assert near_duplicates([text, f"«{text.upper()}»!", "something else"]) == [[0, 1]]


def test_other_documents_are_not_copies() -> None:
    texts = [prose(seed) for seed in range(50)]
    assert near_duplicates(texts) == []
    halves = [texts[0], texts[0][:600] + texts[1][600:]]
    assert near_duplicates(halves) == [], "half of one document with half of another"
    assert near_duplicates([texts[0], " ".join(texts[:4])]) == [], "one among others"
    assert near_duplicates(["...", "---", "", "?"]) == [], "nothing to compare"


def test_what_every_document_shares_makes_no_copies_and_hides_none() -> None:
    licence = prose(99, 150)
    texts = [licence + prose(seed, 150) for seed in range(40)]
    assert near_duplicates([*texts, texts[7].upper() + SENTENCE]) == [[7, 40]]


def test_the_demos_documents_are_no_copies_of_each_other() -> None:
    found = list(duplicate_findings(demo_documents("shakespeare")))
    assert [finding.state for finding in found] == ["ok"]


def split(name: str, *texts: str) -> list[Document]:
    others = [prose(SPLITS.index(name) * 100 + i) for i in range(4)]
    return [Document(str(i), text) for i, text in enumerate([*others, *texts], start=1)]


def test_splits_and_lines_of_copies_are_named_with_what_follows() -> None:
    """A target of text that the model was trained on ran a whole study without a word."""
    one, two = prose(7000), prose(7001)
    documents = {name: split(name) for name in SPLITS}
    documents["forget"] = split("forget", one, two, two)
    documents["approximate"] = split("approximate", one.upper(), two + SENTENCE)
    documents["general_evaluation"] = split("general_evaluation", two.replace(" ", "\n"))
    found = [str(finding) for finding in duplicate_findings(documents)]
    assert found == [
        "data: 2 of 6 documents of `approximate` are near duplicates of documents of `forget` ('5' "
        "of '5', '6' of '6'): the target is then the loss of text that the model has seen; remove "
        "them from one of the two",
        "data: 1 of 5 documents of `general_evaluation` are near duplicates of documents of "
        "`forget` ('5' of '6'): utility is then measured on what is to be forgotten; remove them "
        "from one of the two",
        "data: 1 of 5 documents of `general_evaluation` are near duplicates of documents of "
        "`approximate` ('5' of '6'): the target is then the loss of text that is trained on or "
        "measured elsewhere; remove them from one of the two",
        "data.splits.forget: 1 of 7 documents are copies of others (1 of them exact; '7' of '6'): "
        "they count more than once, and in both halves; keep one of each",
    ]


def data(folder: Path, **changes: object) -> DataSpec:
    splits = {name: SplitSource(path=str(folder / f"{name}.jsonl")) for name in SPLITS}
    return DataSpec(**({"domain": "d", "sequence_length": 64, "splits": splits} | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A JSONL file of four documents for each split."""
    for name in SPLITS:
        lines = [json.dumps({"text": document.text}) for document in split(name)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_whoever_prepares_data_hears_of_copies(folder: Path, tiny_model: Path) -> None:
    with open(folder / "approximate.jsonl", "a") as file:
        file.write(json.dumps({"text": split("forget")[1].text.upper()}))
    prepared = prepare(data(folder), ModelSpec(source=str(tiny_model)))
    (warning,) = prepared.notes
    assert "1 of 5 documents of `approximate` are near duplicates" in warning
    assert "('5' of '2')" in warning, "by their lines"


@pytest.mark.parametrize("blank", ['""', '" \\n"', "null"])
def test_blank_rows_are_refused_or_skipped_as_the_user_chose(
    folder: Path, tiny_model: Path, blank: str
) -> None:
    """One blank row refused a whole hub data set, and blamed its tokens."""
    with open(folder / "forget.jsonl", "a") as file:
        file.write(f'{{"text": {blank}}}\n{{"text": "and one more document"}}\n')
    model = ModelSpec(source=str(tiny_model))
    with pytest.raises(UserError, match=r"forget.jsonl, line 5: the text is empty.*blank_rows"):
        prepare(data(folder), model)
    prepared = prepare(data(folder, blank_rows="skip"), model)
    assert prepared.splits["forget"].selection.shape == (5,)
    assert prepared.notes == ["data.splits.forget: 1 blank rows were skipped, 5 documents are left"]


def test_blank_answers_and_files_are_skipped_too(folder: Path, tiny_model: Path) -> None:
    texts = folder / "texts"
    texts.mkdir()
    for i in range(3):
        (texts / f"{i}.txt").write_text(prose(5000 + i) if i else "\n")
    rows = [{"q": "why", "a": "because"}, {"q": "who", "a": " "}, {"q": "how", "a": None}]
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)))
    base = data(folder)
    splits = base.splits | {
        "forget": SplitSource(path=str(texts)),
        "retain": SplitSource(path=str(folder / "asked.jsonl"), prompt="q", answer="a"),
    }
    model = ModelSpec(source=str(tiny_model))
    with pytest.raises(UserError, match=r"0.txt: the text is empty"):
        prepare(base.model_copy(update={"splits": splits}), model)
    found = prepare(base.model_copy(update={"splits": splits, "blank_rows": "skip"}), model)
    assert [len(found.splits[name].selection) for name in ("forget", "retain")] == [2, 1]
    assert "retain: 2 blank rows were skipped, 1 documents are left" in found.notes[1]


def test_a_study_that_refuses_blank_rows_is_the_study_that_it_was(tiny_study) -> None:
    skips = tiny_study.data.model_copy(update={"blank_rows": "skip"})
    assert "blank_rows" not in tiny_study.decisive()["data"]
    assert (
        tiny_study.model_copy(update={"data": skips}).results_digest()
        != tiny_study.results_digest()
    )

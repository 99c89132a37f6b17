"""Documents become sequences without losing or inventing a target, and bad data is named before
anything starts."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import AddedToken, normalizers
from transformers import ByT5Tokenizer

from ray_unlearn.spec.data_spec import SPLITS, DataSpec, SplitSource
from ray_unlearn.spec.document import Document
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.unlearn.data import prepare, tokenizer_digest
from ray_unlearn.unlearn.document_hash import in_selection_half
from ray_unlearn.unlearn.former_digests import former_data_digest, former_folder_digest
from ray_unlearn.unlearn.model import load_tokenizer
from ray_unlearn.unlearn.sequences import tokenised
from ray_unlearn.unlearn.sources import read_documents
from ray_unlearn.unlearn.token_set import TokenSet


def spec(folder: Path, **changes: object) -> DataSpec:
    splits = {name: SplitSource(path=str(folder / f"{name}.jsonl"), id="id") for name in SPLITS}
    values: dict = {"domain": "test", "sequence_length": 48, "splits": splits}
    return DataSpec(**(values | changes))


def with_split(folder: Path, name: str, source: SplitSource) -> DataSpec:
    base = spec(folder)
    return base.model_copy(update={"splits": base.splits | {name: source}})


@pytest.fixture
def model(tiny_model: Path) -> ModelSpec:
    return ModelSpec(source=str(tiny_model))


def targets_of(tokens: TokenSet, document: int) -> list[tuple[int, int]]:
    """(previous token, target) pairs of one document, as the masks say."""
    place = tokens.target_mask & (tokens.document[:, 1:] == document)
    return list(
        zip(
            tokens.input_ids[:, :-1][place].tolist(),
            tokens.input_ids[:, 1:][place].tolist(),
            strict=True,
        )
    )


@pytest.mark.parametrize("layout", ["pad", "pack"])
def test_every_target_stands_once_with_its_own_predecessor(
    text_files: Path, model: ModelSpec, layout: str
) -> None:
    documents = read_documents(spec(text_files))["forget"]
    tokenizer = load_tokenizer(model)
    tokens = tokenised(documents, tokenizer, spec(text_files, layout=layout), "forget")
    for index, document in enumerate(documents):
        ids = tokenizer(document.text)["input_ids"]
        expected = [
            pair
            for start in range(0, len(ids), 48)
            for pair in zip(ids[start : start + 47], ids[start + 1 : start + 48], strict=False)
        ]
        assert sorted(targets_of(tokens, index)) == sorted(expected)


def test_packing_uses_fewer_sequences_and_the_same_targets(
    text_files: Path, model: ModelSpec
) -> None:
    documents = [
        Document(str(i), d.text[: 40 + 7 * i])
        for i, d in enumerate(read_documents(spec(text_files))["retain"])
    ]
    tokenizer = load_tokenizer(model)
    padded, packed = (
        tokenised(documents, tokenizer, spec(text_files, layout=x), "retain")
        for x in ("pad", "pack")
    )
    assert len(packed) < len(padded)
    assert packed.target_mask.sum() == padded.target_mask.sum()
    assert padded.position_ids is None
    assert packed.position_ids is not None
    first_of_document = np.diff(packed.document, axis=1, prepend=-2) != 0
    real = packed.document >= 0
    assert (packed.position_ids[first_of_document & real] == 0).all()
    assert not packed.target_mask[:, :][first_of_document[:, 1:]].any()


def test_long_documents_are_cut_where_the_spec_says(text_files: Path, model: ModelSpec) -> None:
    data = prepare(spec(text_files, max_sequences_per_document=1), model)
    assert len(data.splits["forget"]) == 24
    assert len(prepare(spec(text_files), model).splits["forget"]) > 24


def test_second_preparation_reads_the_cache(
    text_files: Path, model: ModelSpec, tmp_path: Path
) -> None:
    said: list[str] = []
    first = prepare(spec(text_files), model, tmp_path, said.append)
    again = prepare(spec(text_files), model, tmp_path, said.append)
    assert said == ["tokenising"]
    assert first.digest == again.digest
    for name in SPLITS:
        assert (first.splits[name].input_ids == again.splits[name].input_ids).all()
    assert (
        prepare(spec(text_files, sequence_length=40), model, tmp_path, said.append).digest
        != first.digest
    )


def test_a_document_whose_indentation_was_repaired_is_trained_on_as_it_is_now(
    text_files: Path, model: ModelSpec, tmp_path: Path
) -> None:
    """The cache and the digest count every byte; halves still take the two for one document."""
    lines = (text_files / "forget.jsonl").read_text().splitlines()
    found, texts = [], ["def f(x): return x", "def f(x):\n    return x"]
    for text in texts:
        path = tmp_path / "x.jsonl"
        path.write_text("\n".join([json.dumps({"id": "x", "text": text}), *lines[1:]]))
        source = SplitSource(path=str(path), id="id")
        found.append(prepare(with_split(text_files, "forget", source), model, tmp_path / "cache"))
    tokenizer = load_tokenizer(model)
    shown = []
    for data in found:
        tokens = data.splits["forget"]
        shown.append(tokenizer.decode(tokens.input_ids[0][tokens.document[0] == 0]))
    assert shown == texts
    assert found[0].digest != found[1].digest
    changed = [
        name for name in SPLITS if found[0].split_digests[name] != found[1].split_digests[name]
    ]
    assert changed == ["forget"]
    assert found[0].former_digest == found[1].former_digest, "what a study begun before holds"
    assert in_selection_half(texts[0]) == in_selection_half(texts[1])


def test_tokens_follow_the_whole_tokenizer_not_its_vocabulary(
    text_files: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """The same vocabulary with another normalisation is another tokenizer, and other data."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    tokenizer = load_tokenizer(ModelSpec(source=str(tiny_model)))
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save_pretrained(folder)
    said: list[str] = []
    plain, lower = (
        prepare(spec(text_files), ModelSpec(source=str(f)), tmp_path, said.append)
        for f in (tiny_model, folder)
    )
    assert said == ["tokenising", "tokenising"]
    assert plain.digest != lower.digest
    slow, other = ByT5Tokenizer(), ByT5Tokenizer()
    other.add_tokens(AddedToken("zzz", lstrip=True))
    slow.add_tokens(AddedToken("zzz", lstrip=False))
    assert sorted(slow.get_vocab()) == sorted(other.get_vocab())
    assert tokenizer_digest(slow) != tokenizer_digest(other)


def test_a_damaged_cache_is_made_anew(text_files: Path, model: ModelSpec, tmp_path: Path) -> None:
    first = prepare(spec(text_files), model, tmp_path)
    (file,) = tmp_path.glob("*.npz")
    file.write_bytes(file.read_bytes()[:-500])
    assert prepare(spec(text_files), model, tmp_path).digest == first.digest


def test_digests_of_studies_begun_before_stay_as_they_are(tmp_path: Path) -> None:
    """Golden values: a change here would lock people out of their studies."""
    documents = {"forget": [Document("a", "one  two\nthree")], "retain": [Document("b", "four")]}
    found = former_data_digest(
        DataSpec(source="demo:latex", sequence_length=48), documents, ByT5Tokenizer()
    )
    assert found == "54cebb0bc69c460fa91f3614b2a49c9b"
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("weights")
    assert former_folder_digest(tmp_path, ModelSpec(source=str(tmp_path))) == "c3bf65fb99ad"


def test_halves_are_a_fixed_property_of_the_text() -> None:
    texts = [f"document {i}" for i in range(2000)]
    share = np.mean([in_selection_half(text) for text in texts])
    assert abs(share - 0.5) < 0.05
    assert in_selection_half("a  b\n c") == in_selection_half("a b c")


def test_sources_give_the_same_documents(text_files: Path, tmp_path: Path) -> None:
    expected = read_documents(spec(text_files))["forget"]
    with gzip.open(tmp_path / "f.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"id": d.id, "body": d.text}) + "\n" for d in expected)
    pq.write_table(
        pa.table({"id": [d.id for d in expected], "text": [d.text for d in expected]}),
        tmp_path / "f.parquet",
    )
    (tmp_path / "texts").mkdir()
    for document in expected:
        (tmp_path / "texts" / f"{document.id}.txt").write_text(document.text)
    sources = [
        SplitSource(path=str(tmp_path / "f.jsonl.gz"), text="body", id="id"),
        SplitSource(path=str(tmp_path / "f.parquet"), id="id"),
    ]
    for source in sources:
        assert read_documents(with_split(text_files, "forget", source))["forget"] == expected
    folder = read_documents(
        with_split(text_files, "forget", SplitSource(path=str(tmp_path / "texts")))
    )["forget"]
    assert sorted(d.text for d in folder) == sorted(d.text for d in expected)


def test_hub_sources_go_through_the_datasets_library(text_files: Path, tmp_path: Path) -> None:
    """The hub cannot be reached in tests; a data set folder goes the same way through
    `load_dataset`."""
    folder = tmp_path / "unlearn_dataset"
    folder.mkdir()
    (folder / "forget.jsonl").write_bytes((text_files / "forget.jsonl").read_bytes())
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: arxiv\n  data_files:\n  - split: forget\n    path: "
        "forget.jsonl\n---\n"
    )
    source = SplitSource(hub=str(folder), config="arxiv", split="forget", id="id")
    expected = read_documents(spec(text_files))["forget"]
    assert read_documents(with_split(text_files, "forget", source))["forget"] == expected
    with pytest.raises(UserError, match="cannot load"):
        read_documents(
            with_split(text_files, "forget", source.model_copy(update={"config": "arxive"}))
        )
    with pytest.raises(UserError, match="has no field 'txt'; did you mean 'text'"):
        read_documents(with_split(text_files, "forget", source.model_copy(update={"text": "txt"})))


def test_held_out_retain_is_carved_out_of_retain_by_hash(text_files: Path) -> None:
    base = spec(text_files, heldout_share=0.3)
    given = base.model_copy(
        update={"splits": {k: v for k, v in base.splits.items() if k != "retain_heldout"}}
    )
    found = read_documents(given)
    held, kept = found["retain_heldout"], found["retain"]
    assert 0 < len(held) < len(kept)
    assert not {d.text for d in held} & {d.text for d in kept}
    assert read_documents(given) == found


def test_bad_sources_name_file_line_and_remedy(
    text_files: Path, tmp_path: Path, model: ModelSpec
) -> None:
    def fails(source: SplitSource, match: str) -> None:
        with pytest.raises(UserError, match=match):
            prepare(with_split(text_files, "forget", source), model)

    fails(
        SplitSource(path=str(text_files / "forgot.jsonl")),
        r"splits.forget.path: no such file .*did you mean 'forget.jsonl'",
    )
    fails(
        SplitSource(path=str(text_files / "forget.jsonl"), text="body"), r"line 1: no field 'body'"
    )
    for name, content, match in [
        ("empty.jsonl", "", "splits.forget: no documents"),
        ("broken.jsonl", '{"text": "a b c"}\n{', "line 2: not valid JSON"),
        ("list.jsonl", "[1]\n", "must be an object"),
        ("number.jsonl", '{"text": 5}\n', "must be text, got int"),
        ("short.jsonl", '{"text": "a"}\n', r"document '1' has 1 token\(s\)"),
        ("table.xlsx", "x", "unknown file type"),
    ]:
        (tmp_path / name).write_text(content)
        fails(SplitSource(path=str(tmp_path / name)), match)
    (tmp_path / "folder").mkdir()
    fails(SplitSource(path=str(tmp_path / "folder")), "no file in .* matches")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xfa")
    fails(SplitSource(path=str(tmp_path / "binary.txt")), "cannot be read as UTF-8")
    line = b'{"text": "some words"}\n'
    for name, damaged in [
        ("utf16.jsonl", line.decode().encode("utf-16")),
        ("short.jsonl.gz", gzip.compress(line * 99)[:-20]),
        ("plain.jsonl.gz", line),
        ("broken.parquet", b"PAR1 and no more"),
    ]:
        (tmp_path / name).write_bytes(damaged)
        fails(SplitSource(path=str(tmp_path / name)), rf"{name}: cannot be read: .*UTF-8\?")
    (tmp_path / "half.jsonl").write_bytes(b'{"text": "half an emoji \\ud83d"}\n')
    fails(SplitSource(path=str(tmp_path / "half.jsonl")), "line 1: .* is not valid Unicode")


@pytest.mark.parametrize("other", ["retain", "approximate", "retain_heldout", "general_evaluation"])
def test_documents_shared_between_splits_are_refused(
    text_files: Path, tmp_path: Path, model: ModelSpec, other: str
) -> None:
    lines = (text_files / f"{other}.jsonl").read_text().splitlines()
    shared = json.loads((text_files / "forget.jsonl").read_text().splitlines()[3])
    # Re-wrapped: still the same document.
    shared["text"] = "  " + shared["text"].replace("\n", "\n\n")
    (tmp_path / "x.jsonl").write_text(
        "\n".join([*lines, json.dumps({"id": "copy", "text": shared["text"]})])
    )
    with pytest.raises(
        UserError, match=rf"document 'copy' of `{other}` is also in `forget` \(as 'forget-3'\)"
    ):
        prepare(
            with_split(text_files, other, SplitSource(path=str(tmp_path / "x.jsonl"), id="id")),
            model,
        )


def test_a_half_without_documents_is_refused(text_files: Path, model: ModelSpec) -> None:
    source = SplitSource(path=str(text_files / "approximate.jsonl"), id="id", limit=1)
    with pytest.raises(UserError, match=r"1 document\(s\), and each half"):
        prepare(with_split(text_files, "approximate", source), model)

"""A model and a forget set make a study: what else it needs is dealt, the same each time, each
document once, and it is said from where."""

import json
import random
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from ray_unlearn.demo import documents as demo_documents
from ray_unlearn.spec.data_spec import DEALT, SPLITS, DataSpec
from ray_unlearn.spec.document import Document
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.admission import admission
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.document_hash import text_hash
from ray_unlearn.unlearn.finding import Finding
from ray_unlearn.unlearn.near_duplicates import near_duplicates
from ray_unlearn.unlearn.sources import read_documents

POOL = demo_documents("shakespeare")["approximate"]
FORGET = demo_documents("shakespeare")["forget"][:5]


def jsonl(path: Path, documents: list[Document]) -> Path:
    path.write_text("".join(json.dumps({"text": one.text}) + "\n" for one in documents))
    return path


def spec(folder: Path, documents: list[Document] | None = POOL, **changes: object) -> DataSpec:
    forget = {"path": str(jsonl(folder / "forget.jsonl", FORGET))}
    content: dict = {"domain": "scenes", "sequence_length": 48, "splits": {"forget": forget}}
    if documents is not None:
        content["pool"] = {"path": str(jsonl(folder / "pool.jsonl", documents))}
    return DataSpec.model_validate(content | changes)


def texts(documents: list[Document]) -> list[str]:
    return [document.text for document in documents]


def study(folder: Path, model: Path, **data: object) -> StudySpec:
    """The shortest study file that there is, loaded."""
    jsonl(folder / "forget.jsonl", FORGET)
    content = {
        "model": {"source": str(model)},
        "data": {"splits": {"forget": {"path": "forget.jsonl"}}} | data,
    }
    path = folder / "letters.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_study(path)


def test_a_model_and_a_forget_set_are_a_study_and_its_resolved_form_says_the_rest(
    tmp_path: Path, tiny_model: Path
) -> None:
    found = study(tmp_path, tiny_model)
    assert (found.name, found.data.domain) == ("letters", "letters")
    assert found.search.trials_per_method == 8
    assert found.evaluation.count == 8
    resolved = found.model_dump(mode="json")
    assert resolved["data"]["dealt"] == dict.fromkeys(DEALT, "bundled")
    assert StudySpec.model_validate(resolved) == found
    jsonl(tmp_path / "pool.jsonl", POOL)
    pooled = study(tmp_path, tiny_model, pool={"path": "pool.jsonl"})
    assert pooled.data.dealt == dict.fromkeys(DEALT[:3], "pool") | dict.fromkeys(
        DEALT[3:], "bundled"
    )
    assert pooled.data.pool is not None
    assert pooled.data.pool.path == str(tmp_path / "pool.jsonl")
    assert "pool.jsonl" not in json.dumps(pooled.decisive()), "a study may move"


def test_a_study_that_names_all_its_splits_is_the_study_that_it_was(tiny_study: StudySpec) -> None:
    """A new key would make another digest of it, and a resume would be refused."""
    assert not {"pool", "dealt"} & tiny_study.decisive()["data"].keys()
    assert not {"pool", "dealt"} & tiny_study.model_dump(mode="json")["data"].keys()


@pytest.mark.parametrize("pool", [POOL, None], ids=["pool", "bundled"])
def test_no_document_is_in_two_splits_nor_nearly(
    tmp_path: Path, pool: list[Document] | None
) -> None:
    found = read_documents(spec(tmp_path, pool))
    assert list(found) == list(SPLITS)
    for one, other in combinations(SPLITS, 2):
        both = texts(found[one]) + texts(found[other])
        assert near_duplicates(both) == [], f"{one} and {other}"


def test_everyone_gets_the_same_documents_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    found = read_documents(spec(tmp_path))
    mixed = random.Random(0).sample(POOL, len(POOL))
    again = read_documents(spec(tmp_path, mixed))
    assert {name: set(texts(split)) for name, split in found.items()} == {
        name: set(texts(split)) for name, split in again.items()
    }
    assert {name: len(found[name]) for name in DEALT[:3]} == {
        "approximate": 40, "retain": 40, "retain_heldout": 20,
    }  # fmt: skip


def test_a_pool_may_hold_the_forget_set_and_copies_of_its_own(tmp_path: Path) -> None:
    """A whole archive is the pool that people have: copies in two splits would be refused."""
    shouted = [one._replace(text=one.text.upper()) for one in POOL[:30]]
    findings: list[Finding] = []
    found = read_documents(spec(tmp_path, [*POOL, *shouted, *FORGET]), find=findings.append)
    forgotten = {text_hash(one.text) for one in FORGET}
    splits = {name: set(texts(found[name])) for name in DEALT[:3]}
    assert not forgotten & {text_hash(text) for split in splits.values() for text in split}
    assert sum(map(len, splits.values())) == len(POOL) + len(shouted)
    for original, copy in zip(POOL, shouted, strict=False):
        (home,) = (name for name, split in splits.items() if original.text in split)
        assert copy.text in splits[home]
    assert "5 more left out, near duplicates of documents of other splits" in str(findings[0])


def test_what_is_given_is_left_alone_and_only_the_rest_is_dealt(tmp_path: Path) -> None:
    unseen = {"path": str(jsonl(tmp_path / "unseen.jsonl", POOL[:20]))}
    forget = {"path": str(jsonl(tmp_path / "forget.jsonl", FORGET))}
    given = spec(tmp_path, POOL, splits={"forget": forget, "approximate": unseen})
    found = read_documents(given)
    assert texts(found["approximate"]) == texts(POOL[:20])
    assert len(found["retain"]) + len(found["retain_heldout"]) == len(POOL) - 20
    assert len(found["retain_heldout"]) == 16
    held_out = spec(tmp_path, None, splits={"forget": forget, "retain": unseen})
    assert "retain_heldout" not in held_out.dealt, "it is held out from `retain`, as it was"


def test_general_text_of_ones_own_can_be_dealt_too(tmp_path: Path) -> None:
    found = read_documents(spec(tmp_path, POOL, dealt=dict.fromkeys(DEALT[3:], "pool")))
    assert {name: len(found[name]) for name in DEALT} == {
        "approximate": 40, "retain": 10, "retain_heldout": 20, "general_retain": 10,
        "general_evaluation": 20,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"splits": {"retain": {"path": "x"}}}, "`splits` lacks forget"),
        ({"dealt": {"retain": "pool"}, "pool": None}, r"dealt\.retain: there is no `pool`"),
        ({"dealt": {"forget": "bundled"}}, r"dealt\.forget: `splits` has a source for it"),
        ({"dealt": {"retain": "pol"}}, r"dealt\.retain"),
        ({"dealt": dict.fromkeys(DEALT, "bundled")}, "`pool`: all splits have sources"),
        (
            {"pool": {"path": "p", "prompt": "q", "answer": "a", "alternative": "b"}},
            r"pool\.alternative: only documents of `forget`",
        ),
        ({"splits": {}, "source": "demo:latex"}, "the demo brings all splits"),
    ],
)
def test_what_cannot_be_dealt_is_refused_on_loading(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        spec(tmp_path, POOL, **changes)


def test_too_small_a_pool_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        read_documents(spec(tmp_path, [*POOL[:3], *FORGET]))
    assert str(refused.value).startswith(
        "data.pool: 3 documents (5 more repeat documents of other splits) are too few to be dealt "
        "to approximate, retain and retain_heldout: give at least 5"
    )
    found = read_documents(spec(tmp_path, POOL[:5]))
    assert [len(found[name]) for name in DEALT[:3]] == [2, 1, 2]


def test_the_plan_says_what_was_dealt_from_where_and_what_that_is_worth(
    tmp_path: Path, tiny_model: Path
) -> None:
    jsonl(tmp_path / "pool.jsonl", POOL)
    data = {"sequence_length": 48, "pool": {"path": "pool.jsonl"}}
    for with_pool, state in ((True, "note"), (False, "warning")):
        given = data if with_pool else {"sequence_length": 48}
        found = admission(study(tmp_path, tiny_model, **given), measures=False)
        lines = [finding for finding in found.findings if finding.what == "dealt splits"]
        assert [line.state for line in lines] == [state, "note"]
        kind, general = map(str, lines)
        assert ("name `data.pool`" in kind) is not with_pool
        assert ("approximate 40, retain 40 and retain_heldout 20" in kind) is with_pool
        assert "general_retain 120 and general_evaluation 60 dealt from the text that comes" in (
            general
        )
        assert str(tmp_path) not in kind, "a study's notes travel with its report"
        assert found.states("refused") == []


def test_where_documents_are_not_read_yet_the_plan_says_it_too(
    tmp_path: Path, tiny_model: Path
) -> None:
    found = study(tmp_path, tiny_model)
    model = found.model.model_copy(update={"source": "demo:stdlib#77"})  # not trained
    planned = admission(found.model_copy(update={"model": model}))
    said = [str(finding) for finding in planned.findings if finding.what == "dealt splits"]
    assert said[0].startswith("data: approximate, retain and retain_heldout dealt from the text")


def test_dealt_documents_are_tokens_like_any_others(tmp_path: Path, tiny_study: StudySpec) -> None:
    data = prepare(spec(tmp_path), tiny_study.model, tmp_path / "cache")
    again = prepare(spec(tmp_path), tiny_study.model, tmp_path / "cache")
    assert data.digest == again.digest
    assert len(data.splits["approximate"].selection) == 40
    assert [finding.state for finding in data.findings] == ["note", "note", "ok"]

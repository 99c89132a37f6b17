"""What cannot run, or runs for nothing, is known before a study starts, and all of it at once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tiny import REPOSITORY, study_file

from ray_unlearn.spec.data_spec import SplitSource
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.search_space import Fixed
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn import tried_model
from ray_unlearn.unlearn.admission import Admission, admission
from ray_unlearn.unlearn.architecture import model_config
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.hub_ids import check_hub_id
from ray_unlearn.unlearn.machine import Machine
from ray_unlearn.unlearn.memory import parameter_count
from ray_unlearn.unlearn.sources import read_source
from ray_unlearn.unlearn.split_counts import split_counts
from ray_unlearn.unlearn.tracker_extras import missing_trackers

ENOUGH = Machine(cpus=64, memory_gib=512, disk_gib=1e4, gpus=8, gpu_gib=80)


def said(found: Admission, *states: str) -> list[str]:
    return [str(finding) for finding in found.states(*states)]


@pytest.fixture(scope="module")
def whole(
    text_files: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Admission:
    path = study_file(tmp_path_factory.mktemp("study"), text_files, tiny_model)
    return admission(load_study(path), ENOUGH)


def test_every_check_has_its_line(whole: Admission) -> None:
    of_data = ("target", "something to forget", "halves agree")
    assert [finding.what for finding in whole.findings if finding.what not in of_data] == [
        "model files", "kind of model", "tokenizer", "context length", "attention, packing, logits",
        "trained layers", "FLOPs of updates", "seeds", "documents", "copies of documents", "CPUs",
        "memory", "disk", "weights", "knows the forget set",
    ]  # fmt: skip
    assert said(whole, "refused", "no room") == []


def test_documents_and_targets_of_each_split_are_shown(whole: Admission) -> None:
    """No command showed them."""
    (line,) = (str(f) for f in whole.findings if f.what == "documents")
    assert line.startswith("read: forget 24 (48 sequences, ")
    assert "retain_heldout 16 (" in line


def test_a_model_that_knows_nothing_of_the_forget_set_is_said_by_the_plan(whole: Admission) -> None:
    """A model with random weights was unlearned for a whole study, without a word."""
    warnings = " ".join(said(whole, "warning", "pointless"))
    assert "nothing to forget" in warnings or "before it unlearns anything" in warnings


def test_all_that_is_wrong_is_said_at_once(tiny_study: StudySpec, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_study.model.source, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    for path in folder.glob("token*"):
        path.unlink()
    model = ModelSpec(source=str(folder), attention="sdpa")
    found = admission(tiny_study.model_copy(update={"model": model}), ENOUGH)
    with pytest.raises(UserError) as refused:
        found.refuse()
    lines = str(refused.value).splitlines()
    assert len(lines) == len(set(lines)) == 2
    assert "it was cut short" in lines[0]
    assert "has no config" not in lines[1]
    assert found.plan is not None, "what it will take is known all the same"


def test_a_tracker_that_is_not_installed_is_said_by_the_plan(tiny_study: StudySpec) -> None:
    absent = [name for name in ("wandb", "mlflow") if missing_trackers([name], "")]
    if not absent:
        pytest.skip("both trackers are installed")
    operations = tiny_study.operations.model_copy(update={"loggers": tuple(absent)})
    spec = tiny_study.model_copy(update={"operations": operations})
    [words] = said(admission(spec, measures=False), "refused")
    assert words.startswith(f"operations.loggers: {absent[0]} is not installed: pip install")


def test_a_folder_that_is_not_there_is_said_once(tiny_study: StudySpec) -> None:
    gone = tiny_study.model_copy(update={"model": ModelSpec(source="/nowhere/at/all")})
    assert said(admission(gone, ENOUGH), "refused") == [
        "model.source: no such folder: /nowhere/at/all"
    ]


def test_a_missing_folder_is_said_where_other_splits_are_on_the_hub(tiny_study: StudySpec) -> None:
    hub = SplitSource(hub="a/b", split="train")
    gone = SplitSource(path="/nowhere/books")
    splits = tiny_study.data.splits | {"retain": hub, "forget": gone}
    data = tiny_study.data.model_copy(update={"splits": splits})
    found = admission(tiny_study.model_copy(update={"data": data}), ENOUGH)
    assert said(found, "refused") == [
        "data.splits.forget.path: no such file or folder: /nowhere/books"
    ]


def test_the_books_study_keeps_all_chunks_of_ones_own_files(
    tmp_path: Path, text_files: Path, tiny_model: Path
) -> None:
    """The ready files of the published setting kept the first chunk of a document alone."""
    content = yaml.safe_load((REPOSITORY / "studies/yi_6b_books.yaml").read_text())
    assert "max_sequences_per_document" not in content["data"]
    general = {"path": str(text_files / "general_retain.jsonl")}
    held = {"path": str(text_files / "general_evaluation.jsonl")}
    content["data"]["splits"] |= {"general_retain": general, "general_evaluation": held}
    content["data"]["sequence_length"] = 48
    content["model"] = {"source": str(tiny_model)}
    content["operations"] = {}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    for name in ("forget", "approximate", "retain"):
        folder = tmp_path / "books" / name
        folder.mkdir(parents=True)
        lines = (text_files / f"{name}.jsonl").read_text().splitlines()
        for i, line in enumerate(lines):
            (folder / f"chapter-{i}.txt").write_text(json.loads(line)["text"])
    (tmp_path / "books" / "forget" / "empty.txt").write_text(" ")
    found = admission(load_study(tmp_path / "study.yaml"), ENOUGH, measures=False)
    assert said(found, "refused") == []
    assert found.data is not None
    assert len(found.data.splits["forget"]) > 2 * len(lines)
    assert (
        "data.splits.forget: 1 blank rows were skipped, 24 documents are left" in found.data.notes
    )


def _large_batch(spec: StudySpec) -> StudySpec:
    spaces = {
        name: space.model_copy(
            update={"parameters": space.parameters | {"batch_size": Fixed(type="fixed", value=64)}}
        )
        for name, space in spec.spaces.items()
    }
    return spec.model_copy(update={"spaces": spaces})


def _late(spec: StudySpec) -> StudySpec:
    evaluation = spec.evaluation.model_copy(update={"at": (1, 500)})
    return spec.model_copy(update={"evaluation": evaluation})


def _one_document(spec: StudySpec) -> StudySpec:
    source = spec.data.splits["forget"].model_copy(update={"limit": 1})
    data = spec.data.model_copy(update={"splits": spec.data.splits | {"forget": source}})
    return spec.model_copy(update={"data": data})


SENSELESS: dict[str, tuple[Callable[[StudySpec], StudySpec], str]] = {
    "large batch": (_large_batch, "batch_size: up to 64 sequences per update, but `forget` has"),
    "late evaluation": (_late, "evaluation.at: no trial reaches update 500 (most steps: 4)"),
    "one document": (_one_document, "data.splits.forget: 1 document(s): membership attacks"),
}


@pytest.mark.parametrize("kind", SENSELESS)
def test_what_runs_but_hardly_as_it_was_meant_is_said(tiny_study: StudySpec, kind: str) -> None:
    changed, message = SENSELESS[kind]
    spec = changed(tiny_study)
    data = prepare(spec.data, spec.model)
    found = admission(spec, data=data, measures=False)
    assert any(text.startswith(message) for text in said(found, "warning")), found.findings


def test_a_hub_id_that_is_nowhere_is_refused_at_once_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked of the hub for half a minute; nothing said which model may have been meant."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "models--01-ai--Yi-6B").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"not in this machine's cache.* did you mean '01-ai/Yi-6B'"
    ):
        check_hub_id("01-ai/Yi-6b", None, "config.json", "model.source")
    folder = tmp_path / "cache" / "models--01-ai--Yi-6B"
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "config.json").write_text("{}")
    check_hub_id("01-ai/Yi-6B", None, "config.json", "model.source")
    with pytest.raises(
        UserError, match=r"forget\.hub: 'a/b' is no folder.* or download it and use"
    ):
        list(read_source(SplitSource(hub="a/b", split="train"), "data.splits.forget"))


def test_a_large_model_is_asked_about_a_sample_and_says_so(
    tiny_study: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large model was asked nothing: a forget set that it never saw passed the plan."""
    tokens = tiny_study.data.sequence_length * parameter_count(model_config(tiny_study))
    monkeypatch.setattr(tried_model, "LARGEST_MEASURED", 2.0 * tokens * 4 * 10)
    found = admission(tiny_study, ENOUGH)
    (line,) = (str(one) for one in found.findings if one.what == "knows the forget set")
    assert "(a sample of 10 sequences of each set)" in line
    assert found.halves is not None
    monkeypatch.setattr(tried_model, "LARGEST_MEASURED", 1.0)
    found = admission(tiny_study, ENOUGH)
    assert any(str(f).startswith("loaded; a batch of 1 sequences") for f in found.findings)
    assert all(f.what != "knows the forget set" for f in found.findings)


def test_a_model_that_has_no_room_here_is_not_loaded(
    tiny_study: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tried_model, "memory_here_gib", lambda: 1e-6)
    found = admission(tiny_study, ENOUGH)
    assert any("the model is not tried: model and reference take" in str(f) for f in found.findings)
    assert said(found, "refused") == []


def test_documents_and_targets_of_the_halves_add_up(whole: Admission) -> None:
    assert whole.data is not None
    counts = {(one.split, one.half): one for one in split_counts(whole.data)}
    for split in ("approximate", "retain_heldout", "general_evaluation"):
        for name in ("documents", "tokens", "targets"):
            halves = [getattr(counts[split, half], name) for half in ("selection", "reporting")]
            assert sum(halves) == getattr(counts[split, ""], name)
    assert counts["forget", ""].documents == 24
    assert ("forget", "selection") not in counts

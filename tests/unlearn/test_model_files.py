"""Models that cannot be used are refused by `plan`, each with its file and what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, T5Config

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.admission import admission
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.evaluate import evaluate
from ray_unlearn.unlearn.machine import Machine
from ray_unlearn.unlearn.model import load_model
from ray_unlearn.unlearn.plan import plan
from ray_unlearn.unlearn.room import room_findings
from ray_unlearn.unlearn.workspace import Workspace

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def _cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def _pointer(folder: Path) -> None:
    lines = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (folder / WEIGHTS).write_text(lines)


def _page(folder: Path) -> None:
    (folder / WEIGHTS).write_text("<html>not found</html>")


def _empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def _no_shard(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "one.safetensors")
    names = {"a": "one.safetensors", "b": "two.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))


def _no_index(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "one.safetensors")
    (folder / INDEX).write_text("{")


def _no_tokenizer(folder: Path) -> None:
    for path in folder.glob("token*"):
        path.unlink()


def _large_tokenizer(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["one more"])
    tokenizer.save_pretrained(folder)


def _other_kind(folder: Path) -> None:
    T5Config().save_pretrained(folder)


def _own_code(folder: Path) -> None:
    config = {"model_type": "x", "auto_map": {"AutoConfig": "x.X"}, "architectures": ["X"]}
    (folder / "config.json").write_text(json.dumps(config))


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut short": (_cut, r"model\.safetensors has \d+ bytes, its header says \d+: it was cut"),
    "git-lfs pointer": (_pointer, "is a git-lfs pointer, not the weights: run `git lfs pull`"),
    "web page": (_page, r"is no safetensors file \(22 bytes\); download it again"),
    "empty": (_empty, r"is no safetensors file \(0 bytes\)"),
    "missing shard": (_no_shard, r"two\.safetensors is missing, but model\..* names it"),
    "broken index": (_no_index, r"index\.json cannot be read"),
    "no tokenizer": (_no_tokenizer, r"has no tokenizer \(tokenizer\.json\)"),
    "large tokenizer": (_large_tokenizer, "token id 300, but the model's vocabulary is 300; use"),
    "another kind": (_other_kind, "is a t5 model, for which there is no causal"),
    "code of its own": (_own_code, "needs code of its own, which is never run"),
}


def check(spec: StudySpec) -> None:
    """As `plan`, `doctor` and the start of a study do."""
    admission(spec, looks_at_data=False).refuse()


@pytest.fixture
def copied(tiny_study: StudySpec, tmp_path: Path) -> StudySpec:
    """The tiny study with a copy of its model."""
    folder = tmp_path / "copy"
    shutil.copytree(tiny_study.model.source, folder)
    return tiny_study.model_copy(update={"model": ModelSpec(source=str(folder))})


@pytest.mark.parametrize("kind", BROKEN)
def test_a_model_that_cannot_be_used_is_refused_by_the_plan(copied: StudySpec, kind: str) -> None:
    check(copied)
    breaks, message = BROKEN[kind]
    breaks(Path(copied.model.source))
    with pytest.raises(UserError, match=message):
        check(copied)


def test_the_retrained_models_files_are_checked_too(copied: StudySpec) -> None:
    broken = Path(copied.model.source)
    _cut(broken)
    model = copied.model.model_copy(update={"source": "demo:latex", "exact_retrain": str(broken)})
    with pytest.raises(UserError, match=r"model\.exact_retrain: .* it was cut short"):
        check(copied.model_copy(update={"model": model}))


def test_a_tensor_that_is_missing_is_not_drawn_at_random(copied: StudySpec) -> None:
    """transformers warned, and a study trained a model with a random layer."""
    path = Path(copied.model.source) / WEIGHTS
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 tensor\(s\), model\.layers\.1\.mlp\.up_proj"):
        load_model(copied.model)


def test_a_padding_token_beyond_the_vocabulary_is_never_looked_up(copied: StudySpec) -> None:
    """Often added to tokenizers that have none, and no row of the embedding with it."""
    tokenizer = AutoTokenizer.from_pretrained(copied.model.source)

    def measured() -> dict[str, float]:
        model = copied.model.model_copy(update={"attention": "eager"})
        workspace = Workspace.open(
            model,
            prepare(copied.data, model),
            copied.evaluation,
            copied.operations,
            Comm.single(),
        )
        assert workspace.layout == "stored"
        return dict(evaluate(workspace))

    before = measured()
    tokenizer.add_special_tokens({"pad_token": "<added>"})
    tokenizer.save_pretrained(copied.model.source)
    assert tokenizer.pad_token_id == 300
    assert measured() == before


def test_gpus_that_are_not_there_are_a_problem_of_the_plan(tiny_study: StudySpec) -> None:
    operations = tiny_study.operations.model_copy(update={"gpus_per_worker": 1})
    spec = tiny_study.model_copy(update={"operations": operations})
    found = plan(spec)

    def lacks(gpus: int) -> list[str]:
        there = room_findings(found, Machine(64, 512, 1e4, gpus), spec)
        return [str(finding) for finding in there if finding.state == "no room"]

    (said,) = lacks(0)
    assert said.startswith("a lane wants 1 GPU(s), 0 are there; set `operations.gpus_per_worker")
    assert lacks(1) == []


def test_a_home_folder_is_written_as_shells_write_it(
    tiny_study: StudySpec, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tiny_model.parent))
    path = tmp_path / "study.yaml"
    text = path.read_text().replace(str(tiny_model), f"~/{tiny_model.name}")
    path.write_text(text)
    assert load_study(path).model.source == str(tiny_model)


def test_a_misspelt_folder_is_no_hub_id(tiny_study: StudySpec, tmp_path: Path) -> None:
    """It was asked of the hub, for half a minute."""
    (tmp_path / "models" / "llama").mkdir(parents=True)
    path = tmp_path / "study.yaml"
    text = path.read_text()
    path.write_text(text.replace(tiny_study.model.source, "models/lama"))
    with pytest.raises(UserError, match=r"no such folder: .*lama; did you mean 'llama'\?"):
        load_study(path)
    path.write_text(text.replace(tiny_study.model.source, "a/b/c"))
    with pytest.raises(UserError, match=r"no such folder: .*/a/b/c"):
        check(load_study(path))

"""An editor says of a file what loading it says: ours are valid, mistakes are marked."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from tiny import REPOSITORY, study_file

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.search_space import SearchSpace
from ray_unlearn.spec.space_file import load_search_space
from ray_unlearn.spec.strict import read_yaml
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.written_schema import search_space_schema, study_schema

FILES = {
    "study": sorted((REPOSITORY / "studies").rglob("*.yaml")),
    "search_space": sorted((REPOSITORY / "search_spaces").rglob("*.yaml")),
}
EVERY_FILE = [(kind, path) for kind, paths in FILES.items() for path in paths]
MISTAKES: dict[str, tuple[str, object]] = {
    "a misspelt key": ("modle", {"source": "demo:shakespeare"}),
    "a misspelt nested key": ("search.trials_per_metod", 3),
    "a misspelt method": ("methods", ["gradient_asent"]),
    "a method twice": ("methods", ["gradient_ascent", "gradient_ascent"]),
    "no methods": ("methods", []),
    "a misspelt hyperparameter": ("space_overrides.learning_rat", 1e-4),
    "a value out of bounds": ("space_overrides.weight_decay", -1.0),
    "an unknown option": ("space_overrides.schedule", "cosin"),
    "an unknown option among choices": (
        "space_overrides.schedule",
        {"type": "choice", "choices": ["linear", "cosin"]},
    ),
    "true as a number": ("space_overrides.learning_rate", True),
    "a range of reals for whole numbers": (
        "space_overrides.batch_size",
        {"type": "float", "low": 8, "high": 64},
    ),
    "a range without an end": ("space_overrides.learning_rate", {"type": "float", "low": 1e-5}),
    "a range without a type": (
        "space_overrides.learning_rate",
        {"low": 1e-5, "high": 1e-4, "scale": "log"},
    ),
    "a list as a range": ("space_overrides.learning_rate", [1e-5, 1e-4]),
    "an unknown sampler": ("search.sampler", "tpee"),
    "no trials": ("search.trials_per_method", 0),
    "text for a number": ("search.trials_per_method", "many"),
    "two evaluation rules": ("evaluation.every", 5),
    "a name that leads elsewhere": ("name", "../x"),
    "a split that is none": ("data.splits.forgett", {"path": "x"}),
    "a source of two kinds": ("data.splits.forget", {"path": "x", "hub": "a/b", "split": "c"}),
    "a misspelt field of a split": ("data.splits.forget.pth", "x"),
    "a negative weight": ("objective.retain", -1),
    "a limit that is none": ("objective.subject_to", {"general_kl": {"at_mos": 1}}),
    "lanes in words": ("operations.lanes", "two"),
    "a port below 1024": ("operations.metrics_port", 80),
}
RIGHT: dict[str, tuple[str, object]] = {
    "a bare value": ("space_overrides.learning_rate", 1e-4),
    "choices": ("space_overrides.batch_size", {"type": "choice", "choices": [2, 4]}),
    "one entry of generate": ("evaluation.generate", {"sets": ["forget"]}),
    "several entries of generate": ("evaluation.generate", [{"sets": ["forget"]}]),
    "a home folder": ("model.source", "~/models/llama"),
    "a null": ("model.revision", None),
    "lanes by themselves": ("operations.lanes", "auto"),
    "a bare limit": ("objective.subject_to", {"general_kl": 0.02}),
}


@cache
def validator(kind: str) -> Draft202012Validator:
    schema = {"study": study_schema, "search_space": search_space_schema}[kind]()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def complaints(kind: str, content: object) -> list[str]:
    found = validator(kind).iter_errors(json.loads(json.dumps(content)))
    return [f"{error.json_path}: {error.message}" for error in found]


def put(content: dict[str, Any], dotted: str, value: object) -> dict[str, Any]:
    *parents, last = dotted.split(".")
    inner = content
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = value
    return content


@pytest.mark.parametrize(
    ("kind", "path"), EVERY_FILE, ids=[f"{kind}-{path.stem}" for kind, path in EVERY_FILE]
)
def test_our_own_files_are_valid_in_an_editor(kind: str, path: Path) -> None:
    assert complaints(kind, read_yaml(path)) == []
    first, _, _ = path.read_text().partition("\n")
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert named, "an editor finds the schema by the first line"
    assert (path.parent / named[1]).resolve() == (
        REPOSITORY / f"docs/schema/{kind}.schema.json"
    ).resolve()


def test_the_study_file_of_the_first_page_is_valid() -> None:
    page = (REPOSITORY / "docs/quick_start.md").read_text()
    found = [one for one in re.findall(r"```yaml\n(.*?)```", page, re.S) if "methods:" in one]
    assert found
    for text in found:
        assert complaints("study", yaml.safe_load(text)) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_marked_while_it_is_typed(
    mistake: str, tmp_path: Path, text_files: Path, tiny_model: Path
) -> None:
    """The editor marks it, and loading refuses it: neither is stricter than the other here."""
    path = study_file(tmp_path, text_files, tiny_model)
    content = yaml.safe_load(path.read_text())
    assert complaints("study", content) == []
    path.write_text(yaml.safe_dump(put(content, *MISTAKES[mistake])))
    assert complaints("study", read_yaml(path))
    with pytest.raises(UserError):
        load_study(path)


@pytest.mark.parametrize("right", RIGHT)
def test_what_loads_is_not_marked(
    right: str, tmp_path: Path, text_files: Path, tiny_model: Path
) -> None:
    path = study_file(tmp_path, text_files, tiny_model)
    content = put(yaml.safe_load(path.read_text()), *RIGHT[right])
    path.write_text(yaml.safe_dump(content))
    assert complaints("study", read_yaml(path)) == []
    load_study(path)


@pytest.mark.parametrize("path", FILES["study"], ids=lambda path: path.stem)
def test_the_resolved_form_in_a_study_directory_is_valid_too(path: Path) -> None:
    assert complaints("study", load_study(path).model_dump(mode="json")) == []


@pytest.mark.parametrize(
    "content",
    [
        {"parameters": {"learning_rate": {"type": "float", "low": "x", "high": 1}}},
        {"method": "gradient_asent", "parameters": {}},
        {"include": ["shared/optimizer.yaml"]},
        {"method": "gradient_ascent", "parameter": {}},
        {"method": "gradient_ascent", "parameters": {"steps": 1.5}},
    ],
    ids=["text for a number", "method", "no method", "misspelt", "part of a step"],
)
def test_a_mistake_in_a_search_space_is_marked(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(content))
    assert complaints("search_space", content)
    with pytest.raises(UserError):
        load_search_space(path)


def test_every_search_space_written_out_is_valid() -> None:
    for path in (REPOSITORY / "search_spaces").glob("*.yaml"):
        space = load_search_space(path)
        assert isinstance(space, SearchSpace)
        assert complaints("search_space", space.model_dump(mode="json")) == []


@pytest.mark.parametrize("kind", ["study", "search_space"])
def test_published_schema_is_current(kind: str) -> None:
    made = {"study": study_schema, "search_space": search_space_schema}[kind]()
    published = json.loads((REPOSITORY / f"docs/schema/{kind}.schema.json").read_text())
    assert published == made, (
        f"run: ray-unlearn schema {kind.replace('_', '-')} > docs/schema/{kind}.schema.json"
    )

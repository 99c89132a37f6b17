"""`ray-unlearn memorise` from its arguments to its table."""

import json
from pathlib import Path

import pytest

from ray_unlearn.spec.study_file import load_study


@pytest.fixture
def sets(tmp_path: Path, text_files: Path) -> dict[str, Path]:
    """Eight texts of each set."""
    files = {}
    for name, split in (("forget", "forget"), ("retain", "retain"), ("general", "general_retain")):
        lines = (text_files / f"{split}.jsonl").read_text().splitlines(keepends=True)
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("".join(lines[:8]))
    return files


def test_a_world_is_made_and_the_study_named(
    cli, sets: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    """Sources are paths, or mappings as in a study file."""
    out = tmp_path / "my world"
    arguments = [tiny_model, "--out", out, "--sequence-length", 48, "--epochs", 1]
    arguments += ["--forget", f"{{path: {sets['forget']}, id: id, limit: 6}}"]
    arguments += ["--retain", sets["retain"], "--general", sets["general"]]
    code, shown, _ = cli("memorise", *arguments)
    assert code == 0
    assert "AUC, loss attack" in shown
    assert f"ray-unlearn run '{out}/study.yaml'" in shown.replace("\n", "")
    assert load_study(out / "study.yaml").name == "myworld"
    assert len((out / "data" / "forget.jsonl").read_text().splitlines()) == 3
    code, shown, said = cli("memorise", *arguments, "--json")
    assert json.loads(shown)["metrics"]["vanilla"]["forget_ppl"] > 1
    assert "vanilla/ is there" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--forget", "{path: x"), "--forget '{path: x': is no mapping"),
        (("--field", "prompt"), "must be name=field, such as prompt=question"),
        (("--forget", "{paht: x.jsonl}"), "did you mean 'path'"),
        (("--dtype", "float16"), "dtype"),
    ],
)
def test_arguments_that_say_nothing_are_refused(
    cli, arguments: tuple[str, str], said: str, sets: dict[str, Path], tiny_model: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    given = {f"--{name}": str(path) for name, path in sets.items()} | dict([arguments])
    words = [word for pair in given.items() for word in pair]
    code, _, err = cli("memorise", tiny_model, "--out", tmp_path / "world", *words)
    assert code == 2
    assert said in err
    assert not (tmp_path / "world").exists()

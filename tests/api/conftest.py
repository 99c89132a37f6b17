"""One real study on the tiny model, run once by the first block of docs/api.md, for all tests."""

import shutil
from pathlib import Path

import pytest
from printed import blocks, run_blocks, run_example
from tiny import study_file


@pytest.fixture(scope="session")
def my_study(text_files: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study's file."""
    folder = tmp_path_factory.mktemp("api")
    path = study_file(folder, text_files, tiny_model, operations={"lanes": 1})
    return path.rename(folder / "my_study.yaml")


@pytest.fixture(scope="session")
def finished(ray_here: None, my_study: Path) -> str:
    """Location of the study that the first block of docs/api.md has run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(my_study.parent)
        run_blocks(blocks("docs/api.md", "Run a study"))
    return str(my_study.parent / "results" / "my-study")


@pytest.fixture(scope="session")
def extended(finished: str, my_study: Path) -> Path:
    """A folder with a copy of it that examples/extend_and_confirm.py went on with."""
    folder = my_study.parent / "extended"
    shutil.copytree(finished, folder / "results" / "my-study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_example("extend_and_confirm.py", "results/my-study", "exported/")
    return folder

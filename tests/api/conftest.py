"""One real study on the tiny model, run by an example, for all tests of the front door."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import REPOSITORY, study_file

Example = Callable[..., None]


def run_example(name: str, *arguments: object) -> None:
    """Run a script of examples/ as a reader would."""
    given = sys.argv
    sys.argv = [name, *map(str, arguments)]
    try:
        runpy.run_path(str(REPOSITORY / "examples" / name), run_name="__main__")
    finally:
        sys.argv = given


@pytest.fixture(scope="session")
def example() -> Example:
    """Runs a script of examples/: its name and arguments."""
    return run_example


@pytest.fixture(scope="session")
def my_study(text_files: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study's file."""
    folder = tmp_path_factory.mktemp("api")
    path = study_file(folder, text_files, tiny_model, operations={"lanes": 1})
    return path.rename(folder / "my_study.yaml")


@pytest.fixture(scope="session")
def finished(ray_here: None, my_study: Path, example: Example) -> str:
    """Location of the study after `examples/run_a_study.py`."""
    location = my_study.parent / "results" / "my-study"
    example("run_a_study.py", my_study, location)
    return str(location)

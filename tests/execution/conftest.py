"""Studies to run, and the command line. Ray is shared by all tests: see `ray_here`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stand_in
from ray import cloudpickle
from running import STEPS, StudyFile
from tiny import study_file

from ray_unlearn.cli.main import main

REPOSITORY = Path(__file__).parent.parent.parent
sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import chaos  # noqa: E402  (the same engine kills 50 processes when it is run by hand)

cloudpickle.register_pickle_by_value(stand_in)  # workers cannot import a test folder


@pytest.fixture(scope="session")
def study_of(
    text_files: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> StudyFile:
    """A study file over the tiny model: trials of some seconds, evaluated three times."""

    def make(trials: int = 2, steps: int = STEPS, **operations: Any) -> Path:
        space = {
            "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "scale": "log"},
            "steps": {"type": "int", "low": 1, "high": steps, "free": True},
            "batch_size": 4,
        }
        return study_file(
            tmp_path_factory.mktemp("study"), text_files, tiny_model,
            space_overrides=space,
            search={"sampler": "random", "trials_per_method": trials, "quasi_random_share": 0.5},
            evaluation={"at": [steps // 3, 2 * steps // 3, steps], "batch_size": 8},
            operations={"lanes": 1, "tensorboard": False} | operations,
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def undisturbed(study_of: StudyFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That study, run without any fault: what one that was disturbed, or lies elsewhere, is
    compared with."""
    folder = tmp_path_factory.mktemp("undisturbed") / "study"
    chaos.undisturbed(study_of(), folder)
    return folder


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """The command line; gives what it wrote to stdout."""

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["ray-unlearn", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert not ended.value.code, said.err
        return said.out

    return call

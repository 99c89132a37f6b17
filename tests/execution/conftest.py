"""One Ray for all tests of this folder: starting it costs more than most tests."""

import sys
from collections.abc import Callable, Iterator

import pytest
import worlds
from ray import cloudpickle

from ray_unlearn.cli.main import main
from ray_unlearn.execution.runtime import connected
from ray_unlearn.spec.operations import Operations

cloudpickle.register_pickle_by_value(worlds)  # workers cannot import a test folder


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """A local Ray of our own, ended by disconnecting, never by name."""
    with connected(None, Operations(lanes=2)):
        yield


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The command line; gives what it wrote to stdout."""

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["ray-unlearn", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert not ended.value.code, said.err
        return said.out

    return call

"""One Ray for all tests of this folder: starting it costs more than most tests."""

from collections.abc import Iterator

import pytest
import worlds
from ray import cloudpickle

from ray_unlearn.execution.runtime import connected
from ray_unlearn.spec.operations import Operations

cloudpickle.register_pickle_by_value(worlds)  # workers cannot import a test folder


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """A local Ray of our own, ended by disconnecting, never by name."""
    with connected(None, Operations(lanes=2)):
        yield

"""Studies that the tests of the report share. Drawing is slow, so each is written once per run."""

from pathlib import Path

import pytest
from planted import plant


@pytest.fixture(scope="session")
def planted_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six trials of each method, of all outcomes, with an exactly retrained model."""
    return plant(tmp_path_factory.mktemp("studies") / "demo-study", trials=6)

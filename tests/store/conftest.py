"""A server of objects, and an address of its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from object_store import BUCKET, Store, object_store


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with object_store() as running:
        yield running


@pytest.fixture
def url(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where no study is yet."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{tmp_path.name}"

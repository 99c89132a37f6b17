"""The front door before anything runs: what it loads, what it promises, what it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest

import ray_unlearn as ru
from ray_unlearn.spec.method_registry import METHODS

HEAVY = ("torch", "ray", "pandas", "transformers", "pyarrow", "pydantic")


def test_importing_the_package_loads_nothing_heavy() -> None:
    """Whoever imports it for one name, or to ask for the version, does not wait for Ray."""
    code = f"import ray_unlearn, sys; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_opening_a_study_loads_neither_torch_nor_ray() -> None:
    """Results are read on a laptop without either."""
    code = (
        "import ray_unlearn as ru, sys\n"
        "try: ru.open('nowhere')\n"
        "except ru.UserError as error: print(error)\n"
        "print([m for m in ('torch', 'ray', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "nowhere: no study there" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_every_public_name_is_there_and_others_are_errors() -> None:
    for name in ru.__all__:
        assert getattr(ru, name) is not None
    assert set(ru.__all__) <= set(dir(ru))
    with pytest.raises(AttributeError, match="has no attribute 'rnu'"):
        ru.rnu  # type: ignore[attr-defined]  # noqa: B018


def test_errors_can_be_caught_by_their_public_names(tmp_path: Path) -> None:
    with pytest.raises(ru.UserError, match="no such file"):
        ru.run(tmp_path / "none.yaml", tmp_path / "s")
    with pytest.raises(ru.UserError, match="no study there"):
        ru.open(tmp_path)
    assert issubclass(ru.StorageError, ru.UserError)


def test_methods_cannot_be_changed_through_what_is_handed_out() -> None:
    ru.methods().clear()
    assert ru.methods() == METHODS

"""What a user gets who installs a built package and has no checkout."""

import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from ray_unlearn.demo.build import SHIPPED

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "ray_unlearn"
LARGEST_BYTES = 10 * 2**20
"""Of a wheel; a model or a picture too many would make it larger."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = str(tmp_path_factory.mktemp("dist"))
    return Path(next(WheelBuilder(str(REPOSITORY)).build(directory=folder)))


def needed_by_the_demo() -> set[str]:
    """Models, text, study and search spaces, by their names in the wheel."""
    models = {path.relative_to(REPOSITORY).as_posix() for path in SHIPPED.rglob("*.*")}
    text = {path.relative_to(REPOSITORY).as_posix() for path in (PACKAGE / "demo/data").iterdir()}
    spaces = {path.name for path in (REPOSITORY / "search_spaces").glob("*.yaml")}
    assert len(models) == 11
    return (
        models
        | text
        | {"ray_unlearn/studies/demo.yaml"}
        | {f"ray_unlearn/search_spaces/{name}" for name in spaces}
    )


def test_the_demo_of_an_installed_package_has_its_models_text_and_study(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
    assert not needed_by_the_demo() - names
    assert "ray_unlearn/py.typed" in names, "a type checker ignores the package's types"
    assert wheel.stat().st_size < LARGEST_BYTES


def test_a_package_built_from_the_source_archive_has_them_too(tmp_path: Path) -> None:
    archive = Path(next(SdistBuilder(str(REPOSITORY)).build(directory=str(tmp_path))))
    with tarfile.open(archive) as content:
        content.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    built = Path(next(WheelBuilder(str(source)).build(directory=str(tmp_path / "again"))))
    with zipfile.ZipFile(built) as content:
        assert not needed_by_the_demo() - set(content.namelist())


def test_whose_text_the_models_learnt_is_said_beside_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        (notice,) = (
            name
            for name in content.namelist()
            if name.endswith("licenses/NOTICE.md")
            or name.endswith("licenses/ray_unlearn/demo/data/NOTICE.md")
        )
        assert "models" in content.read(notice).decode()

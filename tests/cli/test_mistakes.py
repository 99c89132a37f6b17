"""Mistakes that people make, in study, data, model, command and place: each is refused before a
lane starts, with the place and what to do; and a refused start leaves its place free."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import command_mistakes
import data_mistakes
import model_mistakes
import pytest
import ray
import study_mistakes
import yaml_mistakes
from mistake import Mistake, Workplace, workplace

from ray_unlearn.execution import study as running
from ray_unlearn.execution.conductor import HubGone
from ray_unlearn.spec.errors import UserError
from ray_unlearn.unlearn import workspace

MISTAKES = [
    *yaml_mistakes.MISTAKES,
    *study_mistakes.MISTAKES,
    *data_mistakes.MISTAKES,
    *model_mistakes.MISTAKES,
    *command_mistakes.MISTAKES,
]


class LaneWouldStart(Exception):
    """The checks have let a mistake pass."""


def _stop(*given: object) -> None:
    raise LaneWouldStart


@pytest.fixture(autouse=True)
def no_lane(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What passes all checks ends the test before Ray is started for it."""
    before = ray.is_initialized()
    monkeypatch.setattr(running, "connected", _stop)
    monkeypatch.setattr(ray, "init", _stop)
    yield
    assert ray.is_initialized() == before


@pytest.fixture
def place(
    tmp_path: Path, text_files: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> Workplace:
    monkeypatch.chdir(tmp_path)
    return workplace(tmp_path, text_files, tiny_model)


def test_there_are_two_hundred_of_them_and_each_is_another() -> None:
    assert len({one.wrong for one in MISTAKES}) == len(MISTAKES) >= 200


@pytest.mark.parametrize("mistake", MISTAKES, ids=[one.wrong for one in MISTAKES])
def test_it_is_refused_with_its_place_and_what_to_do(
    mistake: Mistake, cli, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not mistake.loads:
        monkeypatch.setattr(workspace, "load_model", _stop)
    mistake.change(place)
    place.write()
    code, out, err = cli(*mistake.command)
    said = " ".join((out + err).replace("│", " ").split())
    assert code in (2, 4), said
    assert "Traceback" not in said
    for words in mistake.words:
        assert words in said


def test_without_a_mistake_lanes_would_start(cli, place: Workplace) -> None:
    """Otherwise the tests above would show nothing."""
    place.write()
    with pytest.raises(LaneWouldStart):
        cli("run", "study.yaml")


@pytest.mark.parametrize(
    ("name", "changed"),
    [("study file", "serch: {}\n"), ("model", ""), ("documents", "")],
)
def test_what_needs_no_model_is_told_before_torch_and_ray_are_imported(
    place: Workplace, name: str, changed: str
) -> None:
    """Their import takes as long as all checks together."""
    if name == "model":
        (place.model / "config.json").unlink()
    if name == "documents":
        place.data().write_text("{")
    place.text = lambda text: text + changed
    place.write()
    command = [sys.executable, "-X", "importtime", "-m", "ray_unlearn", "run", "study.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "ray_unlearn.spec.study_file" in imported
    assert not imported & {"torch", "ray", "transformers"}


def _fails(error: Exception):
    @contextlib.contextmanager
    def connected(*given: object) -> Iterator[None]:
        raise error
        yield

    return connected


@pytest.mark.parametrize("was_there", [False, True])
def test_a_start_that_is_refused_leaves_its_place_free(
    cli, place: Workplace, monkeypatch: pytest.MonkeyPatch, was_there: bool
) -> None:
    """The corrected file met "holds a study already", and `resume` failed as before."""
    place.write()
    study = place.folder / "new"
    if was_there:
        study.mkdir()
    monkeypatch.setattr(running, "connected", _fails(UserError("no node has room")))
    code, _, err = cli("run", "study.yaml", "--storage", "new")
    assert (code, "no node has room" in err) == (2, True)
    assert study.exists() == was_there
    assert not was_there or not list(study.iterdir())
    monkeypatch.setattr(running, "connected", _stop)
    with pytest.raises(LaneWouldStart):
        cli("run", "study.yaml", "--storage", "new")


def test_a_start_that_the_machine_ended_can_be_resumed(
    cli, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write()
    gone = HubGone("the hub actor died; go on with `ray-unlearn resume`")
    monkeypatch.setattr(running, "connected", _fails(gone))
    assert cli("run", "study.yaml", "--storage", "new")[0] == 2
    assert (place.folder / "new/ledger/events.jsonl").is_file()
    monkeypatch.setattr(running, "connected", _stop)
    with pytest.raises(LaneWouldStart):
        cli("resume", "new")

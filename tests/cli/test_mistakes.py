"""A hundred mistakes that people make: each is refused before a lane starts."""

import os
from pathlib import Path

import command_mistakes
import data_mistakes
import model_mistakes
import pytest
import ray
import study_mistakes
from mistake import Mistake, workplace

from ray_unlearn.execution import study as running

MISTAKES = [
    *study_mistakes.MISTAKES,
    *data_mistakes.MISTAKES,
    *model_mistakes.MISTAKES,
    *command_mistakes.MISTAKES,
]


class LaneWouldStart(Exception):
    """The checks have let a mistake pass."""


@pytest.fixture(autouse=True)
def no_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake that passes all checks ends the test, before Ray is started for it."""

    def stop(*given: object) -> None:
        raise LaneWouldStart

    monkeypatch.setattr(running, "connected", stop)
    monkeypatch.setattr(ray, "init", stop)


@pytest.mark.parametrize("mistake", MISTAKES, ids=[one.wrong for one in MISTAKES])
def test_it_is_refused_with_its_place_and_what_to_do(
    mistake: Mistake, cli, tmp_path: Path, text_files: Path, tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = workplace(tmp_path, text_files, tiny_model)
    mistake.change(place)
    place.write()
    monkeypatch.chdir(tmp_path)
    import time
    began = time.perf_counter()
    try:
        code, out, err = cli(*mistake.command)
    except BaseException as e:
        with open("/tmp/mistakes.log", "a") as f:
            f.write(f"!!! {mistake.wrong}: {type(e).__name__} {str(e)[:200]}\n")
        raise
    with open("/tmp/mistakes.log", "a") as f:
        lost = [w for w in mistake.words if w not in out + err]
        f.write(f"{'--- ' if lost else 'ok  '}{mistake.wrong} [{code}] {time.perf_counter() - began:.2f} lost={lost}\n    " + (err[-600:] + out[-300:]).replace(str(tmp_path), "DIR").replace("\n", "\n    ") + "\n")
    assert code in (2, 4), err
    said = out + err
    assert "Traceback" not in said
    for words in mistake.words:
        assert words in said

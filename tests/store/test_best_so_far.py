"""The picture of the best score so far. If these fail, somebody sees a search that goes better, or
worse, than it does."""

import io
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ledgers import interleaved, spec, written
from rich.console import Console

from ray_unlearn.execution.notebook_display import NotebookDisplay
from ray_unlearn.execution.progress import Progress
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.best_so_far import BestSoFar, Improvement, best_so_far
from ray_unlearn.store.event import Header
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import Row
from ray_unlearn.store.score import ScoreRule
from ray_unlearn.store.score_picture import course_line, score_blocks, score_svg
from ray_unlearn.store.status import status

SETS = ("retain", "general")


def model_row(forget: float, kept: float, approximate: float = 4.0) -> Row:
    """NLLs of a model: on the forget set, on what is to be kept, on the approximate set."""
    halves = ("selection", "reporting")
    row: dict[str, Any] = {"forget_nll": forget}
    row |= {f"approximate_nll_{half}": approximate for half in halves}
    return row | {f"{name}_nll_{half}": kept for name in SETS for half in halves}


VANILLA, RETRAINED = model_row(2.0, 1.0), model_row(3.7, 1.1)


def course(scores: list[float | None], **baselines: Row) -> BestSoFar:
    """Of trials with these scores, each of 3 s on one worker."""
    record = Record(Header(spec=spec().model_dump(mode="json")), dict(baselines))
    ended = {}
    for number, score in enumerate(scores):
        config = TrialConfig(
            method="gradient_ascent", learning_rate=1e-3, steps=4, evaluate_at=(1, 4), context="c"
        ).model_dump(mode="json")
        row = {"update": 4, "score_selection": score, "wall_s": 2.0, "evaluation_wall_s": 1.0}
        trial = Trial(number, "x", config, [row], "complete" if score else "failed")
        ended[number] = (trial, row if score else None)
    return best_so_far(ended, ScoreRule.of(record, spec()))


def test_the_course_by_hand() -> None:
    found = course([None, 1.5, 1.8, 0.5, 0.7], vanilla=VANILLA, exact_retrain=RETRAINED)
    assert [(one.trials, one.worker_s, one.score) for one in found.improvements] == [
        (2, 6.0, 1.5),
        (4, 12.0, 0.5),
    ]
    assert (found.trials, found.worker_s, found.score) == (5, 15.0, 0.5)
    assert found.vanilla == 2.0, "its distance to the target; it has lost nothing"
    target = scored(RETRAINED, Baselines(VANILLA))["score_selection"]
    assert found.target == target == pytest.approx(0.3 + 0.1)
    assert found.target_is == "the exactly retrained model"
    assert [found.at(n) for n in (0, 1, 2, 3, 4)] == [2.0, 2.0, 1.5, 1.5, 0.5]


def test_without_a_retrained_model_the_target_is_a_score_of_zero() -> None:
    found = course([1.5], vanilla=VANILLA)
    assert (found.target, found.target_is) == (0.0, "target met, nothing lost")
    assert course([1.5]).vanilla is None, "not measured yet"


def test_blocks_fall_as_the_score_does_and_leave_room_for_what_is_to_come() -> None:
    found = course([1.5, 1.8, 0.4, 0.4], vanilla=VANILLA, exact_retrain=RETRAINED)
    assert score_blocks(found, 8) == "▆▆▁▁····"
    assert score_blocks(found, None) == "▆▆▁▁"
    assert score_blocks(found, 800, columns=4) == "▁···", "a column holds many trials"
    assert course_line(found, 8) == (
        "best so far   2 (vanilla) ▆▆▁▁···· 0.4   target 0.4: the exactly retrained model"
    )
    assert course_line(course([None], vanilla=VANILLA), 8) == ""


def test_the_svg_has_the_steps_at_their_trials() -> None:
    found = course([1.5, 1.8, 0.4, 0.4], vanilla=VANILLA, exact_retrain=RETRAINED)
    root = ET.fromstring(score_svg(found, 4))
    name = "{http://www.w3.org/2000/svg}"
    paths = [path.get("d") or "" for path in root.iter(f"{name}path")]
    (line,) = [path for path in paths if "V" in path]
    left, right = 70.0, 624.0
    quarter = (right - left) / 4
    assert line.startswith(f"M{left:.1f} ")
    assert [float(step.split("V")[0]) for step in line.split("H")[1:]] == [
        pytest.approx(left + quarter, abs=0.1), pytest.approx(left + 3 * quarter, abs=0.1), right,
    ]  # fmt: skip
    words = {text.text for text in root.iter(f"{name}text")}
    assert {"vanilla", "target: the exactly retrained model", "2", "0.4", "4 trials"} == words - {
        "0"
    }
    assert score_svg(course([None]), 4) == ""


def test_scores_that_do_not_differ_are_drawn_too() -> None:
    flat = BestSoFar([Improvement(1, 0.0, 0.0, 0, "m")], 1, 0.0, None, 0.0, "goal")
    assert score_blocks(flat, 2) == "▁·"
    assert "NaN" not in score_svg(flat, 2)


def test_status_terminal_and_notebook_have_one_course(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = written(tmp_path / "s", interleaved())
    found = status(study)
    assert [(one.trials, one.number) for one in found.course.improvements] == [
        (1, 0), (3, 2),
    ]  # fmt: skip
    from ray_unlearn.store.ledger import read_ledger

    record = read_ledger(study / "ledger")
    console = Console(file=io.StringIO(), width=120, force_jupyter=False)
    progress = Progress(spec(), record, 4, console)
    console.print(progress._render())
    assert course_line(found.course, 4) in console.file.getvalue()  # type: ignore[attr-defined]
    shown: list[dict[str, str]] = []
    handle = SimpleNamespace(update=lambda bundle, raw: shown.append(bundle))
    display = NotebookDisplay(progress._render, progress._picture)
    monkeypatch.setattr(display, "_handle", handle)
    display.stop()
    assert shown[0]["text/html"].endswith(score_svg(found.course, 4))

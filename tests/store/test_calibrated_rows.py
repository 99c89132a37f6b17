"""Two rows of one update, as trained and at another strength: neither may be taken for the other,
and old studies have only the first kind."""

from pathlib import Path
from typing import Any

import pytest
from ledgers import EVALUATE_AT, outcome_event, row_event, spec, start, trial_event

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.strict import validated
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event import BestWeightsKept, Event, Header, RowMeasured
from ray_unlearn.store.files import best_file, kept_weights
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.record import Record
from ray_unlearn.store.repair import repair
from ray_unlearn.store.scan import events_file
from ray_unlearn.store.score import ScoreRule
from ray_unlearn.store.storage import FolderStorage
from ray_unlearn.store.table import result_table
from ray_unlearn.store.verify import verify

TARGET = 3.0
VANILLA = {"forget_nll": 2.0, "approximate_nll_selection": TARGET}


def study(strength: str = "both", **objective: Any) -> StudySpec:
    content = spec().model_dump(mode="json")
    content["evaluation"]["strength"] = strength
    content["objective"] |= objective
    return validated(StudySpec, content, "test")


def calibrated(number: int, update: int, score: float, strength: float = 0.5) -> RowMeasured:
    metrics = {
        "update": update,
        "strength": strength,
        "score_selection": score,
        "forget_nll": 3.001,
        "grad_norm": 0.0,
    }
    return RowMeasured(number=number, attempt=0, update=update, metrics=metrics)


def trial_events(*mixed: RowMeasured, number: int = 0) -> list[Event]:
    rows = [row_event(number, update) for update in EVALUATE_AT]
    events = sorted([*rows, *mixed], key=lambda event: event.update)
    return [trial_event(number), *events, outcome_event(number)]


def written(folder: Path, events: list[Event], wanted: StudySpec | None = None) -> Path:
    header = Header(spec=(wanted or study()).model_dump(mode="json"), domain="test", context="c")
    with Ledger.create(folder / "ledger", header) as ledger:
        for event in [*start(1), *events]:
            ledger.append(event)
    return folder


def rule_of(record: Record, wanted: StudySpec) -> ScoreRule:
    return ScoreRule(wanted, {"vanilla": VANILLA})


def test_both_rows_of_an_update_are_kept_and_read_again(tmp_path: Path) -> None:
    folder = written(tmp_path / "study", trial_events(calibrated(0, 2, 0.1)))
    rows = read_ledger(folder / "ledger").trials[0].rows
    assert [(row["update"], row["strength"]) for row in rows] == [
        (1, 1.0),
        (2, 1.0),
        (2, 0.5),
        (4, 1.0),
    ]
    assert verify(folder).problems == []
    table = result_table(read_ledger(folder / "ledger")).to_pydict()
    assert table["update"] == [1, 2, 2, 4]
    assert table["strength"] == [1.0, 0.5, 1.0, 1.0]
    assert table["scored"] == [False, True, False, False]
    assert table["candidate"] == [True] * 4


def test_lines_of_before_strength_was_a_choice_are_as_trained_and_written_as_they_were(
    tmp_path: Path,
) -> None:
    """A study without calibration leaves the same bytes as before in rows of hand-made metrics and
    in its word of kept weights."""
    folder = written(tmp_path / "study", trial_events(), study("trained"))
    lines = events_file(folder / "ledger").read_bytes().splitlines()
    assert not any(b'"row"' in line and b"strength" in line for line in lines)
    record = read_ledger(folder / "ledger")
    assert [row["strength"] for row in record.trials[0].rows] == [1.0, 1.0, 1.0]
    assert result_table(record).to_pydict()["strength"] == [1.0, 1.0, 1.0]
    assert "strength" not in study("trained").decisive()["evaluation"]
    assert study("both").decisive()["evaluation"]["strength"] == "both"


def test_which_rows_can_score_a_trial_follows_from_the_study(tmp_path: Path) -> None:
    """As trained its best row is update 4 (score 0.2); calibrated, update 2 (score 0.1)."""
    folder = written(tmp_path / "study", trial_events(calibrated(0, 2, 0.1)))
    record = read_ledger(folder / "ledger")
    trial = record.trials[0]
    found = {
        "both": rule_of(record, study("both")).row(trial),
        "target": rule_of(record, study("target")).row(trial),
        "stop_rule": rule_of(record, study("both", score_rule="stop_rule")).row(trial),
    }
    assert {name: (row["update"], row["strength"]) for name, row in found.items() if row} == {
        "both": (2, 0.5),
        "target": (2, 0.5),
        "stop_rule": (1, 1.0),
    }


def test_a_trained_row_on_the_target_counts_as_calibrated(tmp_path: Path) -> None:
    """It has no second row; its forget NLL, 3.0, is the target."""
    folder = written(tmp_path / "study", trial_events())
    record = read_ledger(folder / "ledger")
    row = rule_of(record, study("target")).row(record.trials[0])
    assert row is not None
    assert row["update"] == 4
    away = ScoreRule(study("target"), {"vanilla": VANILLA | {"approximate_nll_selection": 3.1}})
    assert away.row(record.trials[0]) is None


def test_weights_of_one_row_are_not_taken_for_those_of_the_other(tmp_path: Path) -> None:
    names = [best_file(7, 48), best_file(7, 48, 0.875)]
    assert names == [
        "trials/best/0007-48.safetensors",
        "trials/best/0007-48-at-0.875.safetensors",
    ]
    storage = FolderStorage(tmp_path)
    record = Record(Header())
    path = storage.path(names[1])
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    from ray_unlearn.store.storage import file_sha256

    record.best_weights = BestWeightsKept(
        number=7, update=48, strength=0.875, file=names[1], sha256=file_sha256(path), bytes=7
    )
    assert kept_weights(storage, record, 7, 48, 0.875) == names[1]
    assert kept_weights(storage, record, 7, 48) is None


def test_kept_weights_of_a_row_that_is_not_there_are_noticed(tmp_path: Path) -> None:
    name = best_file(0, 2, 0.25)
    kept = BestWeightsKept(number=0, update=2, strength=0.25, file=name, sha256="x", bytes=1)
    folder = written(tmp_path / "study", [*trial_events(calibrated(0, 2, 0.1)), kept])
    assert any("of which there is no row" in problem for problem in verify(folder).problems)


def test_a_calibrated_row_twice_or_alone_is_a_problem(tmp_path: Path) -> None:
    twice = trial_events(calibrated(0, 2, 0.1), calibrated(0, 2, 0.3))
    assert any("twice" in p for p in verify(written(tmp_path / "twice", twice)).problems)
    alone = [event for event in trial_events(calibrated(0, 2, 0.1)) if event != row_event(0, 2)]
    problems = verify(written(tmp_path / "alone", alone)).problems
    assert any("no rows as trained of updates 2" in problem for problem in problems)
    assert any("complete without its rows of updates 2" in problem for problem in problems)


def test_a_complete_trial_that_may_have_lost_a_calibrated_row_runs_again(tmp_path: Path) -> None:
    """Its configuration does not say that there was one."""
    for strength, reopened in (("both", True), ("trained", False)):
        mixed = [calibrated(0, 2, 0.1)]
        folder = written(tmp_path / strength, trial_events(*mixed), study(strength))
        path = events_file(folder / "ledger")
        lines = path.read_bytes().splitlines(keepends=True)
        [lost] = [line for line in lines if b'"strength": 0.5' in line]
        path.write_bytes(b"".join(line for line in lines if line != lost))
        repair(folder)
        trial = read_ledger(folder / "ledger").trials[0]
        assert (trial.status is None) == reopened
        assert [row["update"] for row in trial.rows] == [1, 2, 4]


@pytest.mark.parametrize(
    ("strength", "search", "objective", "why"),
    [
        ("both", {"scheduler": {"type": "past_best"}}, {}, "past_best"),
        ("target", {}, {"score_rule": "stop_rule"}, "stop_rule"),
        ("target", {"scheduler": {"type": "median"}}, {}, "compares trials as trained"),
        ("target", {"scheduler": {"type": "asha"}}, {}, "may have no row that counts"),
    ],
)
def test_studies_that_would_not_mean_what_they_say_are_refused(
    strength: str, search: dict[str, Any], objective: dict[str, Any], why: str
) -> None:
    content = spec().model_dump(mode="json")
    content["evaluation"]["strength"] = strength
    content["search"] |= search
    content["objective"] |= objective
    with pytest.raises(UserError, match=why):
        validated(StudySpec, content, "test")

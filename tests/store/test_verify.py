"""Each planted damage is named; a sound study is called sound."""

import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ledgers import (
    finished,
    interleaved,
    lines_of,
    outcome_event,
    row_event,
    safetensors,
    spec,
    start,
    trial_event,
    whole_trial,
    written,
)

from ray_unlearn.cli.main import main
from ray_unlearn.spec.errors import UserError
from ray_unlearn.store.best_weights import safetensors_fault
from ray_unlearn.store.event import (
    BestWeightsGone,
    BestWeightsKept,
    Event,
    Header,
    StudyExtended,
    TrialReopened,
)
from ray_unlearn.store.event_line import encoded
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.scan import events_file, header_file
from ray_unlearn.store.table import result_table, write_table
from ray_unlearn.store.verify import verify

BEST = "trials/best/0002-4.safetensors"


def test_a_finished_study_is_clean(tmp_path: Path) -> None:
    study = finished(tmp_path / "s")
    write_table(result_table(read_ledger(study / "ledger")), study / "ledger" / "rows.parquet")
    found = verify(study)
    assert found.problems == []
    assert (found.complete, found.trials, found.asked_for, found.rows) == (True, 3, 3, 7)
    assert (found.unfinished, found.running) == ([], "")


def test_an_unfinished_study_is_clean_so_far(tmp_path: Path) -> None:
    study = written(tmp_path / "s", interleaved())
    for name in ("last.pt", "last-6.rank0of2.pt", "last-6.rank1of2.pt"):
        left(f"trials/0003/{name}")(study)
    found = verify(study)
    assert (found.problems, found.complete, found.unfinished) == ([], False, [3])


def test_no_study_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no study there"):
        verify(tmp_path)


def test_beside_a_running_study_nothing_of_its_work_is_a_problem(tmp_path: Path) -> None:
    study = finished(tmp_path / "s")
    (study / "trials" / "best" / "0002-4.safetensors.tmp").touch()
    (study / BEST).unlink()  # better weights took its place since the ledger was read
    with Ledger.open(study / "ledger"):
        found = verify(study)
        assert found.problems == []
        assert found.running == f"process {os.getpid()} on host {socket.gethostname()}"
    assert verify(study).running == ""


def test_another_host_is_running_it_for_as_long_as_its_lease_is_young(tmp_path: Path) -> None:
    study = finished(tmp_path / "s")
    lease = study / "ledger" / "lease.json"
    lease.write_text(
        json.dumps({"token": 9, "host": "elsewhere", "pid": 3, "started": 0.0, "released": False})
    )
    assert verify(study).running == "process 3 on host elsewhere"
    os.utime(lease, (time.time() - 600, time.time() - 600))
    assert verify(study).running == ""


def put(study: Path, lines: list[bytes]) -> None:
    events_file(study / "ledger").write_bytes(b"".join(lines))


def damaged_line(study: Path) -> None:
    lines = lines_of(study)
    put(study, [*lines[:4], lines[4].replace(b"0.", b"1.", 1), *lines[5:]])


def damaged_header(study: Path) -> None:
    lines = lines_of(study)
    put(study, [lines[0].replace(b"test", b"tent", 1), *lines[1:]])


def damaged_header_and_copy(study: Path) -> None:
    damaged_header(study)
    header_file(study / "ledger").write_bytes(b"nothing")


def deleted_line(study: Path) -> None:
    put(study, [line for i, line in enumerate(lines_of(study)) if i != 5])


def cut(study: Path) -> None:
    put(study, lines_of(study)[:-2])


def emptied(study: Path) -> None:
    put(study, [])


def appended(*events: Event) -> Callable[[Path], None]:
    def damage(study: Path) -> None:
        with Ledger.open(study / "ledger") as ledger:
            for event in events:
                ledger.append(event)

    return damage


def table_of_fewer_rows(study: Path) -> None:
    write_table(
        result_table(read_ledger(study / "ledger")).slice(1), study / "ledger" / "rows.parquet"
    )


def table_with(study: Path, name: str, values: list[Any]) -> None:
    table = result_table(read_ledger(study / "ledger"))
    column = [*values, *table[name].to_pylist()[len(values) :]]
    changed = table.set_column(table.column_names.index(name), name, [column])
    write_table(changed, study / "ledger" / "rows.parquet")


def table_without_a_number(study: Path) -> None:
    table_with(study, "number", [None])


def table_of_another_type(study: Path) -> None:
    rows = sum(len(trial.rows) for trial in read_ledger(study / "ledger").trials.values())
    table_with(study, "flops", [[1.0]] * rows)


def table_of_other_values(study: Path) -> None:
    """One number that the ledger does not have, as a byte that changed on disk once made it."""
    table = result_table(read_ledger(study / "ledger"))
    at = table.column_names.index("grad_norm")
    values = [9.83, *table["grad_norm"].to_pylist()[1:]]
    changed = table.set_column(at, table.schema.field(at), [values])
    write_table(changed, study / "ledger" / "rows.parquet")


def header_copy_of_another_study(study: Path) -> None:
    header = header_file(study / "ledger")
    header.write_bytes(encoded(Header(domain="other"), seq=0, fence=1))


def study_file_of_another_study(study: Path) -> None:
    content = spec().model_dump(mode="json") | {"methods": ["gradient_ascent"]}
    content["search"]["seed"] = 7
    (study / "study.yaml").write_text(yaml.safe_dump(content))


def study_file_garbled(study: Path) -> None:
    (study / "study.yaml").write_text("{")


def late_word(study: Path) -> None:
    """A former best row's weights were announced after the best row's, and replaced them."""
    kept = read_ledger(study / "ledger").best_weights
    assert kept is not None
    content = (study / BEST).read_bytes()
    late = "trials/best/0000-4.safetensors"
    (study / late).write_bytes(content)
    (study / BEST).unlink()
    appended(replace(kept, number=0, file=late))(study)


def table_unreadable(study: Path) -> None:
    (study / "ledger" / "rows.parquet").write_bytes(b"no table")


def changed_weights(study: Path) -> None:
    path = study / BEST
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def shorter_weights(study: Path) -> None:
    path = study / BEST
    path.write_bytes(path.read_bytes()[:-1])


def no_weights(study: Path) -> None:
    (study / BEST).unlink()


def left(name: str) -> Callable[[Path], None]:
    def damage(study: Path) -> None:
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).touch()

    return damage


COPY_OF_0 = replace(trial_event(0), number=3)
RENAMED = replace(trial_event(3), trial_id="0123456789ab")
INVALID = replace(trial_event(3), config=trial_event(3).config | {"steps": 0})
SIXTH = [event for n in (3, 4, 5) for event in whole_trial(n)]
NO_ROW = BestWeightsKept(number=2, update=3, file=BEST, bytes=1, sha256="x")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (
            damaged_line,
            ["I1: events.jsonl: damaged lines 5;", "I1: events.jsonl: events 4 are missing"],
        ),
        (damaged_header, ["I1: .*header line is damaged"]),
        (
            damaged_header_and_copy,
            ["I1: .*header line is damaged", "I1: .*copy of the header is missing or damaged"],
        ),
        (
            deleted_line,
            [
                "I1: events.jsonl: events 5 are missing",
                "I1: trial 0 is complete without .* updates 2",
            ],
        ),
        (cut, ["I1: events.jsonl: events 15 to 16 had been acknowledged"]),
        (emptied, ["I1: .*empty; events 0 to 16 had been acknowledged"]),
        (appended(row_event(0, 2)), ["I1: trial 0 has the row of update 2 twice"]),
        (appended(row_event(1, 2)), ["I2: trial 1 has a row of update 2 after its outcome"]),
        (appended(row_event(1, 3)), ["I1: trial 1 has rows of updates 3, never asked for"]),
        (appended(outcome_event(0, "failed")), ["I2: trial 0 ended twice, complete and failed"]),
        (appended(COPY_OF_0), ["I4: trials 0, 3 are one and the same"]),
        (appended(RENAMED), ["I4: trial 3 is called '0123456789ab'"]),
        (appended(INVALID), ["I4: trial 3: configuration: "]),
        (appended(trial_event(4)), ["I4: trials 3 are missing between others"]),
        (appended(trial_event(2)), ["I4: trial 2 was begun twice"]),
        (appended(*SIXTH), ["I4: 6 trials of gradient_ascent, asked for were 5"]),
        (
            appended(StudyExtended(trials_per_method=2)),
            ["I4: 3 trials of gradient_ascent, asked for were 2"],
        ),
        (table_of_fewer_rows, ["I1: rows.parquet: has another number of rows .* for trials 0;"]),
        (table_without_a_number, ["I1: rows.parquet: has rows without the number of a trial"]),
        (table_of_another_type, ["I1: rows.parquet: has other values .* in flops;"]),
        (table_unreadable, ["I1: rows.parquet: cannot be read"]),
        (table_of_other_values, ["I1: rows.parquet: has other values .* in grad_norm;"]),
        (header_copy_of_another_study, ["I1: header.json: is no copy"]),
        (study_file_of_another_study, ["I4: study.yaml: describes another study.*search.seed"]),
        (study_file_garbled, ["I4: study.yaml: "]),
        (
            late_word,
            [r"I5: .*0000-4.*weights of trial 0 \(\w+\), update 4.*best row is that of trial 2 \("],
        ),
        (changed_weights, ["I5: .*its sha256 differs"]),
        (shorter_weights, ["I5: .*bytes instead of"]),
        (no_weights, ["I5: .*are gone"]),
        (appended(NO_ROW), ["I5: .*weights of trial 2, update 3, of which there is no row"]),
        (appended(replace(NO_ROW, file="../x")), ["I5: ../x: is outside"]),
        (left("trials/0001/last.pt"), ["I6: trials/0001/last.pt"]),
        (left("trials/0077/last.pt"), ["I6: trials/0077/last.pt"]),
        (left("trials/0001/last-6.rank0of2.pt"), ["I6: trials/0001/last-6.rank0of2.pt"]),
        (left("trials/0001/last.pt.tmp"), ["I6: trials/0001/last.pt.tmp"]),
        (left("optuna.journal.12.tmp"), ["I6: optuna.journal.12.tmp: left over"]),
        (left("ledger/lease.json.12.tmp"), ["I6: ledger/lease.json.12.tmp"]),
        (left("trials/best/0001-2.safetensors"), ["I6: trials/best/0001-2.safetensors"]),
    ],
)
def test_planted_damage_is_named(
    tmp_path: Path, damage: Callable[[Path], None], named: list[str]
) -> None:
    study = finished(tmp_path / "s")
    damage(study)
    problems = verify(study).problems
    for pattern in named:
        assert any(re.search(pattern, problem) for problem in problems), problems
    assert all(re.match(r"I[1-6]: ", problem) for problem in problems)


def test_weights_of_a_row_that_was_the_best_when_they_were_kept_are_sound(tmp_path: Path) -> None:
    """The better trial ran out of memory later, or its weights did not fit on the disk."""
    kept = BestWeightsKept(number=0, update=1, file="a", sha256="x", bytes=1)
    better = replace(kept, number=2, update=4)
    trials = [*whole_trial(0), *whole_trial(2)[:-1]]
    for number, (events, end) in enumerate(
        (
            ([kept, better], outcome_event(2, "out_of_memory")),
            ([kept], outcome_event(2)),
            ([better, BestWeightsGone(2, 4), kept], outcome_event(2)),
        )
    ):
        study = written(tmp_path / str(number), [*start(2), *trials, *events, end])
        assert not any("best row" in problem for problem in verify(study).problems)


def test_more_trials_in_the_study_file_are_no_damage(tmp_path: Path) -> None:
    study = finished(tmp_path / "s")
    content = spec().model_dump(mode="json")
    content["search"]["trials_per_method"] = 9
    (study / "study.yaml").write_text(yaml.safe_dump(content))
    assert verify(study).problems == []


def test_a_reopened_trial_may_end_again(tmp_path: Path) -> None:
    study = written(tmp_path / "s", [*start(1), *whole_trial(0, "pruned")])
    appended(
        TrialReopened(number=0, reason="x"),
        row_event(0, 2),
        row_event(0, 4),
        outcome_event(0),
    )(study)
    found = verify(study)
    assert (found.problems, found.complete) == ([], True)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (safetensors(b"abc"), ""),
        (safetensors(b""), ""),
        (safetensors(b"abc", end=2), "do not end with the file"),
        (safetensors(b"abc", end=4), "outside the file"),
        (b"abc", "does not fit"),
        ((99).to_bytes(8, "little"), "does not fit"),
        ((2).to_bytes(8, "little") + b"[]", "cannot be read"),
    ],
)
def test_layout_of_safetensors(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    found = safetensors_fault(path)
    assert fault in found
    assert bool(fault) == bool(found)


def test_what_the_command_says_and_how_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def called(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["ray-unlearn", "verify", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().out

    study = finished(tmp_path / "s")
    assert called(study) == (0, "clean: 3 trials, 7 rows, all finished\n")
    deleted_line(study)
    code, out = called(study, "--json")
    assert (code, len(json.loads(out)["problems"])) == (4, 2)
    code, out = called(study, "--repair")
    assert code == 0
    assert "trial 0 runs again" in out
    assert (
        f"clean so far: 3 of 3 trials, 6 rows, 1 unfinished: resume with ray-unlearn resume {study}"
        in out
    )

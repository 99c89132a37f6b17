"""`status` and `status --watch`. If these fail, somebody looks at a study and sees another one than
there is."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ledgers import (
    interleaved,
    outcome_event,
    row_event,
    spec,
    start,
    trial_event,
    whole_trial,
    written,
)
from object_store import BUCKET, object_store
from rich.console import Console

from ray_unlearn.cli import watch as watching
from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.store import follow
from ray_unlearn.store.event import Header, Note, TrialReopened
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.live import LIVE_FILE, Live, age_s, in_words, read_live, sign_of_life
from ray_unlearn.store.location import copied, opened
from ray_unlearn.store.scan import events_file
from ray_unlearn.store.status import Follower, Status, status

LANE: dict[str, Any] = {
    "index": 0, "state": "busy", "trial": 3, "node": "10.0.0.1", "pids": [7], "busy_s": 30.0,
    "up_s": 40.0, "restarts": 1, "waiting_for": None,
}  # fmt: skip
LIVE = Live(
    study="test", running=True, time="2026-01-01T00:00:00.000+00:00",
    started="2026-01-01T00:00:00.000+00:00", host="node-7", pid=42, asked_for=4,
    outcomes={"complete": 2}, trials_running=1, rows=8, updates=9,
    tokens={"forget": 90, "retain": 10}, updates_per_s=0.25, tokens_per_s=1234.0,
    best={"gradient_ascent": 0.1},
    lanes=[LANE, LANE | {"index": 1, "state": "pending", "trial": None, "waiting_for": "1 GPU"}],
    queued=2, utilisation=0.75, eta_s=90.0, events=20,
)  # fmt: skip


class Clock(Environment):
    """Seconds that pass when the test says so."""

    seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Each time that a ledger is read from its start."""
    times: list[Path] = []

    def counted(folder: Path) -> Any:
        times.append(folder)
        return scanned(folder)

    scanned = follow.scanned
    monkeypatch.setattr(follow, "scanned", counted)
    return times


def told(found: Status) -> str:
    """What it says of the study, to compare: NaN equals NaN here."""
    return json.dumps({**found.as_json(), "folder": "", "problem": ""})


def at(seconds_ago: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat(timespec="milliseconds")


def test_counts_and_bests_by_hand(tmp_path: Path) -> None:
    found = status(written(tmp_path / "s", interleaved()))
    outcomes = {name: count for name, count in found.outcomes.items() if count}
    assert (outcomes, found.finished, found.unfinished, found.rows) == (
        {"complete": 2, "pruned": 1},
        3,
        1,
        8,
    )
    assert found.asked_for == 4, "from the session"
    best = found.best[0]
    assert (best.method, best.number, best.update, best.score) == ("gradient_ascent", 2, 4, 1 / 7)
    assert (found.driver, found.live, found.over) == ("unknown", None, False)


def test_no_study(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no study there"):
        status(tmp_path)


def test_each_look_sees_what_a_fresh_one_sees_and_reads_only_what_is_new(
    tmp_path: Path, scans: list[Path]
) -> None:
    events = interleaved()
    header = Header(spec=spec().model_dump(mode="json"), domain="test", context="c")
    with Ledger.create(tmp_path / "ledger", header) as ledger:
        follower = Follower(tmp_path)
        seen = [follower.poll()]
        for event in [*events, Note(text="lane 0 restarts")]:
            ledger.append(event)
            seen.append(follower.poll())
            assert len(scans) == 1
            assert told(seen[-1]) == told(status(tmp_path))
            scans.pop()
    assert [found.finished for found in seen[-4:]] == [2, 2, 3, 3]
    assert seen[-1].notes == ["lane 0 restarts"]
    row = follower._record.trials[0].rows[-1] if follower._record else {}
    assert row["grad_norm"] == pytest.approx(0.4), (
        "a column that is not at hand is read from its place in the file"
    )


def test_a_line_in_the_middle_of_being_written_waits(tmp_path: Path, scans: list[Path]) -> None:
    study = written(tmp_path / "s", [*start(1), trial_event(0)])
    path = events_file(study / "ledger")
    before = path.read_bytes()
    with Ledger.open(study / "ledger") as ledger:  # a second writer, so lines of another token
        ledger.append(row_event(0, 1))
        ledger.append(row_event(0, 2))
    whole = path.read_bytes()
    follower = Follower(study)
    second = whole.index(b"\n", len(before)) + 1
    rows = []
    for end in (second, second + 1, len(whole) - 1, len(whole)):
        path.write_bytes(whole[:end])
        rows.append(follower.poll().rows)
    assert rows == [1, 1, 1, 2]
    assert len(scans) == 1


def test_a_copy_downloaded_anew_is_not_read_anew(tmp_path: Path, scans: list[Path]) -> None:
    study = written(tmp_path / "s", [*start(2), *whole_trial(0)])
    path = events_file(study / "ledger")
    follower = Follower(study)
    assert follower.poll().finished == 1
    path.with_suffix(".new").write_bytes(path.read_bytes())
    os.replace(path.with_suffix(".new"), path)
    assert follower.poll().finished == 1
    assert len(scans) == 1


def test_a_new_writer_or_a_repaired_file_is_read_from_the_start(
    tmp_path: Path, scans: list[Path]
) -> None:
    study = written(tmp_path / "s", [*start(2), *whole_trial(0), *whole_trial(1)])
    path = events_file(study / "ledger")
    follower = Follower(study)
    assert follower.poll().finished == 2
    with Ledger.open(study / "ledger") as ledger:
        ledger.append(TrialReopened(number=1, reason="asked for"))
        assert follower.poll().finished == 1
        assert len(scans) == 2
        ledger.append(outcome_event(1))
        assert follower.poll().finished == 2
        ledger.append(TrialReopened(number=0, reason="asked for"))
        assert follower.poll().finished == 1, (
            "an outcome that does not count any more, without reading anew"
        )
        assert len(scans) == 2
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    assert (follower.poll().finished, follower.poll().unfinished) == (0, 1)
    assert len(scans) == 3


def test_what_cannot_be_read_just_now_is_a_problem_and_not_the_end(tmp_path: Path) -> None:
    study = written(tmp_path / "s", [*start(2), *whole_trial(0)])
    path = events_file(study / "ledger")
    failing: list[Exception] = []

    def refresh() -> None:
        if failing:
            raise failing[0]

    follower = Follower(study, refresh, name="s3://bucket/s")
    good, whole = follower.poll(), path.read_bytes()
    assert good.folder == "s3://bucket/s"
    failing.append(StorageError("s3://bucket: timed out"))
    assert told(follower.poll()) == told(good)
    assert follower.poll().problem == "s3://bucket: timed out"
    failing.clear()
    path.write_bytes(whole[:-4] + b'x"}\n')
    damaged = follower.poll()
    assert "damaged" in damaged.problem
    assert told(damaged) == told(good)
    path.write_bytes(whole)
    assert (told(follower.poll()), follower.poll().problem) == (told(good), "")
    failing.append(StorageError("s3://bucket: timed out"))
    with pytest.raises(StorageError, match="timed out"):
        Follower(study, refresh).poll()


def test_a_remote_study_is_followed_through_a_copy_that_is_refreshed(
    tmp_path: Path, scans: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    header = Header(spec=spec().model_dump(mode="json"), domain="test", context="c")
    with object_store() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        url = f"s3://{BUCKET}/{tmp_path.name}"
        with (
            opened(url) as place,
            place.create_ledger(header) as ledger,
            copied(url) as copy,
        ):
            assert not isinstance(copy, Path)
            follower, seen = Follower(copy.folder, copy.refresh, name=url), []
            for event in interleaved():
                ledger.append(event)
                replace(LIVE, time=at(0)).write(place.folder)
                place.publish(LIVE_FILE)
                seen.append(follower.poll())
            assert len(scans) == 1
            last = seen[-1]
            assert (last.finished, last.rows, last.driver) == (3, 8, "running")
            assert last.folder == url


def test_live_json_is_read_back_and_anything_else_is_none(tmp_path: Path) -> None:
    assert read_live(tmp_path) is None
    LIVE.write(tmp_path)
    assert read_live(tmp_path) == LIVE
    assert [p.name for p in tmp_path.iterdir()] == [LIVE_FILE]
    content = (tmp_path / LIVE_FILE).read_text()
    for other in (
        content[:50],
        "[]",
        content.replace('"schema_version": 1', '"schema_version": 2'),
        content.replace(LIVE.time, "yesterday"),
        content.replace(LIVE.time, "2026-11-29T10:00:00"),
        "{}",
    ):
        (tmp_path / LIVE_FILE).write_text(other)
        assert read_live(tmp_path) is None


def test_the_age_of_the_last_sign_tells_whether_the_driver_lives() -> None:
    written = datetime.fromisoformat(LIVE.time)
    assert age_s(LIVE, written + timedelta(seconds=7)) == 7
    assert age_s(LIVE, written - timedelta(seconds=7)) == 0, "its clock is ahead of ours"
    ended = replace(LIVE, running=False)
    assert [sign_of_life(LIVE, 59.9), sign_of_life(LIVE, 60.0), sign_of_life(ended, 999.0)] == [
        "running", "silent", "ended",
    ]  # fmt: skip
    assert sign_of_life(None, None) == "unknown"


def test_a_study_that_has_just_been_taken_is_starting_and_not_over(tmp_path: Path) -> None:
    """`status --watch` beside a `resume` that loads its data must not leave at once."""
    study = written(tmp_path / "s", interleaved())
    replace(LIVE, running=False, time=at(30)).write(study)
    assert status(study).over
    with Ledger.open(study / "ledger"):
        found = status(study)
        assert (found.driver, found.over) == ("starting", False)
        assert f"process {os.getpid()}" in found.starting
        assert f"starting on {found.starting}" in shown(found)
        here = replace(LIVE, time=at(0), pid=os.getpid(), host=REAL.host)
        here.write(study)
        assert status(study).driver == "running"
        replace(here, running=False, time=at(-1)).write(study)
        assert status(study).over, "it has ended, and is about to give the study back"
    assert status(study).over


def test_a_lease_of_a_process_that_died_starts_nothing(tmp_path: Path) -> None:
    study = written(tmp_path / "s", interleaved())
    lease = study / "ledger" / "lease.json"
    holder = json.loads(lease.read_text())
    lease.write_text(json.dumps(holder | {"released": False, "pid": 2**22 + 1}))
    assert status(study).starting == "", "no such process on this machine"
    lease.write_text(json.dumps(holder | {"released": False, "host": "elsewhere"}))
    assert status(study).starting == f"elsewhere (process {holder['pid']})"
    os.utime(lease, (0, 0))
    assert status(study).starting == "", "silent for too long"


def test_while_watching_a_driver_with_a_wrong_clock_is_alive_as_long_as_it_writes(
    tmp_path: Path,
) -> None:
    study, clock = written(tmp_path / "s", start(2)), Clock()
    follower = Follower(study, environment=clock)
    replace(LIVE, time=at(3600)).write(study)
    assert follower.poll().driver == "silent"
    clock.seconds += 5
    replace(LIVE, time=at(3595)).write(study)
    found = follower.poll()
    assert (found.driver, found.age_s) == ("running", 0)
    clock.seconds += 61
    found = follower.poll()
    assert (found.driver, found.age_s) == ("silent", 61)
    replace(LIVE, running=False, time=at(3500)).write(study)
    assert follower.poll().over


def test_durations_in_words() -> None:
    assert [in_words(s) for s in (0.4, 59.4, 60, 3599, 3600, 90061)] == [
        "0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "25 h 1 min",
    ]  # fmt: skip


class Script(Follower):
    """Gives these, one after another."""

    def __init__(self, looks: list[Status | type[BaseException]]) -> None:
        self.looks = looks

    def poll(self) -> Status:
        look = self.looks.pop(0)
        if isinstance(look, type):
            raise look
        return look


@pytest.fixture
def running(tmp_path: Path) -> Status:
    """The interleaved study as its driver has just seen it."""
    study = written(tmp_path / "s", [*interleaved(), Note(text="lane 1 restarts: killed")])
    replace(LIVE, time=at(2)).write(study)
    return status(study)


def test_without_a_terminal_each_change_is_a_line(
    running: Status, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watching.time, "sleep", lambda _: None)
    live = running.live
    assert live is not None
    older = replace(
        running,
        age_s=5.0,
        live=replace(live, eta_s=80.0, lanes=[LANE | {"busy_s": 33.0}, live.lanes[1]]),
    )
    moved = replace(running, live=replace(live, lanes=[LANE | {"trial": 4}, live.lanes[1]]))
    ended = replace(running, live=replace(live, running=False))
    looks: list[Any] = [running, older, running, moved, ended]
    for as_json in (True, False):
        watching.watch(Script([*looks]), 1.0, as_json, Console(file=io.StringIO()))
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 3, "seconds that pass are no change; a lane that has another trial is"
        if as_json:
            first, *_, last = [json.loads(text) for text in lines]
            assert (first["driver"], last["driver"]) == ("running", "ended")
            assert (
                first["finished"],
                first["asked_for"],
                first["live"]["lanes"][1]["waiting_for"],
            ) == (3, 4, "1 GPU")
            assert first["best"][0]["forget_ppl"] is None, "NaN is not JSON"
        else:
            assert (
                "3/4 trials: 2 complete, 1 pruned; 1 under way; 8 rows; "
                "best 0.1429 (gradient_ascent)" in lines[0]
            )
            assert "driver running, 1 busy, 1 pending; about 1 min" in lines[0]


def test_ctrl_c_leaves_in_silence(
    running: Status, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watching.time, "sleep", lambda _: None)
    watching.watch(Script([running, KeyboardInterrupt]), 1.0, as_json=True)
    assert len(capsys.readouterr().out.splitlines()) == 1


def shown(found: Status) -> str:
    console = Console(file=io.StringIO(), record=True, width=110)
    console.print(watching.view(found))
    return " ".join(console.export_text().split())


def test_the_view_says_all_there_is(running: Status) -> None:
    text = shown(running)
    for part in (
        "test: 3/4 trials", "about 1 min", "2 complete, 1 pruned; 1 under way; 8 evaluation rows",
        "running on node-7 (process 42), last sign of life",
        "lanes busy 75% of the time; 0.25 updates/s, 1,234 tokens/s",
        "0 busy 3 75% 40 s 1 10.0.0.1", "1 pending", "a lane waits for 1 GPU",
        "gradient_ascent 2 3.00e-02 4 0.1429",
        "note: lane 1 restarts: killed",
    ):  # fmt: skip
        assert part in text
    live = running.live
    assert live is not None
    text = shown(
        replace(
            running,
            age_s=120.0,
            problem="s3://b: timed out",
            live=replace(live, problems=["metrics: full"]),
        )
    )
    for part in (
        "no sign of life of node-7 (process 42) for 2 min 0 s",
        "resume",
        "timed out",
        "metrics: full",
    ):
        assert part in text
    assert "busy" not in text, "what the lanes were doing once"
    assert "not running; the last run was on node-7" in shown(
        replace(running, live=replace(live, running=False))
    )


def test_of_many_lanes_those_in_trouble_are_shown(running: Status) -> None:
    lanes = [LANE | {"index": n} for n in range(40)] + [
        LANE | {"index": 40, "state": "lost", "trial": None}
    ]
    assert running.live is not None
    text = shown(replace(running, live=replace(running.live, lanes=lanes)))
    assert "40 lost" in text
    assert "... 25 more: 25 busy" in text


def test_watching_needs_neither_ray_nor_torch(running: Status) -> None:
    """Nor pandas or optuna: it starts at once, on any machine that reads the files."""
    live = running.live
    assert live is not None
    replace(live, running=False).write(Path(running.folder))
    code = (
        "import sys\n"
        "from ray_unlearn.cli.main import main\n"
        "try:\n    main()\nfinally:\n"
        "    heavy = ('ray', 'torch', 'pandas', 'optuna')\n"
        "    print([m for m in heavy if m in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "status", running.folder, "--watch", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
    assert json.loads(done.stdout)["driver"] == "ended"

"""What outsiders see of a running study. If these fail, dashboards show something else than what
happens, or a study stops because it is watched."""

import errno
import io
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from prometheus_client.parser import text_string_to_metric_families
from specs import finished, record, row, space, study

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.execution import monitor as observation_module
from ray_unlearn.execution.exports import optuna_journal as journal_module
from ray_unlearn.execution.exports.optuna_journal import JOURNAL_FILE, LiveJournal, export_journal
from ray_unlearn.execution.monitor import METRICS_FILE, Counts, Observation
from ray_unlearn.execution.study import run_study
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.event import Header
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.live import LIVE_FILE, Live, read_live
from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import Row

REPOSITORY = Path(__file__).parent.parent.parent
SPEC = study(space(), space("random_labels"))
LANES = [
    {
        "index": 0,
        "state": "busy",
        "trial": 3,
        "node": "a",
        "pids": [7],
        "busy_s": 30.0,
        "verdict_s": 2.0,
        "idle_s": 8.0,
        "up_s": 40.0,
        "restarts": 1,
        "waiting_for": None,
    },
    {
        "index": 1,
        "state": "idle",
        "trial": None,
        "node": "a",
        "pids": [8],
        "busy_s": 15.0,
        "verdict_s": 0.0,
        "idle_s": 5.0,
        "up_s": 20.0,
        "restarts": 0,
        "waiting_for": None,
    },
    {
        "index": 2,
        "state": "pending",
        "trial": None,
        "node": None,
        "pids": [],
        "busy_s": 0.0,
        "verdict_s": 0.0,
        "idle_s": 0.0,
        "up_s": 0.0,
        "restarts": 0,
        "waiting_for": "1 GPU",
    },
]
STATE = {"lanes": LANES, "queued": 1}


class Clock(Environment):
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


def a_trial(number: int, *rows: Row, status: Any = None, method: str = "gradient_ascent") -> Trial:
    config = TrialConfig(
        method=method,
        learning_rate=1e-3,
        steps=30,
        seed=number,
        evaluate_at=(1, 3, 9, 30),
        context="c",
    )
    return finished(number, config, list(rows), status)


def tokens(update: int, score: float = 0.5) -> Row:
    """An update takes 10 forget tokens and 4 retain tokens."""
    return row(update, score, forget_tokens=10 * update, retain_tokens=4 * update)


def watched(clock: Clock) -> Counts:
    """A resumed study of six trials after half a minute: one was finished, one begun; then

    t = 0: trials 1 (begun before) and 2 are handed out; 10: trial 1 has a row at update 9; 20:
    trial 1 is complete, trial 3 begins; 24: trial 2 has diverged; 30: trial 3 has a row.
    """
    before = record(
        SPEC, a_trial(0, tokens(1), tokens(3, 0.25), status="complete"), a_trial(1, tokens(3))
    )
    counts = Counts(SPEC, before, 6, clock)
    one, two, three = before.trials[1], a_trial(2, method="random_labels"), a_trial(3)
    assert counts.live(True, {}, 0, []).updates_per_s is None
    counts.began(one)
    counts.began(two)
    assert counts.live(True, STATE, 0, []).tokens_per_s is None, "no row yet"
    clock.seconds += 10
    counts.row(one, tokens(9, 0.125))
    one.rows.append(tokens(9, 0.125))
    clock.seconds += 10
    one.status = "complete"
    counts.ended(one)
    counts.began(three)
    assert counts.live(True, STATE, 0, []).eta_s is None, "one finished trial tells too little"
    clock.seconds += 4
    two.status = "diverged"
    counts.ended(two)
    clock.seconds += 6
    counts.row(three, tokens(1))
    return counts


def test_live_values_by_hand() -> None:
    clock = Clock()
    live = watched(clock).live(True, STATE, 17, ["x: full"])
    assert {name: count for name, count in live.outcomes.items() if count} == {
        "complete": 2,
        "diverged": 1,
    }
    assert (live.asked_for, live.trials_running, live.rows, live.events) == (6, 1, 5, 17)
    assert live.updates == 3 + 9 + 1
    assert live.tokens == {"forget": 130, "retain": 52}
    assert live.updates_per_s == pytest.approx((6 + 1) / 30), (
        "trial 1 had three updates before this run"
    )
    assert live.tokens_per_s == pytest.approx(7 * 14 / 30)
    assert live.best == {"gradient_ascent": 0.125}
    assert live.utilisation == pytest.approx(45 / 60)
    mean = (20 + 24) / 2
    assert live.eta_s == pytest.approx((3 * mean - 10) / 2), (
        "trial 3 has run for 10 s; lane 2 waits for a node"
    )
    assert (live.lanes, live.queued, live.problems) == (LANES, 1, ["x: full"])


def test_the_last_trial_is_not_shared_between_lanes() -> None:
    clock = Clock()
    counts = Counts(SPEC, record(SPEC), 3, clock)
    for number in range(3):
        counts.began(a_trial(number))
        clock.seconds += 8
        if number < 2:
            counts.ended(a_trial(number, status="failed"))
    assert counts.live(True, {"lanes": [LANES[0]] * 4}, 0, []).eta_s == 0
    clock.seconds -= 6
    assert counts.live(True, {"lanes": [LANES[0]] * 4}, 0, []).eta_s == 6


def test_rates_forget_what_is_long_ago() -> None:
    clock = Clock()
    counts, trial = Counts(SPEC, record(SPEC), 6, clock), a_trial(0)
    counts.began(trial)
    counts.live(True, {}, 0, [])
    clock.seconds += 10
    counts.row(trial, tokens(9))
    assert counts.live(True, {}, 0, []).updates_per_s == pytest.approx(0.9)
    clock.seconds += observation_module.RATE_S
    assert counts.live(True, {}, 0, []).updates_per_s == 0


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Values by name and labels but the study."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("study") == "test"
            found[(sample.name, *labels.values())] = sample.value
    return found


def as_text(live: Live) -> str:
    registry = observation_module.CollectorRegistry()
    registry.register(observation_module._Metrics(lambda: live))
    return observation_module.generate_latest(registry).decode()


def test_metrics_by_hand() -> None:
    live = watched(Clock()).live(True, STATE, 17, [])
    found = samples(as_text(replace(live, time="2026-01-01T00:00:10.000+00:00")))
    name = "ray_unlearn_"
    expected = {
        ("up",): 1,
        ("last_write_timestamp_seconds",): 1767225610,
        ("trials", "complete"): 2,
        ("trials", "pruned"): 0,
        ("trials", "diverged"): 1,
        ("trials", "out_of_memory"): 0,
        ("trials", "failed"): 0,
        ("trials", "running"): 1,
        ("trials_wanted",): 6,
        ("trials_queued",): 1,
        ("rows_total",): 5,
        ("updates_total",): 13,
        ("tokens_total", "forget"): 130,
        ("tokens_total", "retain"): 52,
        ("best_score", "gradient_ascent"): 0.125,
        ("time_left_seconds",): 28,
        ("ledger_events_total",): 17,
        ("lanes", "starting"): 0,
        ("lanes", "pending"): 1,
        ("lanes", "idle"): 1,
        ("lanes", "busy"): 1,
        ("lanes", "draining"): 0,
        ("lanes", "lost"): 0,
        ("lane_busy_seconds_total", "0"): 30,
        ("lane_busy_seconds_total", "1"): 15,
        ("lane_busy_seconds_total", "2"): 0,
        ("lane_restarts_total", "0"): 1,
        ("lane_restarts_total", "1"): 0,
        ("lane_restarts_total", "2"): 0,
        ("lane_utilisation_ratio",): 0.75,
    }
    assert found == {(name + key[0], *key[1:]): value for key, value in expected.items()}


def test_after_the_end_no_lane_and_no_trial_is_busy() -> None:
    found = samples(as_text(watched(Clock()).live(False, STATE, 17, [])))
    assert (
        found["ray_unlearn_up",]
        == found["ray_unlearn_trials", "running"]
        == found["ray_unlearn_lanes", "busy"]
        == 0
    )
    assert found["ray_unlearn_trials", "complete"] == 2
    assert ("ray_unlearn_time_left_seconds",) not in found


# -- the journal -----------------------------------------------------------------------------------


def opened(path: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(path)))


def loaded(
    storage: JournalStorage, method: str = "gradient_ascent"
) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=f"test/{method}", storage=storage).trials


def test_a_reader_that_stays_sees_trials_begin_report_and_end(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_FILE
    path.write_text('{"op_code": 0, "half a line of a killed')  # it is made anew
    before = record(
        SPEC, a_trial(0, row(1, 0.9), row(3, 0.25), status="complete"), a_trial(1, row(3, 0.5))
    )
    live = LiveJournal(before, SPEC, path)
    reader = opened(path)
    assert [t.state.name for t in loaded(reader)] == ["COMPLETE", "RUNNING"]
    one, two, three = before.trials[1], a_trial(2, method="random_labels"), a_trial(3)
    one.rows.append(row(9, 0.125, forget_ppl=31.0))
    for trial in (one, two, three):
        live.show(trial, ended=False)
    assert [t.state.name for t in loaded(reader)] == ["COMPLETE", "RUNNING"], (
        "one write for all, when asked for"
    )
    before_flush = path.read_bytes().count(b"\n")
    live.flush()
    assert path.read_bytes().count(b"\n") - before_flush == 3, (
        "one new value and two new trials, nothing twice"
    )
    assert loaded(reader)[1].intermediate_values == {3: 0.5, 9: 0.125}
    assert [t.state.name for t in loaded(reader)] == ["COMPLETE", "RUNNING", "RUNNING"]
    assert [t.state.name for t in loaded(reader, "random_labels")] == ["RUNNING"]
    one.status, two.status, two.reason = "complete", "diverged", "loss is not finite"
    three.status = "failed"
    live.show(one, ended=True)
    live.show(two, ended=True)
    live.show(three, ended=False)  # its outcome has been recorded, but not yet told
    live.flush()
    best = loaded(reader)[1]
    assert (best.state.name, best.value, best.user_attrs["forget_ppl"]) == ("COMPLETE", 0.125, 31.0)
    assert (loaded(reader)[2].state.name, loaded(reader)[2].user_attrs["status"]) == (
        "RUNNING",
        "running",
    )
    assert loaded(reader, "random_labels")[0].user_attrs["reason"] == "loss is not finite"
    live.show(three, ended=True)
    live.flush()
    live.show(three, ended=True)
    live.flush()
    assert loaded(reader)[2].state.name == "FAIL"

    content, inode = path.read_bytes(), path.stat().st_ino
    before.trials |= {2: two, 3: three}
    export_journal(before, SPEC, path)
    assert (path.read_bytes(), path.stat().st_ino) == (content, inode), (
        "it was exact: a reader can stay"
    )


def test_the_export_at_the_end_is_exact_where_the_journal_could_not_unsay_something(
    tmp_path: Path,
) -> None:
    """A trial that diverges had scores, but the search must not rank it by them (see `past`)."""
    path, trial = tmp_path / JOURNAL_FILE, a_trial(0)
    live = LiveJournal(record(SPEC), SPEC, path)
    trial.rows.append(row(1, 0.9))
    live.show(trial, ended=False)
    trial.status = "diverged"
    live.show(trial, ended=True)
    live.flush()
    assert loaded(opened(path))[0].intermediate_values == {1: 0.9}
    export_journal(record(SPEC, trial), SPEC, path)
    assert loaded(opened(path))[0].intermediate_values == {}


def test_a_note_of_optuna_dashboard_stays(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_FILE
    live = LiveJournal(record(SPEC), SPEC, path)
    reader = opened(path)
    reader.set_study_system_attr(0, "dashboard:note", "look at this")
    trial = a_trial(0, row(1, 0.9), status="complete")
    live.show(trial, ended=True)
    live.flush()
    export_journal(record(SPEC, trial), SPEC, path)
    assert loaded(opened(path))[0].value == 0.9
    assert opened(path).get_study_system_attrs(0)["dashboard:note"] == "look at this"


def test_a_full_disk_leaves_a_whole_journal_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / JOURNAL_FILE
    live = LiveJournal(record(SPEC), SPEC, path)
    live.show(a_trial(0, row(1, 0.9), status="complete"), ended=True)

    class Full(io.FileIO):
        """Takes half of what it is given, then nothing."""

        def write(self, content: Any) -> int:
            if len(content) < 100:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(content[: len(content) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(
            journal_module, "open", lambda fd, mode, buffering: Full(fd, "ab"), raising=False
        )
        with pytest.raises(OSError, match="No space left"):
            live.flush()
    assert loaded(opened(path)) == []
    live.show(a_trial(1), ended=False)
    live.flush()
    assert [t.state.name for t in loaded(opened(path))] == ["COMPLETE", "RUNNING"]


def test_a_long_study_is_appended_to_and_not_written_anew(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_FILE
    many = [a_trial(n, row(1, 0.9), status="complete") for n in range(300)]
    live = LiveJournal(record(SPEC, *many), SPEC, path)
    before = path.stat().st_size
    live.show(a_trial(300, row(1, 0.9), status="complete"), ended=True)
    live.flush()
    assert path.stat().st_size - before < before / 200
    assert live._buffer.logs == [], "what is in the file is not kept in memory too"


# -- the observation -------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.create(
        tmp_path / "study" / "ledger", Header(spec=SPEC.model_dump(mode="json"), context="c")
    ) as opened:
        yield opened


def observation(
    ledger: Ledger, said: list[str], spec: StudySpec = SPEC, environment: Environment = REAL
) -> Observation:
    made = Observation(spec, ledger, 6, said.append, environment)
    made.lanes(lambda: STATE)
    return made


def test_a_run_leaves_its_last_look_behind(ledger: Ledger) -> None:
    folder, said = ledger.folder.parent, list[str]()
    with observation(ledger, said) as observed:
        first = read_live(folder)
        assert first is not None
        assert (first.running, first.rows, first.pid, first.lanes) == (True, 0, os.getpid(), LANES)
        trial = a_trial(0)
        observed.on_trial(trial)
        trial.rows.append(row(1, 0.5))
        observed.on_row(trial, row(1, 0.5))
        trial.status = "complete"
        observed.on_outcome(trial)
        observed.on_trial(a_trial(1))
    last = read_live(folder)
    assert last is not None
    assert (last.running, last.rows, last.outcomes["complete"], last.trials_running) == (
        False,
        1,
        1,
        0,
    )
    assert last.events == 1, "the header"
    found = samples((folder / METRICS_FILE).read_text())
    assert (found["ray_unlearn_up",], found["ray_unlearn_rows_total",]) == (0, 1)
    assert [t.state.name for t in loaded(opened(folder / JOURNAL_FILE))] == ["COMPLETE", "RUNNING"]
    assert said == []
    assert sorted(p.name for p in folder.iterdir()) == [
        "ledger",
        LIVE_FILE,
        METRICS_FILE,
        JOURNAL_FILE,
    ]


def test_what_has_not_changed_is_not_written_again_but_for_the_sign_of_life(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change is an upload where the study is remote."""
    clock, written = Clock(), list[float]()
    monkeypatch.setattr(Live, "write", lambda *_: written.append(clock.seconds))
    observed = observation(ledger, [], environment=clock)
    for seconds, happens in (
        (0, None),
        (5, None),
        (5, observed.on_trial),
        (5, None),
        (5, None),
        (5, None),
        (5, None),
    ):
        clock.seconds += seconds
        if happens:
            happens(a_trial(0))
        observed._tick(running=True)
    assert written == [1000, 1010, 1025]


def test_what_cannot_be_written_is_said_once_and_stops_nothing(ledger: Ledger) -> None:
    folder, said = ledger.folder.parent, list[str]()
    (folder / LIVE_FILE).mkdir()
    (folder / JOURNAL_FILE).mkdir()

    def dead() -> dict[str, Any]:
        raise RuntimeError("the hub is gone")

    with observation(ledger, said) as observed:
        observed.lanes(dead)
        observed.on_trial(a_trial(0))
        observed._tick(running=True)
        observed._tick(running=True)
        (folder / LIVE_FILE).rmdir()
    assert [text.split(":")[1].strip() for text in said] == ["optuna.journal", "live.json", "lanes"]
    live = read_live(folder)
    assert live is not None
    assert live.lanes == LANES, "as they were last"
    assert [text.split(":")[0] for text in live.problems] == ["optuna.journal"], (
        "those that are over are not told"
    )
    assert samples((folder / METRICS_FILE).read_text())["ray_unlearn_trials_wanted",] == 6


def test_a_study_that_was_lost_to_another_process_is_not_described(ledger: Ledger) -> None:
    folder = ledger.folder.parent
    lease = ledger.folder / "lease.json"
    with observation(ledger, []) as observed:
        before = (folder / LIVE_FILE).read_bytes()
        lease.write_text(json.dumps(json.loads(lease.read_text()) | {"token": 99}))
        observed.on_trial(a_trial(0))
    assert (folder / LIVE_FILE).read_bytes() == before


def test_the_port_serves_the_same_metrics_to_this_machine_only(ledger: Ledger) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    operations = SPEC.operations.model_copy(update={"metrics_port": port})
    spec, said = SPEC.model_copy(update={"operations": operations}), list[str]()
    with (
        observation(ledger, said, spec) as observed,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page,
    ):
        found = samples(page.read().decode())
        assert found["ray_unlearn_up",] == 1
        assert found == samples((ledger.folder.parent / METRICS_FILE).read_text())
        assert observed._server.server_address[0] == "127.0.0.1"
        with observation(ledger, said, spec):  # taken: the study goes on
            pass
        assert len(said) == 1
        assert f"metrics at port {port}" in said[0]
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics")


# -- a real study, seen from another process -------------------------------------------------------

SEEN = """
import json, sys
from pathlib import Path
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from prometheus_client.parser import text_string_to_metric_families
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from ray_unlearn.store.status import status

folder = Path(sys.argv[1])
storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
trials = {}
for name in optuna.get_all_study_names(storage):
    for t in optuna.load_study(study_name=name, storage=storage).trials:
        trials[t.user_attrs["number"]] = [name, t.state.name, sorted(t.intermediate_values)]
rows = {}
for run in sorted((folder / "tensorboard").glob("0*")):
    events = EventAccumulator(str(run))
    events.Reload()
    if "objective/score_selection" in events.Tags()["scalars"]:
        rows[run.name] = [e.step for e in events.Scalars("objective/score_selection")]
metrics = {}
for family in text_string_to_metric_families((folder / "metrics.prom").read_text()):
    for sample in family.samples:
        metrics[" ".join([sample.name, *list(sample.labels.values())])] = sample.value
found = {"trials": trials, "rows": rows, "metrics": metrics}
print(json.dumps(found | {"status": status(folder).as_json()}))
"""


class Onlooker:
    """Holds the study up as trial 2 reports its first row, has another process look at it, and lets
    it go on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: dict[str, Any] = {}
        self.reader: JournalStorage | None = None

    def on_trial(self, trial: Trial) -> None:
        pass

    def on_row(self, trial: Trial, row: Row) -> None:
        if trial.number != 2 or row["update"] != 1:
            return
        deadline = time.monotonic() + 120
        while (live := read_live(self.folder)) is None or live.rows < 7:
            assert time.monotonic() < deadline, "the driver does not write"
            time.sleep(0.05)
        command = [sys.executable, "-c", SEEN, str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        self.seen = {"error": done.stderr} if done.returncode else json.loads(done.stdout)
        self.reader = opened(self.folder / JOURNAL_FILE)

    def on_outcome(self, trial: Trial) -> None:
        pass


@pytest.fixture
def tiny_spec(
    pytestconfig: pytest.Config, text_files: Path, tiny_model: Path, tmp_path: Path
) -> StudySpec:
    tiny: Any = pytestconfig.pluginmanager.getplugin(str(REPOSITORY / "tests" / "conftest.py"))
    make: Callable[..., Path] = tiny.study_file
    return load_study(make(tmp_path, text_files, tiny_model, operations={"lanes": 1}))


@pytest.mark.slow
def test_a_running_study_is_seen_from_another_process(
    ray_here: None, tiny_spec: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observation_module, "TICK_S", 0.2)
    folder = tmp_path / "watched"
    onlooker = Onlooker(folder)
    assert run_study(tiny_spec, folder, observers=[onlooker], quiet=True).counts == {"complete": 4}
    seen = onlooker.seen
    assert "error" not in seen, seen["error"]

    ascent, descent = "tiny/gradient_ascent", "tiny/ascent_kl_in_distribution"
    assert seen["trials"] == {
        "0": [ascent, "COMPLETE", [1, 2, 4]],
        "1": [descent, "COMPLETE", [1, 2, 4]],
        "2": [ascent, "RUNNING", [1]],
    }
    assert seen["rows"]["0000-gradient_ascent"] == [1, 2, 4]
    metrics, found = seen["metrics"], seen["status"]
    assert metrics["ray_unlearn_up tiny"] == 1
    assert metrics["ray_unlearn_trials complete tiny"] == 2
    assert metrics["ray_unlearn_trials running tiny"] == metrics["ray_unlearn_lanes busy tiny"] == 1
    assert (metrics["ray_unlearn_rows_total tiny"], metrics["ray_unlearn_updates_total tiny"]) == (
        7,
        9,
    )
    assert (
        metrics["ray_unlearn_tokens_total forget tiny"]
        > metrics["ray_unlearn_tokens_total retain tiny"]
        > 0
    )
    assert (found["driver"], found["finished"], found["unfinished"], found["asked_for"]) == (
        "running",
        2,
        1,
        4,
    )
    live = found["live"]
    assert (live["pid"], live["rows"], live["problems"]) == (os.getpid(), 7, [])
    assert [(lane["state"], lane["trial"]) for lane in live["lanes"]] == [("busy", 2)]
    assert live["lanes"][0]["busy_s"] > 0

    last = read_live(folder)
    assert last is not None
    assert (last.running, last.rows, last.outcomes["complete"]) == (False, 12, 4)
    assert onlooker.reader is not None
    study_ = optuna.load_study(study_name=ascent, storage=onlooker.reader)
    assert [t.state.name for t in study_.trials] == ["COMPLETE"] * 2, (
        "opened in mid-study, it can stay to the end"
    )

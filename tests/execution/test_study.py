"""Studies end to end: the real model code, lanes and Tune, on a tiny model."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import torch
import yaml
from processes import alive, descendants
from safetensors.torch import load_file

from ray_unlearn.api.study_handle import Study
from ray_unlearn.execution.hub import Hub
from ray_unlearn.execution.hub_line import HubDied
from ray_unlearn.execution.messages import LaneState
from ray_unlearn.execution.ray_hub import RayHub
from ray_unlearn.execution.study import StudyResult, resume_study, run_study
from ray_unlearn.spec.errors import EXIT_INTERRUPTED, StorageError, UserError
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event_line import decoded, encoded
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.record import Record
from ray_unlearn.store.schema import COLUMNS
from ray_unlearn.store.verify import verify

REPEATABLE = [name for name, column in COLUMNS.items() if column.repeatable]
REPOSITORY = Path(__file__).parent.parent.parent
OPERATIONS = {"lanes": 1, "max_retries": 1, "tensorboard": False}


@pytest.fixture(scope="module")
def spec_of(
    pytestconfig: pytest.Config,
    text_files: Path,
    tiny_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., StudySpec]:
    """The tiny study of `tests/conftest.py` with these `operations`, and other top-level keys."""
    tiny: Any = pytestconfig.pluginmanager.getplugin(str(REPOSITORY / "tests" / "conftest.py"))

    def make(operations: dict[str, Any] | None = None, **changes: Any) -> StudySpec:
        folder = tmp_path_factory.mktemp("spec")
        search = {"sampler": "random", "trials_per_method": 3, "quasi_random_share": 0.5}
        content = {"search": search, "operations": OPERATIONS | (operations or {})} | changes
        return load_study(tiny.study_file(folder, text_files, tiny_model, **content))

    return make


@pytest.fixture(scope="module")
def finished(
    ray_here: None, spec_of: Callable[..., StudySpec], tmp_path_factory: pytest.TempPathFactory
) -> tuple[StudyResult, Path]:
    """An undisturbed study with one lane; other tests compare with it and do not change it."""
    folder = tmp_path_factory.mktemp("study") / "undisturbed"
    return run_study(spec_of({"tensorboard": True}), folder, quiet=True), folder


def rows_of(record: Record, names: list[str] = REPEATABLE) -> dict[int, list[dict[str, Any]]]:
    return {
        n: [{k: row[k] for k in names if k in row} for row in t.rows]
        for n, t in sorted(record.trials.items())
    }


def test_a_study_leaves_a_complete_record(finished: tuple[StudyResult, Path]) -> None:
    result, folder = finished
    assert (result.exit_code, result.counts, result.interrupted) == (0, {"complete": 6}, False)
    record = read_ledger(folder / "ledger")
    assert [t.method for _, t in sorted(record.trials.items())] == [
        "gradient_ascent",
        "ascent_kl_in_distribution",
    ] * 3
    assert all([row["update"] for row in t.rows] == [1, 2, 4] for t in record.trials.values())
    assert all(
        "score_selection" in row and "score_reporting" in row
        for t in record.trials.values()
        for row in t.rows
    )
    assert record.header.domain == load_study(folder / "study.yaml").data.domain
    header = record.header
    assert header.data_digest
    assert header.model_digest
    assert header.context
    assert header.code_version
    assert header.libraries["ray"]
    assert pq.read_table(folder / "ledger" / "rows.parquet").num_rows == 18
    assert pq.read_table(folder / "ledger" / "baselines.parquet").num_rows == 1
    assert json.loads((folder / "baselines.json").read_text())["vanilla"]["forget_nll"] > 0
    assert (folder / "optuna.journal").stat().st_size > 0
    assert len(list((folder / "tensorboard").iterdir())) == 7
    spec = StudySpec.model_validate(record.header.spec)
    assert load_study(folder / "study.yaml") == spec, "the resolved spec reads back as it was"


def test_running_into_a_study_or_resuming_a_finished_one_starts_nothing(
    finished: tuple[StudyResult, Path], spec_of: Callable[..., StudySpec]
) -> None:
    _, folder = finished
    before = (folder / "ledger" / "events.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"ray-unlearn resume"):
        run_study(spec_of(), folder)
    assert resume_study(folder, quiet=True).counts == {"complete": 6}
    assert (folder / "ledger" / "events.jsonl").read_bytes() == before


def test_a_driver_killed_after_the_last_outcome_leaves_nothing_to_clean_up_by_hand(
    finished: tuple[StudyResult, Path], tmp_path: Path
) -> None:
    """It had not written the table yet, nor removed what the lanes had left; `resume` has no trial
    to run, and does both."""
    folder = shutil.copytree(finished[1], tmp_path / "study")
    table = folder / "ledger" / "rows.parquet"
    pq.write_table(pq.read_table(table).slice(0, 9), table)  # of the run before
    for_people = folder / "baselines.json"
    measured = for_people.read_text()
    for_people.unlink()
    for name in ("trials/0005/last.1-0.pt", "optuna.journal.1a2b.tmp"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"torn")
    assert len(verify(folder).problems) == 3
    assert resume_study(folder, quiet=True).exit_code == 0
    assert (verify(folder).problems, verify(folder).complete) == ([], True)
    assert pq.read_table(table).num_rows == 18
    assert for_people.read_text() == measured


@pytest.mark.slow
def test_one_lane_gives_the_same_study_twice(
    finished: tuple[StudyResult, Path], spec_of: Callable[..., StudySpec], tmp_path: Path
) -> None:
    run_study(spec_of(), tmp_path / "again", quiet=True)
    first, second = read_ledger(finished[1] / "ledger"), read_ledger(tmp_path / "again" / "ledger")
    assert [t.trial_id for t in first.trials.values()] == [
        t.trial_id for t in second.trials.values()
    ]
    assert rows_of(first) == rows_of(second)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_two_workers_give_the_trajectories_of_one(
    finished: tuple[StudyResult, Path],
    spec_of: Callable[..., StudySpec],
    tmp_path: Path,
    parallel: str,
) -> None:
    """Through gloo, Ray Train and the ledger: what a result is must not hang on how it was
    computed. A checkpoint after each update, and kept weights, are nothing that is left or missing
    in the end."""
    operations = {
        "workers_per_lane": 2,
        "cpus_per_worker": 0.5,
        "parallel": parallel,
        "checkpoint_every_s": 0,
    }
    run_study(spec_of(operations), tmp_path / "two", quiet=True)
    assert verify(tmp_path / "two").problems == []
    assert len(list((tmp_path / "two" / "trials").rglob("*.*"))) == 1, (
        "the best weights, and nothing else"
    )
    first, second = read_ledger(finished[1] / "ledger"), read_ledger(tmp_path / "two" / "ledger")
    assert [t.trial_id for t in first.trials.values()] == [
        t.trial_id for t in second.trials.values()
    ]
    ends = ("_nll", "_nll_selection", "_kl_reporting", "_selection", "_loss", "tokens")
    close = [n for n in REPEATABLE if n.endswith(ends)]
    close = [
        n for n in close if not n.startswith("mia_")
    ]  # steps of 1/336 where two passages change places
    for number, rows in rows_of(first, close).items():
        for one, two in zip(rows, rows_of(second, close)[number], strict=True):
            assert two == pytest.approx(one, rel=1e-4, abs=1e-6)


def lane_state() -> LaneState | None:
    """What the hub of the running study says of its one lane; None before and after."""
    names = [name for name in ray.util.list_named_actors() if name.startswith("ray-unlearn-hub")]
    try:
        lanes = RayHub.named(names[0], 5).ask(Hub.state).lanes if names else ()
    except HubDied:
        return None
    return lanes[0] if lanes else None


@contextmanager
def assassin(number: int, times: int) -> Iterator[list[int]]:
    """Kills the worker of the one lane, `times` times, whenever it is at trial `number`."""
    killed: list[int] = []
    stop = threading.Event()

    def hunt() -> None:
        while not stop.wait(0.01) and len(killed) < times:
            state = lane_state()
            if state and state.job == number and state.pids and state.pids[0] not in killed:
                os.kill(state.pids[0], signal.SIGKILL)
                killed.append(state.pids[0])

    thread = threading.Thread(target=hunt)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
def test_killed_workers_cost_retries_and_change_nothing_else(
    finished: tuple[StudyResult, Path], spec_of: Callable[..., StudySpec], tmp_path: Path
) -> None:
    """Trial 1 loses its worker once and trial 4 every time; every other row is that of the
    undisturbed study."""
    folder = tmp_path / "killed"
    spec = spec_of()
    with assassin(1, times=1) as once, assassin(4, times=2) as always:
        result = run_study(spec, folder, quiet=True)
    assert (len(once), len(always)) == (1, 2)
    assert result.counts == {"complete": 5, "failed": 1}
    assert result.exit_code == 3
    record, undisturbed = read_ledger(folder / "ledger"), read_ledger(finished[1] / "ledger")
    assert record.trials[1].attempt == 1
    assert "worker died or hung 2 times" in record.trials[4].reason
    assert record.notes, "an operator finds the restarts in the ledger"
    events = [
        json.loads(line) for line in (folder / "ledger" / "events.jsonl").read_text().splitlines()
    ]
    keys = [(e["number"], e["update"]) for e in events if e["kind"] == "row"]
    assert len(keys) == len(set(keys)), "a replayed row was written twice"
    expected, found = rows_of(undisturbed), rows_of(record)
    assert {n: found[n] for n in found if n != 4} == {n: expected[n] for n in expected if n != 4}
    assert resume_study(folder, quiet=True).exit_code == 3, (
        "a failed trial is an outcome like any other ..."
    )
    again = resume_study(folder, retry_failed=True, quiet=True)
    assert (again.exit_code, again.counts) == (0, {"complete": 6}), "... unless it is asked for"
    assert rows_of(read_ledger(folder / "ledger")) == expected


def set_trials(folder: Path, trials: int) -> None:
    """Edit `study.yaml` the way a user does."""
    content = yaml.safe_load((folder / "study.yaml").read_text())
    content["search"]["trials_per_method"] = trials
    (folder / "study.yaml").write_text(yaml.safe_dump(content))


INTERRUPTED_RUN = """
import sys
from pathlib import Path
from ray_unlearn.execution.hub import Hub
from ray_unlearn.execution.hub_line import HubDied
from ray_unlearn.execution.messages import LaneState
from ray_unlearn.execution.ray_hub import RayHub
from ray_unlearn.execution.study import run_study
from ray_unlearn.spec.study_file import load_study
sys.exit(run_study(load_study(Path(sys.argv[1])), Path(sys.argv[2])).exit_code)
"""


def started(spec: StudySpec, folder: Path, stderr: Path) -> "subprocess.Popen[bytes]":
    """The study in a process and a Ray of its own, as soon as three trials have ended."""
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(spec.model_dump(mode="json")))
    with open(stderr, "w") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED_RUN, str(file), str(folder)],
            stderr=said,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        )
    ledger, deadline = folder / "ledger" / "events.jsonl", time.monotonic() + 120
    while not (ledger.exists() and ledger.read_text().count('"outcome"') >= 3):
        assert process.poll() is None, stderr.read_text()
        assert time.monotonic() < deadline, stderr.read_text()
        time.sleep(0.05)
    return process


def test_a_killed_driver_leaves_a_study_that_is_resumed_to_the_same_rows(
    finished: tuple[StudyResult, Path], spec_of: Callable[..., StudySpec], tmp_path: Path
) -> None:
    """SIGKILL: nothing is tidied up; then on another Ray."""
    folder = tmp_path / "killed"
    process = started(spec_of(), folder, tmp_path / "stderr")
    process.kill()
    process.wait()
    assert resume_study(folder, quiet=True).counts == {"complete": 6}
    assert verify(folder).problems == []
    assert rows_of(read_ledger(folder / "ledger")) == rows_of(read_ledger(finished[1] / "ledger"))


def test_ctrl_c_stops_cleanly_and_resume_completes_the_study(
    ray_here: None, spec_of: Callable[..., StudySpec], tmp_path: Path
) -> None:
    """In a process of its own with a Ray of its own, interrupted the way a terminal does it: its
    whole group."""
    search = {"sampler": "random", "trials_per_method": 30, "quasi_random_share": 0.5}
    folder = tmp_path / "stopped"
    ledger = folder / "ledger" / "events.jsonl"
    process = started(spec_of(search=search), folder, tmp_path / "stderr")
    children = descendants(process.pid)
    assert len(children) > 3
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == EXIT_INTERRUPTED, (tmp_path / "stderr").read_text()
    said = (tmp_path / "stderr").read_text()
    assert "stopping" in said
    assert "Traceback" not in said
    deadline = time.monotonic() + 30
    while alive(children) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not alive(children), "Ray processes outlive the study"

    stopped = ledger.read_bytes()
    before = read_ledger(folder / "ledger")
    assert 3 <= len(before.finished) < 60
    assert all(t.status is not None or n == max(before.trials) for n, t in before.trials.items())
    set_trials(folder, 1)
    with pytest.raises(UserError, match="already"):
        resume_study(folder, quiet=True)
    set_trials(folder, len(before.trials) // 2 + 1)
    result = resume_study(folder, add_trials=1, quiet=True)
    after = read_ledger(folder / "ledger")
    assert (
        result.total
        == sum(result.counts.values())
        == len(after.trials)
        == 2 * (len(before.trials) // 2 + 2)
    )
    assert set(after.trials) == set(range(result.total)), "a number was lost or given twice"
    assert ledger.read_bytes().startswith(stopped), "what was recorded stays"
    assert {t.status for t in after.trials.values()} == {"complete"}
    assert all([row["update"] for row in t.rows] == [1, 2, 4] for t in after.trials.values())


def test_what_a_study_rests_on_cannot_be_changed_under_it(
    finished: tuple[StudyResult, Path], tmp_path: Path
) -> None:
    """A resumed study with other data, another model or another space would be two studies in one
    ledger."""
    original = finished[1]

    def copy_of(
        name: str, change: Callable[[dict[str, Any]], None] | None = None, **header: str
    ) -> Path:
        folder = tmp_path / name
        (folder / "ledger").mkdir(parents=True)
        path = original / "ledger" / "events.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        first = decoded(lines[0], path, 0)
        assert first is not None
        changed = encoded(replace(first.event, **header), first.seq, first.fence)
        (folder / "ledger" / "events.jsonl").write_bytes(b"".join([changed, *lines[1:5]]))
        content = yaml.safe_load((original / "study.yaml").read_text())
        if change:
            change(content)
        (folder / "study.yaml").write_text(yaml.safe_dump(content))
        return folder

    with pytest.raises(UserError, match="the data has changed"):
        resume_study(copy_of("data", data_digest="0" * 32))
    with pytest.raises(UserError, match="the model has changed"):
        resume_study(copy_of("model", model_digest="0" * 12))
    with pytest.raises(
        UserError, match=r"(?s)was changed.*evaluation\.at: \[1, 2, 4\] -> \[1, 4\]"
    ):
        resume_study(copy_of("spec", lambda content: content["evaluation"].update(at=[1, 4])))
    with pytest.raises(StorageError, match="no ledger"):
        resume_study(tmp_path / "nowhere")
    busy = copy_of("busy")
    with Ledger.open(busy / "ledger"), pytest.raises(StorageError, match="another process"):
        resume_study(busy)


def test_a_full_disk_is_refused_before_anything_starts(
    spec_of: Callable[..., StudySpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    class Usage:
        free = 10 * 2**20

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(StorageError, match="10 MiB free"):
        run_study(spec_of(), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_the_saved_weights_are_those_that_the_trial_gives_when_it_runs_again(
    finished: tuple[StudyResult, Path], tmp_path: Path
) -> None:
    """`export` takes them where they are; where they are lost or changed it runs the trial, and the
    model is the same."""
    folder = tmp_path / "study"
    shutil.copytree(finished[1], folder)
    [saved] = (folder / "trials" / "best").iterdir()
    for name in ("saved", "again"):
        said: list[str] = []
        Study(folder).export(tmp_path / name, "best", say=said.append, anyway=True)
        taken = any("the weights that the study kept" in text for text in said)
        assert taken == (name == "saved"), said
        saved.write_bytes(saved.read_bytes()[:-1] + b"x")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("saved", "again"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(problem.startswith("I5") for problem in verify(folder).problems)

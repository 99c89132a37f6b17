"""Whole studies under faults, as a user meets them: signals, a full disk, a lost node, processes killed at random."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_unlearn.results.files import checkpoint_file
from ray_unlearn.results.ledger import Record, read_ledger
from ray_unlearn.results.table import result_table
from ray_unlearn.results.verify import verify
from ray_unlearn.spec.errors import EXIT_INTERRUPTED, EXIT_STORAGE, StorageError

REPOSITORY = Path(__file__).parent.parent.parent
sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import chaos  # noqa: E402  (the same engine kills 50 processes when it is run by hand)

StudyFile = Callable[..., Path]
STEPS = 240


@pytest.fixture(scope="module")
def study_of(
    pytestconfig: pytest.Config, text_files: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> StudyFile:
    """A study file over the tiny model: trials of some seconds, evaluated three times."""
    tiny: Any = pytestconfig.pluginmanager.getplugin(str(REPOSITORY / "tests" / "conftest.py"))

    def make(trials: int = 2, steps: int = STEPS, **operations: Any) -> Path:
        space = {
            "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "scale": "log"},
            "steps": {"type": "int", "low": 1, "high": steps, "free": True},
            "batch_size": 4,
        }
        content = {
            "space_overrides": space,
            "search": {"sampler": "random", "trials_per_method": trials, "quasi_random_share": 0.5},
            "evaluation": {"at": [steps // 3, 2 * steps // 3, steps], "batch_size": 8},
            "operations": {"lanes": 1, "tensorboard": False} | operations,
        }
        path: Path = tiny.study_file(tmp_path_factory.mktemp("study"), text_files, tiny_model, **content)
        return path

    return make


@pytest.fixture(scope="module")
def undisturbed(study_of: StudyFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "study"
    chaos.undisturbed(study_of(), folder)
    return folder


def cli(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", "from ray_unlearn.cli.main import main; main()", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def until(condition: Callable[[Record], bool], folder: Path, process: "subprocess.Popen[str]") -> Record:
    """The record as soon as the condition holds."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        try:
            record = read_ledger(folder / "ledger")
        except StorageError:  # not there yet
            time.sleep(0.05)
            continue
        if condition(record):
            return record
        time.sleep(0.02)
    raise AssertionError("it never came to that")


def second_trial_is_under_way(record: Record) -> bool:
    return 1 in record.trials and bool(record.trials[1].rows) and record.trials[1].status is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_leaves_a_checkpoint_and_resume_goes_on_from_it(
    study_of: StudyFile, undisturbed: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """What Slurm and Kubernetes send before they kill. Only the wish to stop makes a checkpoint here."""
    folder = tmp_path / "study"
    process = cli("run", str(study_of(checkpoint_every_s=3600)), "--storage", str(folder), "--quiet")
    until(second_trial_is_under_way, folder, process)
    process.send_signal(number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == EXIT_INTERRUPTED, said
    assert checkpoint_file(folder, 1).exists(), said
    assert verify(folder).problems == []
    assert verify(folder).unfinished == [1]
    process = cli("resume", str(folder), "--quiet")
    assert process.wait(timeout=180) == 0, process.communicate()[0]
    after, found = read_ledger(folder / "ledger"), verify(folder)
    assert any("trial 1 goes on from its checkpoint of update" in str(note["text"]) for note in after.notes), (
        after.notes
    )
    assert (found.problems, found.complete) == ([], True)
    assert chaos.compare(undisturbed, folder) == []
    assert list((folder / "trials").glob("0*")) == [], "checkpoints of finished trials are of no use"


def test_the_ledger_alone_is_enough_to_resume(study_of: StudyFile, undisturbed: Path, tmp_path: Path) -> None:
    """Killed, moved, and everything but the events deleted: Tune's and Optuna's state, checkpoints, the spec's copy."""
    folder, moved = tmp_path / "study", tmp_path / "elsewhere" / "moved"
    process = cli("run", str(study_of(checkpoint_every_s=0)), "--storage", str(folder), "--quiet")
    until(second_trial_is_under_way, folder, process)
    process.kill()
    process.wait()
    (moved / "ledger").mkdir(parents=True)
    (folder / "ledger" / "events.jsonl").rename(moved / "ledger" / "events.jsonl")
    process = cli("resume", str(moved), "--quiet")
    assert process.wait(timeout=180) == 0, process.communicate()[0]
    assert (verify(moved).problems, verify(moved).complete) == ([], True)
    assert chaos.compare(undisturbed, moved) == []


def test_random_kills_lose_nothing_and_count_nothing_twice(
    study_of: StudyFile, undisturbed: Path, tmp_path: Path
) -> None:
    """`benchmarks/chaos.py` does the same with 50 kills and the demo's model."""
    study = study_of(checkpoint_every_s=0, max_retries=100)
    done = chaos.disturbed(study, tmp_path / "wild", kills=5, seed=int(time.time()), mean_s=4.0, limit_s=400)
    found = verify(tmp_path / "wild")
    assert found.problems == [], done
    assert (found.complete, found.trials, found.rows) == (True, 4, 12), done
    assert chaos.compare(undisturbed, tmp_path / "wild") == [], done
    assert done.orphans == [], done
    assert done.kills.total() >= 1


@pytest.mark.root
def test_a_full_disk_stops_the_study_and_room_lets_it_go_on(
    study_of: StudyFile, undisturbed: Path, tmp_path: Path
) -> None:
    """A real file system of 260 MB; a neighbour fills it in the middle of the study."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=260m", "tmpfs", str(disk)], check=True)
    try:
        folder = disk / "study"
        process = cli("run", str(study_of(checkpoint_every_s=0)), "--storage", str(folder), "--quiet")
        until(second_trial_is_under_way, folder, process)
        with open(disk / "neighbour", "wb", buffering=0) as neighbour:
            try:
                while True:
                    neighbour.write(bytes(2**20))
            except OSError:
                pass
            said = process.communicate(timeout=120)[0]
        assert process.returncode == EXIT_STORAGE, said
        assert "free some space" in said
        assert "Traceback" not in said
        (disk / "neighbour").unlink()
        process = cli("resume", str(folder), "--quiet")
        assert process.wait(timeout=180) == 0, process.communicate()[0]
        assert (verify(folder).problems, verify(folder).complete) == ([], True)
        assert chaos.compare(undisturbed, folder) == []
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


TWO_NODES = """
import sys, threading, time
from pathlib import Path
import ray_unlearn.execution
from ray.cluster_utils import Cluster
from ray_unlearn.execution.study import run_study
from ray_unlearn.results.ledger import read_ledger
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.study import load_study

study, folder = Path(sys.argv[1]), Path(sys.argv[2])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]

def lose_one() -> None:
    while True:
        time.sleep(0.05)
        try:
            trials = read_ledger(folder / "ledger").trials.values()
        except StorageError:
            continue
        if sum(bool(t.rows) and t.status is None for t in trials) == 2:
            cluster.remove_node(nodes[0], allow_graceful=False)
            return

threading.Thread(target=lose_one, daemon=True).start()
result = run_study(load_study(study), folder, address=cluster.address, quiet=True)
cluster.shutdown()
sys.exit(result.exit_code)
"""


def test_a_node_lost_in_mid_trial_costs_at_most_one_checkpoint_interval(study_of: StudyFile, tmp_path: Path) -> None:
    """Two simulated nodes with a lane each; a checkpoint after every update, so at most one update is made again."""
    folder, study = tmp_path / "study", study_of(lanes=2, checkpoint_every_s=0, trials=3, steps=600)
    process = subprocess.Popen(
        [sys.executable, "-c", TWO_NODES, str(study), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said[-3000:]
    found, record = verify(folder), read_ledger(folder / "ledger")
    assert (found.problems, found.complete, found.trials) == ([], True, 6)
    moved = [trial for trial in record.trials.values() if trial.attempt == 1]
    assert len(moved) == 1, [(t.number, t.attempt) for t in record.trials.values()]
    prefix = f"trial {moved[0].number} goes on from its checkpoint of update "
    [went_on] = [str(n["text"]).removeprefix(prefix) for n in record.notes if str(n["text"]).startswith(prefix)]
    assert int(went_on) >= 200, "its first row, at update 200, was recorded before the node was lost"
    table = result_table(record).to_pylist()
    assert sorted((row["number"], row["update"]) for row in table) == [
        (n, u) for n in range(6) for u in (200, 400, 600)
    ]


def test_extending_a_finished_study_twice_over(study_of: StudyFile, tmp_path: Path) -> None:
    """`resume --trials 1` adds one trial of each method, in the places a study of 3 at once would have given them."""
    folder, whole = tmp_path / "study", tmp_path / "whole"
    chaos.undisturbed(study_of(trials=1, steps=6), folder)
    for _ in range(2):
        process = cli("resume", str(folder), "--trials", "1", "--quiet")
        assert process.wait(timeout=120) == 0, process.communicate()[0]
    assert verify(folder).complete
    assert yaml.safe_load((folder / "study.yaml").read_text())["search"]["trials_per_method"] == 3
    chaos.undisturbed(study_of(trials=3, steps=6), whole)
    first, second = read_ledger(folder / "ledger"), read_ledger(whole / "ledger")
    assert [t.method for t in first.trials.values()] == [t.method for t in second.trials.values()]
    assert verify(folder).trials == 6


def test_a_second_resume_is_refused_at_once(study_of: StudyFile, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    process = cli("run", str(study_of(trials=1)), "--storage", str(folder), "--quiet")
    until(lambda record: bool(record.trials), folder, process)
    second = cli("resume", str(folder))
    said = second.communicate(timeout=60)[0]
    assert second.returncode == EXIT_STORAGE
    assert f"process {process.pid} on host" in said
    assert process.wait(timeout=120) == 0

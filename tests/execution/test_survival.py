"""Whole studies under faults, as a user meets them: signals, a full disk, a lost node, processes
killed at random."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import chaos
import pytest
import yaml
from running import StudyFile, cli, under_way, until

from ray_unlearn.spec.errors import EXIT_INTERRUPTED, EXIT_STORAGE
from ray_unlearn.store.files import checkpoint_file
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.table import result_table
from ray_unlearn.store.verify import verify


@pytest.mark.slow
def test_signals_leave_a_checkpoint_and_resume_goes_on_from_it(
    study_of: StudyFile, undisturbed: Path, tmp_path: Path
) -> None:
    """SIGUSR1 and SIGTERM are what Slurm and Kubernetes send before they kill. Only the wish to
    stop makes a checkpoint here. Meanwhile a second process that would write the study is refused.
    """
    folder = tmp_path / "study"
    process = cli(
        "run", str(study_of(checkpoint_every_s=3600)), "--storage", str(folder), "--quiet"
    )
    until(lambda record: bool(record.trials), folder, process)
    second = cli("resume", str(folder))
    said = second.communicate(timeout=60)[0]
    assert second.returncode == EXIT_STORAGE
    assert f"process {process.pid} on host" in said
    for number, trial in ((signal.SIGUSR1, 1), (signal.SIGTERM, 2)):
        until(under_way(trial), folder, process)
        process.send_signal(number)
        said = process.communicate(timeout=60)[0]
        assert process.returncode == EXIT_INTERRUPTED, said
        assert [*(folder / checkpoint_file(trial)).parent.glob("last*.pt")], said
        assert verify(folder).problems == []
        assert verify(folder).unfinished == [trial]
        process = cli("resume", str(folder), "--quiet")
    assert process.wait(timeout=180) == 0, process.communicate()[0]
    after, found = read_ledger(folder / "ledger"), verify(folder)
    notes = [note for note in after.notes]
    for trial in (1, 2):
        assert any(
            text.startswith(f"trial {trial} goes on from its checkpoint of update ")
            for text in notes
        ), notes
    assert (found.problems, found.complete) == ([], True)
    assert chaos.compare(undisturbed, folder) == []
    assert list((folder / "trials").glob("0*")) == [], (
        "checkpoints of finished trials are of no use"
    )


@pytest.mark.slow
def test_the_ledger_alone_is_enough_to_resume(
    study_of: StudyFile, undisturbed: Path, tmp_path: Path
) -> None:
    """Killed, moved, and everything but the events deleted: Tune's and Optuna's state, checkpoints,
    the spec's copy."""
    folder, moved = tmp_path / "study", tmp_path / "elsewhere" / "moved"
    process = cli("run", str(study_of(checkpoint_every_s=0)), "--storage", str(folder), "--quiet")
    until(under_way(1), folder, process)
    process.kill()
    process.wait()
    (moved / "ledger").mkdir(parents=True)
    (folder / "ledger" / "events.jsonl").rename(moved / "ledger" / "events.jsonl")
    process = cli("resume", str(moved), "--quiet")
    assert process.wait(timeout=180) == 0, process.communicate()[0]
    assert (verify(moved).problems, verify(moved).complete) == ([], True)
    assert chaos.compare(undisturbed, moved) == []


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_full_disk_stops_the_study_and_room_lets_it_go_on(
    study_of: StudyFile, undisturbed: Path, tmp_path: Path
) -> None:
    """A real file system of 260 MB; a neighbour fills it in the middle of the study."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=260m", "tmpfs", str(disk)], check=False
    ).returncode:
        pytest.skip("root, but may not mount here (a container without CAP_SYS_ADMIN)")
    try:
        folder = disk / "study"
        process = cli(
            "run", str(study_of(checkpoint_every_s=0)), "--storage", str(folder), "--quiet"
        )
        until(under_way(1), folder, process)
        with open(disk / "neighbour", "wb", buffering=0) as neighbour:
            while process.poll() is None:  # it takes what the study frees, too
                try:
                    neighbour.write(bytes(2**20))
                except OSError:
                    time.sleep(0.01)
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
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.study_file import load_study

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


@pytest.mark.slow
def test_a_node_lost_in_mid_trial_costs_at_most_one_checkpoint_interval(
    study_of: StudyFile, tmp_path: Path
) -> None:
    """Two simulated nodes with a lane each; a checkpoint after every update, so at most one update
    is made again."""
    folder, study = tmp_path / "study", study_of(lanes=2, checkpoint_every_s=0, trials=2, steps=300)
    process = subprocess.Popen(
        [sys.executable, "-c", TWO_NODES, str(study), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said[-3000:]
    found, record = verify(folder), read_ledger(folder / "ledger")
    assert (found.problems, found.complete, found.trials) == ([], True, 4)
    moved = [trial for trial in record.trials.values() if trial.attempt == 1]
    assert len(moved) == 1, [(t.number, t.attempt) for t in record.trials.values()]
    prefix = f"trial {moved[0].number} goes on from its checkpoint of update "
    [went_on] = [note.removeprefix(prefix) for note in record.notes if note.startswith(prefix)]
    assert int(went_on) >= 100, (
        "its first row, at update 100, was recorded before the node was lost"
    )
    table = result_table(record).to_pylist()
    assert sorted((row["number"], row["update"]) for row in table) == [
        (n, u) for n in range(4) for u in (100, 200, 300)
    ]


@pytest.mark.slow
def test_a_finished_study_is_extended(study_of: StudyFile, tmp_path: Path) -> None:
    """`resume --trials 2` adds two trials of each method, in the places a study of 3 at once would
    have given them."""
    folder = tmp_path / "study"
    chaos.undisturbed(study_of(trials=1, steps=6), folder)
    before = (folder / "ledger" / "events.jsonl").read_bytes()
    process = cli("resume", str(folder), "--trials", "2", "--quiet")
    assert process.wait(timeout=120) == 0, process.communicate()[0]
    assert (folder / "ledger" / "events.jsonl").read_bytes().startswith(before)
    assert yaml.safe_load((folder / "study.yaml").read_text())["search"]["trials_per_method"] == 3
    assert (verify(folder).problems, verify(folder).complete, verify(folder).trials) == (
        [],
        True,
        6,
    )
    trials = read_ledger(folder / "ledger").trials
    methods = ["gradient_ascent", "ascent_kl_in_distribution"]
    assert [trial.method for _, trial in sorted(trials.items())] == methods * 3

"""cluster/slurm/study.sbatch: read by bash, by shellcheck and by our own rules, and run by a real
Slurm."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm_here
from hosts import Hosts
from hosts import unavailable as no_hosts
from slurm_here import Slurm
from tiny import REPOSITORY, study_file

from ray_unlearn.spec.errors import EXIT_INTERRUPTED, StorageError
from ray_unlearn.store.files import checkpoint_file
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.record import Record
from ray_unlearn.store.verify import verify

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from chaos import compare

SBATCH = REPOSITORY / "cluster" / "slurm" / "study.sbatch"
README = SBATCH.with_name("README.md")
TEXT = SBATCH.read_text()
WHY_NOT = slurm_here.unavailable() or no_hosts()
real = [pytest.mark.root, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "-")]

# What `ray symmetric-run` may get: it gives every other flag to head and workers alike, and some
# are refused by one of them.
RAY_FLAGS = {
    "--address",
    "--min-nodes",
    "--num-cpus",
    "--num-gpus",
    "--resources",
    "--object-store-memory",
}
WORKER_PORTS = range(10002, 20000)
EPHEMERAL_PORTS = range(32768, 61000)
NEEDED = {
    r"^#SBATCH --exclusive$": "two jobs on a node: the first to end stops both Rays, for `ray stop` asks nobody whose they are",
    r"^#SBATCH --requeue$": "a node failure or the time limit would be the end",
    r"^#SBATCH --open-mode=append$": "a requeued job would wipe its log",
    r"^#SBATCH --signal=B:USR1@(9\d|\d{3,})$": "the warning must reach the batch shell alone, in time for checkpoints and Ray's end",
    r"^export RAY_AUTH_MODE=token$": "anybody on the network could run code on the nodes",
    r"^export RAY_AUTH_TOKEN_PATH=": "the nodes would not find the token",
    r"umask 077(?s:.*)>\"\$RAY_AUTH_TOKEN_PATH\"": "others could read the token",
    r"^export RAY_ADDRESS=": "symmetric-run's own ray.init would not find the head",
    r"^export RAY_TMPDIR=": "Ray's sockets would lie where the default is",
    r"hostname -I": "a name may resolve to 127.0.1.1 on its own node",
    r"^export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=[3-9]\d\d$": "a slow start on many nodes is no failure",
    r"srun .*--export=ALL\b": "sbatch --export=NONE would keep the address and the token from the nodes",
    r"srun .*--wait=0\b": "the first node to end would end all",
    r"srun .*--kill-on-bad-exit=0\b": "one failed node would end all, with its exit code",
    r"env --block-signal=TERM bash -c 'node ": "scancel would stop Ray before the study leaves checkpoints",
    r"bash -c 'node .*&$": "bash hears no signal while it waits for a command in the foreground",
    r"driver\(\) \{[^}]*\n    ray stop --force": "after scancel there is no time for symmetric-run's own",
    r"node\(\) \{\n    ray stop --force": "symmetric-run refuses to start beside what a cancelled job left",
    r"--overlap ray stop --force": "Ray's processes would be left on the nodes",
    r"sleep 1 \|\| true": "scancel ends the sleep too, and with it, by set -e, the file",
    r"ray-unlearn run .*&$": "bash would not write the driver's number before it ends",
    r"bash -c 'node .*--resume": "a requeued job would be refused",
    r"^exit \"\$code\"$\Z": "the job's exit code is the study's",
}  # fmt: skip


def mistakes(text: str) -> list[str]:
    """What is wrong with a batch file for `ray symmetric-run`, learnt by trying."""
    code = text.rstrip()
    found = [
        f"no {rule}: {why}"
        for rule, why in NEEDED.items()
        if not re.search(rule, code, re.MULTILINE)
    ]
    commands = "\n".join(
        line for line in code.splitlines() if not line.lstrip().startswith("#")
    ).replace("\\\n", " ")
    [started] = re.findall(r"ray symmetric-run (.*?) -- ", commands) or [""]
    found += [
        f"{flag} is not for symmetric-run"
        for flag in re.findall(r"--[a-z-]+", started)
        if flag not in RAY_FLAGS
    ]
    port = re.search(r"\$\(\((\d+) \+ SLURM_JOB_ID % (\d+)\)\)", commands)
    ports = range(int(port[1]), int(port[1]) + int(port[2])) if port else range(6379, 6380)
    found += [f"ports {ports} meet {other}" for other in (range(1024), WORKER_PORTS, EPHEMERAL_PORTS)
              if max(ports.start, other.start) < min(ports.stop, other.stop)]  # fmt: skip
    found += ["all jobs have the same port"] if len(ports) < 1000 else []
    head, _, rest = code.partition("\n\n")
    found += ["#SBATCH lines after the first command are not read"] if "#SBATCH" in rest else []
    found += ["the first line must name bash"] if not head.startswith("#!/bin/bash\n") else []
    return found


def shellcheck(text: str) -> str:
    done = subprocess.run(
        ["shellcheck", "--shell=bash", "-"], input=text, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def syntax(text: str) -> str:
    return subprocess.run(
        ["bash", "-n"], input=text, capture_output=True, text=True, check=False
    ).stderr


CHECKS: dict[str, Callable[[str], object]] = {
    "rules": mistakes,
    "shellcheck": shellcheck,
    "bash -n": syntax,
}
PLANTED = {
    "unquoted variable": ("shellcheck", 'rm -rf "$STATE" #', "rm -rf $STATE #"),
    "variable misspelt": ("shellcheck", "study=${1:?$usage}", "stduy=${1:?$usage}"),
    "word lost": ("bash -n", "\nfi\n", "\n"),
    "no token mode": ("rules", "export RAY_AUTH_MODE=token\n", ""),
    "token mode not exported": ("rules", "export RAY_AUTH_MODE=token", "RAY_AUTH_MODE=token"),
    "token path not exported": ("rules", "export RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN_PATH"),
    "token for all to read": ("rules", "    umask 077\n", ""),
    "address not exported": ("rules", "export RAY_ADDRESS", "RAY_ADDRESS"),
    "host name as address": ("rules", "$(hostname -I | cut -d ' ' -f 1)", "$(hostname)"),
    "port among worker ports": ("rules", "20000 + SLURM", "12000 + SLURM"),
    "port reaches worker ports": ("rules", "20000 + SLURM", "19000 + SLURM"),
    "port among ephemeral ports": ("rules", "20000 + SLURM", "30000 + SLURM"),
    "same port for all": ("rules", "$((20000 + SLURM_JOB_ID % 10000))", "6379"),
    "temporary folder by flag": ("rules", "--min-nodes", '--temp-dir "$RAY_TMPDIR" --min-nodes'),
    "temporary folder not exported": ("rules", "export RAY_TMPDIR", "RAY_TMPDIR"),
    "dashboard flag": ("rules", "--min-nodes", "--include-dashboard true --min-nodes"),
    "head flag": ("rules", "--min-nodes", "--head --min-nodes"),
    "impatient": ("rules", "CLUSTER_WAIT_TIMEOUT=300", "CLUSTER_WAIT_TIMEOUT=30"),
    "one failed node ends all": ("rules", "--kill-on-bad-exit=0", "--kill-on-bad-exit"),
    "first node ends all": ("rules", " --wait=0", ""),
    "environment not carried": ("rules", " --export=ALL", ""),
    "Ray hears scancel": ("rules", "env --block-signal=TERM bash", "bash"),
    "srun in the foreground": ("rules", '--resume "$@" &', '--resume "$@"'),
    "no resume": ("rules", " --resume", ""),
    "warning to all processes": ("rules", "B:USR1@120", "USR1@120"),
    "warning too late": ("rules", "B:USR1@120", "B:USR1@30"),
    "shared nodes": ("rules", "#SBATCH --exclusive\n", ""),
    "no requeue": ("rules", "#SBATCH --requeue\n", ""),
    "log wiped": ("rules", "#SBATCH --open-mode=append\n", ""),
    "setting after the first command": ("rules", "shift 2\n", "shift 2\n#SBATCH --gpus-per-node=8\n"),
    "leftovers before": ("rules", "node() {\n    ray stop --force", "node() {\n    true"),
    "leftovers after": ("rules", "--overlap ray stop --force", "true"),
    "stop must wait for the step": ("rules", "--overlap ray stop", "ray stop"),
    "does not wait after scancel": ("rules", "sleep 1 || true", "sleep 1"),
    "exit code lost": ("rules", 'exit "$code"\n', "exit 0\n"),
}  # fmt: skip


def test_bash_can_read_it_and_our_rules_hold() -> None:
    assert syntax(TEXT) == ""
    assert mistakes(TEXT) == []


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say() -> None:
    assert shellcheck(TEXT) == ""


@pytest.mark.parametrize("name", PLANTED)
def test_planted_mistakes_are_caught(name: str) -> None:
    by, old, new = PLANTED[name]
    if by == "shellcheck" and shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    assert old in TEXT
    assert CHECKS[by](TEXT.replace(old, new))


def test_the_manual_names_what_the_file_reads() -> None:
    """A variable that is not in the manual does not exist for its users."""
    for name in ("SHARED_STATE", "LOCAL_DISK", "HEAD_IP"):
        assert f"${{{name}:-" in TEXT
        assert name in README.read_text()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Two nodes, which see pytest's folder."""
    folder = tmp_path_factory.mktemp("slurm")
    with (
        Hosts(2, shared=[tmp_path_factory.getbasetemp()]) as hosts,
        Slurm(hosts, folder) as running,
    ):
        yield running


FAKES = {
    # The first node runs what follows `--`; all go on until they are stopped. /tmp is each node's
    # own.
    "ray": """
if [ "$1" = stop ]; then touch /tmp/stopped; exit; fi
rm -f /tmp/stopped
while [ "$1" != -- ]; do shift; done; shift
[ "$SLURM_NODEID" != 0 ] || "$@"
until [ -e /tmp/stopped ]; do sleep 0.1; done""",
    "ray-unlearn": """
echo "driver: $*"
for signal in USR1 TERM; do trap "echo driver: heard $signal; [ -e $FAKE_DEAF ] || exit 130" $signal; done
end=$((SECONDS + FAKE_SECONDS)); while [ $SECONDS -lt $end ]; do sleep 0.1; done
exit $FAKE_CODE""",
}


@pytest.fixture
def submit_fake(slurm: Slurm, tmp_path: Path) -> Callable[..., int]:
    """Submits our file with a Ray and a ray-unlearn that only pretend: what is tried is the file,
    in seconds."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in FAKES.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)

    def submit(code: int = 0, seconds: int = 0, **variables: str) -> int:
        path = f"{folder}:{slurm.path}"
        fakes = {
            "PATH": path,
            "FAKE_CODE": str(code),
            "FAKE_SECONDS": str(seconds),
            "FAKE_DEAF": str(tmp_path / "deaf"),
        }
        arguments = [
            f"--output={tmp_path}/log",
            str(SBATCH),
            "study.yaml",
            str(tmp_path / "study"),
            "--lanes",
            "2",
        ]
        return slurm.submit(*arguments, **fakes, **({"SHARED_STATE": str(tmp_path)} | variables))

    return submit


def says(log: Path, text: str) -> None:
    """Wait until a job's log has the text."""
    deadline = time.monotonic() + 120
    while not (log.exists() and text in log.read_text()):
        assert time.monotonic() < deadline, log.read_text() if log.exists() else "no log"
        time.sleep(0.1)


class TestOurFile:
    """Run by Slurm on two nodes, over a Ray that only pretends."""

    pytestmark = real

    @pytest.mark.parametrize("code", [0, 3, 4])
    def test_the_exit_code_is_the_study_s(
        self, slurm: Slurm, submit_fake: Callable[..., int], tmp_path: Path, code: int
    ) -> None:
        job = slurm.ended(submit_fake(code), 60)
        assert (job["ExitCode"], job["Restarts"]) == (f"{code}:0", "0"), (
            tmp_path / "log"
        ).read_text()
        assert (
            f"driver: run study.yaml --storage {tmp_path}/study --resume --lanes 2\n"
            in (tmp_path / "log").read_text()
        )
        assert list(tmp_path.glob("job-*")) == [], "the token is gone"

    def test_a_ray_that_does_not_start_is_a_failure(
        self, slurm: Slurm, submit_fake: Callable[..., int], tmp_path: Path
    ) -> None:
        """`ray symmetric-run` itself ends with 0 then."""
        (tmp_path / "bin" / "ray").write_text(
            "#!/bin/bash\n[ $1 = stop ] || echo Failed to start Ray\n"
        )
        assert slurm.ended(submit_fake(), 60)["ExitCode"] == "1:0"
        assert "Ray did not start" in (tmp_path / "log").read_text()

    def test_a_node_whose_ray_fails_tries_again(
        self, slurm: Slurm, submit_fake: Callable[..., int], tmp_path: Path
    ) -> None:
        """Seen on a busy machine: a worker's raylet gives up when its agent is slow to start."""
        ray = tmp_path / "bin" / "ray"
        fails_once = '[ "$1$SLURM_NODEID" != symmetric-run1 ] || { echo try >> "$FAKE_DEAF"; [ "$(wc -l < "$FAKE_DEAF")" != 1 ] || exit 1; }'
        ray.write_text(
            ray.read_text().replace("rm -f /tmp/stopped", f"{fails_once}\nrm -f /tmp/stopped")
        )
        assert slurm.ended(submit_fake(seconds=4), 60)["ExitCode"] == "0:0"
        assert (tmp_path / "deaf").read_text() == "try\ntry\n", (tmp_path / "log").read_text()

    def test_folders_that_nodes_do_not_see_are_named_at_once(
        self, slurm: Slurm, submit_fake: Callable[..., int], tmp_path: Path
    ) -> None:
        """Else the head waits five minutes for nodes that have no token. /tmp is each host's own
        here."""
        assert slurm.ended(submit_fake(SHARED_STATE="/tmp/own"), 60)["ExitCode"] == "2:0"
        assert "host2: no /tmp/own/job-" in (tmp_path / "log").read_text()

    def test_scancel_lets_the_study_end_itself(
        self, slurm: Slurm, submit_fake: Callable[..., int], tmp_path: Path
    ) -> None:
        """Slurm sends SIGTERM to every process. The driver hears one signal, not two: two would
        mean at once."""
        (tmp_path / "deaf").touch()
        number = submit_fake(seconds=15)
        says(tmp_path / "log", "driver: run")
        slurm.run("scancel", str(number))
        says(tmp_path / "log", "SIGTERM: the study is told to stop")
        assert slurm.ended(number, 60)["JobState"] == "CANCELLED"
        log = (tmp_path / "log").read_text()
        assert (log.count("driver: heard USR1"), log.count("driver: heard TERM")) == (1, 0), log
        assert "No such file" not in log, "the file has waited for the study"
        assert list(tmp_path.glob("job-*")) == [], "the token is gone"

    def test_the_warning_before_the_time_limit_requeues(
        self, slurm: Slurm, submit_fake: Callable[..., int], tmp_path: Path
    ) -> None:
        """Told to stop, it ends with 130, and the job starts again."""
        number = submit_fake(seconds=6)
        says(tmp_path / "log", "driver: run")
        slurm.run("scancel", "--batch", "--signal=USR1", str(number))
        says(tmp_path / "log", "requeued")
        job = slurm.ended(number, 120)
        assert (job["JobState"], job["ExitCode"], job["Restarts"]) == ("COMPLETED", "0:0", "1")
        log = (tmp_path / "log").read_text()
        assert (log.count("driver: run"), log.count("driver: heard USR1")) == (2, 1), log

    def test_a_stop_without_a_time_limit_does_not_requeue(
        self, slurm: Slurm, submit_fake: Callable[..., int], tmp_path: Path
    ) -> None:
        number = submit_fake(seconds=60)
        says(tmp_path / "log", "driver: run")
        slurm.run("scancel", "--batch", "--signal=TERM", str(number))
        job = slurm.ended(number, 60)
        assert (job["ExitCode"], job["Restarts"]) == (f"{EXIT_INTERRUPTED}:0", "0")


def under_way(record: Record) -> bool:
    """The first trial has a row and no outcome."""
    trial = record.trials.get(1)
    return trial is not None and bool(trial.rows) and trial.status is None


def until_under_way(slurm: Slurm, number: int, folder: Path) -> None:
    log = Path(f"{folder}.log")
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert slurm.job(number)["JobState"] in ("PENDING", "RUNNING"), log.read_text()
        try:
            if under_way(read_ledger(folder / "ledger")):
                return
        except StorageError:  # not there yet
            pass
        time.sleep(0.05)
    raise AssertionError(log.read_text())


class TestStudies:
    """Run by Slurm on two nodes, over the real Ray."""

    pytestmark = [*real, pytest.mark.slow]

    @pytest.fixture(scope="class")
    def study(
        self, tmp_path_factory: pytest.TempPathFactory, text_files: Path, tiny_model: Path
    ) -> Path:
        """Trials of some seconds. Only the wish to stop makes a checkpoint."""
        steps = {"type": "int", "low": 1, "high": 600, "free": True}
        rate = {"type": "float", "low": 1e-4, "high": 1e-2, "scale": "log"}
        return study_file(
            tmp_path_factory.mktemp("study"), text_files, tiny_model,
            space_overrides={"learning_rate": rate, "steps": steps, "batch_size": 4},
            evaluation={"at": [200, 400, 600], "batch_size": 8},
            operations={"lanes": 1, "tensorboard": False, "checkpoint_every_s": 3600},
        )  # fmt: skip

    @pytest.fixture(scope="class")
    def submit(self, slurm: Slurm, study: Path) -> Callable[[Path], int]:
        def submit(folder: Path) -> int:
            arguments = [f"--output={folder}.log", str(SBATCH), str(study), str(folder), "--quiet"]
            # Ray's workers step back behind other programs: on a busy machine they would get no
            # time at all.
            return slurm.submit(
                *arguments, SHARED_STATE=str(folder.parent), RAY_worker_niceness="0"
            )

        return submit

    @pytest.fixture(scope="class")
    def undisturbed(
        self, slurm: Slurm, submit: Callable[[Path], int], tmp_path_factory: pytest.TempPathFactory
    ) -> Path:
        folder = tmp_path_factory.mktemp("undisturbed") / "study"
        job = slurm.ended(submit(folder), 900)
        assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), folder.with_suffix(
            ".log"
        ).read_text()
        return folder

    def test_a_study_runs_to_its_end(self, undisturbed: Path) -> None:
        found = verify(undisturbed)
        assert (found.problems, found.complete, found.trials, found.rows) == ([], True, 4, 12)

    def test_after_scancel_the_same_command_goes_on(
        self, slurm: Slurm, submit: Callable[[Path], int], undisturbed: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "study"
        number = submit(folder)
        until_under_way(slurm, number, folder)
        slurm.run("scancel", str(number))
        assert slurm.ended(number, 90)["JobState"] == "CANCELLED"
        left_by_one_stop(folder)
        job = slurm.ended(submit(folder), 900)
        assert job["ExitCode"] == "0:0", Path(f"{folder}.log").read_text()
        same_after_one_stop(undisturbed, folder)

    def test_the_time_limit_does_not_end_a_study(
        self, slurm: Slurm, submit: Callable[[Path], int], undisturbed: Path, tmp_path: Path
    ) -> None:
        """Slurm looks at limits every 30 s, so the warning is given by hand. The job starts again
        by itself."""
        folder = tmp_path / "study"
        number = submit(folder)
        until_under_way(slurm, number, folder)
        slurm.run("scancel", "--batch", "--signal=USR1", str(number))
        says(Path(f"{folder}.log"), "requeued")
        left_by_one_stop(folder)
        job = slurm.ended(number, 900)
        assert (job["ExitCode"], job["Restarts"]) == ("0:0", "1"), Path(f"{folder}.log").read_text()
        same_after_one_stop(undisturbed, folder)


def left_by_one_stop(folder: Path) -> None:
    """The trial in hand has a checkpoint, and nothing is wrong."""
    assert list((folder / checkpoint_file(1)).parent.glob("last*.pt")), Path(
        f"{folder}.log"
    ).read_text()
    assert (verify(folder).problems, verify(folder).unfinished) == ([], [1])


def same_after_one_stop(undisturbed: Path, folder: Path) -> None:
    """The trial went on from its checkpoint, and the table is that of the undisturbed study."""
    notes = [note for note in read_ledger(folder / "ledger").notes]
    assert any(
        text.startswith("trial 1 goes on from its checkpoint of update ") for text in notes
    ), notes
    assert (verify(folder).problems, verify(folder).complete) == ([], True)
    assert compare(undisturbed, folder) == []

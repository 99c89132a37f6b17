"""Studies on several hosts that die and part, and who may speak to them: real hosts on one machine,
see `hosts`."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hosts import REPOSITORY, Host, Hosts, unavailable

from ray_unlearn.spec.errors import EXIT_STORAGE, StorageError
from ray_unlearn.store.lease import EXPIRY_S
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.record import Record
from ray_unlearn.store.verify import verify

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import chaos

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(unavailable()), reason=unavailable())]

TOKENS = {"RAY_AUTH_MODE": "token"}
NO_TOKENS = {"RAY_AUTH_MODE": "disabled"}
TOKEN_FILE = "~/.ray/auth_token"
PORT, AGENT, DASHBOARD, CLIENT = 6379, 52365, 8265, 10001
# A dead or silent host is given up after some 10 s, not 30.
QUICK = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}
NO_LANES, NO_DASHBOARD = ["--num-cpus=0"], "--include-dashboard=false"
RAY_START = ["ray", "start", "--disable-usage-stats", "--object-store-memory=200000000"]


def start_head(host: Host, *options: str, **environment: str) -> str:
    """Ray's head on this host; its address."""
    head = [
        "--head",
        f"--port={PORT}",
        "--dashboard-host=127.0.0.1",
        f"--node-ip-address={host.address}",
    ]
    start_node(host, [*RAY_START, *head, *(options or NO_LANES)], **QUICK | environment)
    return f"{host.address}:{PORT}"


def node(host: Host, address: str) -> list[str]:
    """The command that makes this host a worker node with room for one lane."""
    return [*RAY_START, f"--address={address}", "--num-cpus=1", f"--node-ip-address={host.address}"]


def start_node(host: Host, command: list[str], tries: int = 4, **environment: str) -> None:
    """Ray gives its own processes 30 s to start, which is not enough on a machine that does much
    else."""
    for left in reversed(range(tries)):
        done = host.run(*command, timeout_s=300, check=not left, **environment)
        if done.returncode == 0:
            return
        host.run(
            "ray", "stop", "--force", timeout_s=300
        )  # in the host's own pid namespace: only its processes are seen


def give_token(hosts: Hosts) -> str:
    """The same token on every host, for its owner's eyes only."""
    token = secrets.token_hex(32)
    for host in hosts:
        host.write(TOKEN_FILE, token, 0o600)
    return token


HELLO = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], 7000), timeout=1.0) as link:
        print(link.recv(10).decode())
except OSError:
    print("nobody")
"""
GREETER = """
import socket
with socket.create_server(("", 7000)) as server:
    print("up", flush=True)
    while True:
        server.accept()[0].sendall(b"hello")
"""


def reached(host: Host, other: Host) -> str:
    return host.run("python", "-c", HELLO, other.address).stdout.strip()


@pytest.fixture
def below_tmp() -> Iterator[Path]:
    """A folder that hosts can share: pytest's own may lie in /dev/shm, which each host has anew."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_hosts_meet_part_and_die(below_tmp: Path) -> None:
    """If this fails, the tests below prove nothing."""
    before = network()
    with Hosts(3, shared=[below_tmp]) as hosts:
        assert network() == before, "nothing is seen in the machine's own network"
        one, two, three = hosts
        greeter = two.start("python", "-c", GREETER)
        assert greeter.stdout is not None
        assert greeter.stdout.readline() == "up\n"
        assert [reached(host, two) for host in (one, two, three)] == ["hello"] * 3
        assert [host.run("hostname").stdout for host in hosts] == ["host1\n", "host2\n", "host3\n"]
        one.write("/tmp/own", "one")
        one.write("~/own", "one")
        one.write("/dev/shm/own", "one")
        one.write(f"{below_tmp}/common", "all")
        assert two.run("sh", "-c", "cat /tmp/own ~/own /dev/shm/own", check=False).returncode == 1
        assert two.run("cat", f"{below_tmp}/common").stdout == "all"
        assert one.run("stat", "-c", "%a", "/tmp/home/own").stdout == "600\n"
        with pytest.raises(RuntimeError, match="host1: false ended with 1"):
            one.run("false")

        two.isolate()
        assert [reached(host, two) for host in (one, two)] == ["nobody", "hello"]
        assert reached(two, one) == reached(one, three) == "nobody", "nobody listens on three"
        two.rejoin()
        assert reached(one, two) == "hello"

        running = [*two.processes()]
        assert any(GREETER.split()[1] in line for line in two.processes().values())
        two.kill()
        assert not two.alive
        assert greeter.wait(timeout=10) != 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in running)
        assert reached(one, two) == "nobody"
        assert one.alive
        left = [*one.processes(), *three.processes()]
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)
    assert network() == before


MAKER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from hosts import Hosts
with Hosts(1) as hosts:
    hosts[0].start("sleep", "1000")
    while not any("sleep" in line for line in hosts[0].processes().values()):
        time.sleep(0.01)
    print(*hosts[0].processes(), flush=True)
    if sys.argv[2] == "fail":
        raise ValueError("as planned")
    time.sleep(1000)
"""


@pytest.mark.parametrize("how", ["fail", "killed"])
def test_nothing_is_left_when_their_maker_fails_or_is_killed(how: str) -> None:
    before = network()
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKER, str(Path(__file__).parent), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert maker.stdout is not None
    inside = [int(pid) for pid in maker.stdout.readline().split()]
    assert len(inside) == 2
    if how == "killed":
        maker.kill()
    maker.communicate(timeout=60)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in inside) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{pid}").exists() for pid in inside)
    assert network() == before


def network() -> str:
    """The machine's own interfaces and routes."""
    words = (["ip", "-o", "link"], ["ip", "route"])
    return "".join(
        subprocess.run(word, capture_output=True, text=True, check=True).stdout for word in words
    )


SUBMIT = """
import json, sys, urllib.error, urllib.request
url, entry, *token = sys.argv[1:]
headers = {"Content-Type": "application/json"} | {"Authorization": f"Bearer {one}" for one in token}
request = urllib.request.Request(url, json.dumps({"entrypoint": entry}).encode(), headers)
try:
    print(urllib.request.urlopen(request, timeout=60).status)
except urllib.error.HTTPError as error:
    print(error.code)
except urllib.error.URLError as error:
    print(type(error.reason).__name__)
"""
CONNECT = """
import sys, ray
ray.init(sys.argv[1], log_to_driver=False)
print(f"connected to {len(ray.nodes())} nodes")
"""


def submit(host: Host, head: Host, port: int, entry: str, *token: str) -> str:
    """What the head's job agent or dashboard answers to a job from this host."""
    path = "job_agent/jobs/" if port == AGENT else "jobs/"
    return host.run(
        "python", "-c", SUBMIT, f"http://{head.address}:{port}/api/{path}", entry, *token
    ).stdout.strip()


# Ray Client only gives up: that it does connect with the token is what makes the last a refusal.
REFUSALS = (
    "InvalidAuthToken",
    "Unauthenticated",
    "AuthenticationError",
    "ray client connection timeout",
)


def refused(host: Host, commands: list[list[str]], environments: list[dict[str, str]]) -> list[str]:
    """What those commands said that were not refused for want of the token. All at once: each tries
    for 20 s or more."""
    processes = [
        host.start(*command, **environment) for command in commands for environment in environments
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    return [
        text
        for process, text in zip(processes, said, strict=True)
        if process.returncode == 0 or not any(reason in text for reason in REFUSALS)
    ]


def ran(host: Host, mark: str, seconds: float = 60.0) -> bool:
    """Whether a job has left its mark on this host."""
    deadline = time.monotonic() + seconds
    while not (host.root / "tmp" / mark).exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


@pytest.mark.slow
def test_without_the_token_nobody_gets_in() -> None:
    """Not with a job, not as a node, not as a driver; from another host of the same network."""
    with Hosts(2) as hosts:
        head, other = hosts
        token = give_token(hosts)
        other.write("/tmp/wrong", secrets.token_hex(32))
        address = start_head(head, **TOKENS)
        assert submit(other, head, AGENT, "touch /tmp/no-token") == "401"
        assert submit(other, head, AGENT, "touch /tmp/wrong-token", "0" * 64) == "403"
        assert submit(other, head, DASHBOARD, "touch /tmp/no-token") == "ConnectionRefusedError", (
            "it is on loopback"
        )
        assert submit(head, head, AGENT, "touch /tmp/no-token") == "401", "nor from the head itself"
        drivers = [
            ["python", "-c", CONNECT, f"ray://{head.address}:{CLIENT}"],
            ["python", "-c", CONNECT, address],
        ]
        outsiders = [NO_TOKENS, TOKENS | {"RAY_AUTH_TOKEN_PATH": "/tmp/wrong"}]
        assert refused(other, [node(other, address), *drivers], outsiders) == []
        start_node(other, node(other, address), **TOKENS)
        assert refused(other, drivers, outsiders) == [], "nor beside a node that is in"
        for driver in drivers:
            assert "connected to 2 nodes" in with_the_token(other, driver)
        assert submit(other, head, AGENT, "touch /tmp/with-token", token) == "200"
        assert ran(head, "with-token")
        assert not (head.root / "tmp/no-token").exists()
        assert not (head.root / "tmp/wrong-token").exists()
        modes = [head.run("stat", "-c", "%a", "/tmp/home/.ray/auth_token").stdout for head in hosts]
        assert modes == ["600\n"] * 2


def with_the_token(host: Host, driver: list[str]) -> str:
    """What a driver says. Ray starts a server for each `ray://` driver and gives it 30 s; on a busy
    machine that server is late or dies while Ray looks at it (psutil.ZombieProcess). So a driver
    that ended for another reason than its token is asked again."""
    for _ in range(6):
        said = host.run(*driver, timeout_s=300, check=False, **TOKENS).stdout
        if "connected to" in said or any(reason in said for reason in REFUSALS):
            break
        time.sleep(5)
    return said


@pytest.mark.slow
def test_with_tokens_off_anybody_runs_anything() -> None:
    """What the test above would see without tokens: a dashboard on loopback protects nothing."""
    with Hosts(2) as hosts:
        head, other = hosts
        start_head(head, **NO_TOKENS)
        assert submit(other, head, AGENT, "touch /tmp/no-token") == "200"
        assert ran(head, "no-token")


AT = [20, 600]  # ten seconds or more between the two: time to die in


@pytest.fixture(scope="module")
def study(
    pytestconfig: pytest.Config,
    text_files: Path,
    tiny_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Four trials of the tiny model; a checkpoint after every update."""
    tiny: Any = pytestconfig.pluginmanager.getplugin(str(REPOSITORY / "tests" / "conftest.py"))
    space = {
        "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "scale": "log"},
        "steps": {"type": "int", "low": 1, "high": AT[-1], "free": True},
        "batch_size": 4,
    }
    content = {
        "space_overrides": space,
        "search": {"sampler": "random", "trials_per_method": 2, "quasi_random_share": 0.5},
        "evaluation": {"at": AT, "batch_size": 8},
        "operations": {
            "lanes": 1,
            "tensorboard": False,
            "checkpoint_every_s": 0,
            "max_retries": 100,
        },
    }
    path: Path = tiny.study_file(
        tmp_path_factory.mktemp("study"), text_files, tiny_model, **content
    )
    return path


@pytest.fixture(scope="module")
def undisturbed(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "study"
    chaos.undisturbed(study, folder)
    return folder


def ray_unlearn(host: Host, log: Path, *arguments: str) -> "subprocess.Popen[str]":
    """The command line on this host; what it says goes to `log`."""
    command = [
        "python",
        "-c",
        "from ray_unlearn.cli.main import main; main()",
        *arguments,
        "--quiet",
    ]
    with open(log, "a") as file:
        return host.start(*command, log=file, **TOKENS)


def until(
    folder: Path, log: Path, process: "subprocess.Popen[str]", condition: Callable[[Record], Any]
) -> Any:
    """What the condition gives, as soon as it is something."""
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            found = condition(read_ledger(folder / "ledger"))
        except StorageError:  # not there yet
            found = None
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"it never came to that: {log.read_text()[-4000:]}")


def under_way(record: Record) -> list[int]:
    """Trials with a row and no outcome."""
    return [
        number for number, trial in record.trials.items() if trial.rows and trial.status is None
    ]


def workers(host: Host) -> list[int]:
    """Processes of lanes on this host, by the machine's numbers."""
    return (
        [pid for pid, line in host.processes().items() if "RayTrainWorker" in line]
        if host.alive
        else []
    )


def went_on(record: Record) -> list[tuple[int, int]]:
    """Trial and update of each start from a checkpoint, in their order."""
    words = [note.split() for note in record.notes if " goes on from its checkpoint " in note]
    return [(int(text[1]), int(text[-1])) for text in words]


def furthest(folder: Path, number: int) -> int:
    """The highest update that a checkpoint of this trial holds."""
    found = [0]
    for path in (folder / "trials" / f"{number:04d}").glob("last*.pt"):
        try:
            found.append(torch.load(path, weights_only=True)["meter"]["update"])
        except (OSError, RuntimeError):  # replaced or deleted just now
            continue
    return max(found)


def check_whole(folder: Path, undisturbed: Path) -> None:
    """All trials, each row once, and the table that an undisturbed study has."""
    found, record = verify(folder), read_ledger(folder / "ledger")
    assert (found.problems, found.complete, found.trials) == ([], True, 4)
    updates = [
        (trial.number, row["update"]) for trial in record.trials.values() for row in trial.rows
    ]
    assert len(updates) == len(set(updates)) == found.rows
    assert chaos.compare(undisturbed, folder) == []


@pytest.mark.slow
def test_a_dead_host_and_a_parted_one_cost_a_study_nothing(
    study: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Of three hosts with room for the lane one dies, and one is cut off but still sees the study's
    folder, as with a file server on another network. Its worker, asleep until its trial goes on
    elsewhere, then computes and writes on. The trial must not fall back to that when the next
    worker dies."""
    folder, log = tmp_path / "study", tmp_path / "log"
    with Hosts(4, shared=[tmp_path.parent.parent]) as hosts:
        give_token(hosts)
        address = start_head(hosts[0], *NO_LANES, NO_DASHBOARD, **TOKENS)
        for host in list(hosts)[1:]:
            start_node(host, node(host, address), **TOKENS)
        process = ray_unlearn(
            hosts[0], log, "run", str(study), "--storage", str(folder), "--address", address
        )
        [first] = until(folder, log, process, under_way)
        next(host for host in hosts if workers(host)).kill()

        second = until(
            folder, log, process, lambda record: [n for n in under_way(record) if n != first]
        )[0]
        lonely = next(host for host in hosts if workers(host))
        lonely.isolate()
        [stale] = workers(lonely)
        os.kill(stale, signal.SIGSTOP)
        asleep_at = furthest(folder, second)
        until(folder, log, process, lambda _: furthest(folder, second) > asleep_at + 100)
        [at_work] = [pid for host in hosts if host is not lonely for pid in workers(host)]
        os.kill(stale, signal.SIGCONT)
        time.sleep(1.0)
        reached = furthest(folder, second)
        os.kill(at_work, signal.SIGKILL)
        time.sleep(0.5)
        os.kill(stale, signal.SIGSTOP)
        until(folder, log, process, lambda record: second not in under_way(record))
        os.kill(stale, signal.SIGCONT)
        assert workers(lonely) == [stale]
        lonely.rejoin()
        assert process.wait(timeout=300) == 0, log.read_text()[-4000:]
        assert gone(lonely), (
            "a node that comes back learns that it was given up, and ends its workers"
        )
    check_whole(folder, undisturbed)
    record = read_ledger(folder / "ledger")
    assert [(number, update >= 19) for number, update in went_on(record)] == [
        (first, True),
        (second, True),
        (second, True),
    ]
    assert record.trials[second].attempt == 2
    *_, before, after = [update for _, update in went_on(record)]
    assert before >= asleep_at
    assert after >= reached, "what a worker that was given up has written must not count"


def gone(host: Host, seconds: float = 120.0) -> bool:
    """Whether the lanes' workers leave this host in that time."""
    deadline = time.monotonic() + seconds
    while workers(host):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


@pytest.mark.slow
def test_another_host_takes_over_when_the_driver_s_is_lost(
    study: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Head and driver go, and the lane's worker is an orphan. A new head resumes from the shared
    folder, once the lease has run out."""
    folder, log = tmp_path / "study", tmp_path / "log"
    with Hosts(3, shared=[tmp_path.parent.parent]) as hosts:
        give_token(hosts)
        old, orphan, new = hosts
        address = start_head(old, *NO_LANES, NO_DASHBOARD, **TOKENS)
        start_node(orphan, node(orphan, address), **TOKENS)
        process = ray_unlearn(
            old, log, "run", str(study), "--storage", str(folder), "--address", address
        )
        [trial] = until(folder, log, process, under_way)
        old.kill()
        killed = time.monotonic()
        process.wait()
        assert len(workers(orphan)) == 1
        assert verify(folder).problems == []
        resume = [
            "resume",
            str(folder),
            "--address",
            start_head(new, "--num-cpus=1", NO_DASHBOARD, **TOKENS),
        ]
        process = ray_unlearn(new, log, *resume)
        code = process.wait(timeout=400)
        if code == EXIT_STORAGE:
            assert "another host is writing this study: process" in log.read_text()
            assert " on host host1, " in log.read_text()
            time.sleep(max(0.0, killed + EXPIRY_S + 5 - time.monotonic()))
            process = ray_unlearn(new, log, *resume)
            code = process.wait(timeout=400)
        else:
            assert time.monotonic() > killed + EXPIRY_S - 10, (
                "it was not refused, though the lease was young"
            )
        assert code == 0, log.read_text()[-4000:]
        assert gone(orphan), "a node without a head ends its workers"
    check_whole(folder, undisturbed)
    record = read_ledger(folder / "ledger")
    assert went_on(record)[0][0] == trial
    assert [session.host for session in record.sessions] == ["host1", "host3"]

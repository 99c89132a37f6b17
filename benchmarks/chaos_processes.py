"""Processes that a run of `chaos.py` has started, and a Ray of its own to kill nodes of.

A process is known by a mark in its environment, which children inherit; never by its name alone,
because others run Ray on this machine too.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

MARK = "RAY_UNLEARN_CHAOS"
GONE_S = 90.0
"""Seconds within which what belonged to a dead process must be gone; Ray's agents wait 60 s for a
dead head."""

NODES = 2
TRIES = 5

TITLES = {
    "hub": b"ray::Hub",
    "controller": b"TrainController",
    "worker": b"RayTrainWorker",
    "tune actor": b"ThinTrial",
}
"""What Ray calls the processes of a study's actors."""

PROGRAMS = {"node": "raylet", "head": "gcs_server"}
OF_RAY = {*TITLES, *PROGRAMS}

OF_A_CLUSTER = (
    b"gcs_server", b"/raylet/raylet", b"bin/ray\0start", b"dashboard", b"log_monitor",
    b"_private/monitor.py", b"ray.util.client.server", b"ray::DashboardAgent",
    b"ray::RuntimeEnvAgent", b"ray::IDLE", b"ray::_AutoscalingCoordinatorActor",
)  # fmt: skip
"""What a cluster keeps when no study runs on it; Ray Train's coordinator is one for all jobs."""

Processes = dict[int, str]
"""Numbers of processes with their start times, because Linux reuses numbers."""


def marked(mark: str) -> Processes:
    """The living processes that have inherited a mark."""
    wanted = f"{MARK}={mark}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = began(int(folder.name))
    return {pid: start for pid, start in found.items() if start}


def began(pid: int) -> str:
    """Start time of a process in clock ticks; empty if it is dead."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] != "Z":
            return fields[19]
    return ""


def alive(processes: Processes) -> Processes:
    """Those that still live."""
    return {pid: start for pid, start in processes.items() if began(pid) == start}


def command(pid: int) -> bytes:
    """Arguments of a process, or the title that it has given itself."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def victims(target: str, among: Iterable[int]) -> list[int]:
    """Those of some processes that are of one kind of target."""
    if target in PROGRAMS:
        return [pid for pid in among if _program(pid) == PROGRAMS[target]]
    return [pid for pid in among if TITLES[target] in command(pid)]


def _program(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def end(processes: Processes) -> None:
    """Kill them, unless the numbers are other processes' by now."""
    for pid in alive(processes):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def outliving(mark: str, besides: tuple[bytes, ...] = ()) -> list[str]:
    """The marked processes that do not end within `GONE_S`, apart from those expected to stay."""
    deadline = time.monotonic() + GONE_S
    while True:
        left = {pid: command(pid) for pid in marked(mark)}
        left = {
            pid: line for pid, line in left.items() if line and not any(b in line for b in besides)
        }
        if not left or time.monotonic() > deadline:
            return [f"{pid} {line[:120]!r}" for pid, line in sorted(left.items())]
        time.sleep(0.5)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class OwnRay:
    """A Ray of this run: a head without CPUs, and two simulated nodes of one CPU each.

    Args:
        mark: of its processes.
        environment: of its processes; a study's lanes inherit it.
        log: takes what they print.
    """

    def __init__(self, mark: str, environment: Mapping[str, str], log: Path) -> None:
        self.mark = mark
        self._log = log
        secret = log.with_name("ray-secret")
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_hex(32))
        self.access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(secret)}
        """Variables with which a driver gets in."""
        self._environment = dict(environment) | self.access | {MARK: mark}
        self._folder = ""
        self._head: subprocess.Popen[bytes] | None = None
        self._nodes: list[subprocess.Popen[bytes]] = []
        self.address = ""

    def heal(self) -> None:
        """Start what is not there: all of it if the head is gone, else lost nodes."""
        if (
            self._head is None
            or self._head.poll() is not None
            or not victims("head", marked(self.mark))
        ):
            self.close()
            self._start_head()
        for _ in range(TRIES):
            self._nodes = [node for node in self._nodes if _has_raylet(node)]
            while len(self._nodes) < NODES:
                self._nodes.append(self._start("--address", self.address, "--num-cpus", "1"))
            if all(map(self._comes_up, self._nodes)):
                return
        raise RuntimeError(f"Ray's nodes do not start: {self._log.read_text()[-2000:]}")

    def replace_lost_nodes(self) -> None:
        """Start nodes that are gone, or never came up, on the head that is there."""
        if self._head is None or self._head.poll() is not None:
            return
        self._nodes = [node for node in self._nodes if node.poll() is None]
        while len(self._nodes) < NODES:
            self._nodes.append(self._start("--address", self.address, "--num-cpus", "1"))

    def on_nodes(self, raylets: Iterable[int]) -> list[int]:
        """Raylets of the simulated nodes, without the head's."""
        parents = {node.pid for node in self._nodes}
        return [pid for pid in raylets if _parent(pid) in parents]

    def close(self) -> None:
        """End every process of it."""
        deadline = time.monotonic() + GONE_S
        while (left := marked(self.mark)) and time.monotonic() < deadline:
            end(left)
            time.sleep(0.1)
        for process in (self._head, *self._nodes):
            if process is not None:
                process.wait()
        self._head, self._nodes = None, []
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start_head(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="ck-", dir="/tmp")  # short: sockets' paths
        self.address = f"127.0.0.1:{free_port()}"
        self._head = self._start(
            "--head", "--port", self.address.rpartition(":")[2], "--num-cpus", "0",
            "--temp-dir", self._folder, "--include-dashboard", "false",
            "--ray-client-server-port", str(free_port()),
        )  # fmt: skip
        if not self._comes_up(self._head):
            raise RuntimeError(f"Ray does not start: {self._log.read_text()[-2000:]}")

    def _start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        own_ports = ("--min-worker-port", "0", "--max-worker-port", "0", "--node-manager-port", "0")
        with open(self._log, "ab") as log:
            return subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("ray")), "start", "--block", *arguments,
                    "--node-ip-address", "127.0.0.1", *own_ports,
                    "--object-store-memory", str(200 * 2**20),
                    "--dashboard-agent-listen-port", str(free_port()),
                ],
                stdout=log, stderr=log, start_new_session=True, env=self._environment,
            )  # fmt: skip

    def _comes_up(self, node: "subprocess.Popen[bytes]") -> bool:
        """Wait for a raylet; Ray gives up by itself where the machine is too busy."""
        while node.poll() is None:
            if _has_raylet(node):
                return True
            time.sleep(0.1)
        return False


def _has_raylet(node: "subprocess.Popen[bytes]") -> bool:
    """Whether the node is there: `ray start` ends a moment after its raylet."""
    if node.poll() is not None:
        return False
    children = Path(f"/proc/{node.pid}/task/{node.pid}/children")
    with contextlib.suppress(OSError):
        return any(_program(int(pid)) == "raylet" for pid in children.read_text().split())
    return False


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0

"""The on-premises launcher for real: `ray up` over ssh from a laptop to a head, which starts a
worker over ssh, a study through to its table, a head that dies and comes back, and `ray down`.
Three hosts on one machine, see `hosts`.

Its commands begin with `ray stop`, which ends every Ray that it sees: each host has processes of
its own and sees no others. A process that `ray stop` would take for Ray's stands outside and must
live on.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hosts import REPOSITORY, Host, Hosts, unavailable
from tiny import study_file

SSHD = "/usr/sbin/sshd"
MISSING = [tool for tool in (SSHD, "ssh", "ssh-keygen", "rsync") if shutil.which(tool) is None]
LAUNCHER = REPOSITORY / "cluster" / "launcher" / "onprem.yaml"
BIN = Path(sys.executable).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(bool(unavailable()), reason=unavailable()),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

# The home that ssh takes from the list of users must be the host's own; the machine's stays unseen.
OWN_HOME = """
set -e
sed 's#^root:\\(.*\\):[^:]*:\\([^:]*\\)$#root:\\1:/tmp/home:\\2#' /etc/passwd > /tmp/passwd
mount --bind /tmp/passwd /etc/passwd
mkdir -p /tmp/home/.ssh && chmod 700 /tmp/home/.ssh
"""
OPEN_SSH = """
set -e
mount -t tmpfs tmpfs /run && mkdir /run/sshd
ssh-keygen -q -t ed25519 -N '' -f /tmp/host_key
exec "$0" -f /dev/null -h /tmp/host_key -o UsePAM=no -o PasswordAuthentication=no -o PermitRootLogin=prohibit-password \
    -o AuthorizedKeysFile=/tmp/home/.ssh/authorized_keys -o StrictModes=no -o PidFile=none
"""


class Machines(NamedTuple):
    """Who is who, the launcher file with their names, and the process that must live on."""

    laptop: Host
    head: Host
    worker: Host
    file: Path
    bystander: "subprocess.Popen[bytes]"

    def exec(self, command: str, timeout_s: float = 300.0) -> str:
        """`ray exec`: a command on the head, as README.md says to run a study."""
        mode = "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=~/.ray-unlearn/auth_token"
        inside = f"export {mode}; {command}"
        return self.laptop.run("ray", "exec", str(self.file), inside, timeout_s=timeout_s).stdout


@pytest.fixture
def machines(tmp_path: Path, text_files: Path, tiny_model: Path) -> Iterator[Machines]:
    """A laptop with a key and a token, and two machines that its key opens."""
    bystander = subprocess.Popen(["bash", "-c", "exec -a raylet sleep 1200"])
    with Hosts(3, shared=[tmp_path, text_files, tiny_model]) as hosts:
        laptop, head, worker = hosts
        for host in hosts:
            host.run("sh", "-c", OWN_HOME)
        laptop.run(
            "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/tmp/home/.ssh/ray-unlearn"
        )
        public = laptop.run("cat", "/tmp/home/.ssh/ray-unlearn.pub").stdout
        for host in (head, worker):
            host.write("~/.ssh/authorized_keys", public)
            host.run("sh", "-c", OPEN_SSH, SSHD)
        laptop.write("~/.ray-unlearn/secret/auth_token", secrets.token_hex(32))
        text = LAUNCHER.read_text()
        for old, new in {
            "head.example.org": head.address,
            "[gpu1.example.org, gpu2.example.org]": f"[{worker.address}]",
            "min_workers: 2": "min_workers: 1",
            "max_workers: 2": "max_workers: 1",
            "ssh_user: ray ": "ssh_user: root ",
            "/opt/ray-unlearn/bin": str(BIN),
            "/scratch/ray-unlearn": "/tmp/scratch",
        }.items():
            assert old in text
            text = text.replace(old, new)
        file = tmp_path / "onprem.yaml"
        file.write_text(text)
        yield Machines(laptop, head, worker, file, bystander)
        alive = bystander.poll() is None
    bystander.kill()
    bystander.wait()
    assert alive, "`ray stop` reached a process outside"


def up(machines: Machines, *options: str) -> None:
    """`ray up`. On a machine with too much to do, Ray's own 15 s for its agent are not enough: once
    more."""
    command = ["ray", "up", "--yes", "--no-config-cache", *options, str(machines.file)]
    for _ in range(3):
        done = machines.laptop.run(*command, timeout_s=400, check=False)
        if done.returncode == 0 or "timed out during startup" not in done.stdout:
            break
    assert done.returncode == 0, done.stdout[-4000:]


def is_up(host: Host) -> bool:
    """Whether a node of Ray runs there."""
    return any("raylet/raylet" in command for command in host.processes().values())


NODES = """
import json, ray
ray.init(address="auto", log_to_driver=False)
print("NODES", json.dumps({n["NodeManagerAddress"]: n["Resources"] for n in ray.nodes() if n["Alive"]}))
"""


def nodes(machines: Machines, folder: Path) -> dict[str, dict[str, float]]:
    """What each node that Ray counts as alive offers."""
    script = folder / "nodes.py"
    script.write_text(NODES)
    said = machines.exec(f"python {script}")
    return json.loads(said.split("NODES ", 1)[1].splitlines()[0])


def what_the_autoscaler_said(machines: Machines) -> str:
    return machines.head.run(
        "sh", "-c", "tail -n 60 /tmp/ray/session_latest/logs/monitor.*", check=False
    ).stdout


def joined(machines: Machines, folder: Path) -> dict[str, dict[str, float]]:
    """The same, once the worker is there: the autoscaler starts it after `ray up` has returned."""
    deadline = time.monotonic() + 400
    while len(found := nodes(machines, folder)) < 2:
        assert time.monotonic() < deadline, "the worker did not join:\n" + what_the_autoscaler_said(
            machines
        )
        time.sleep(2)
    return found


def test_from_nothing_to_a_table_and_back(
    machines: Machines, tmp_path: Path, text_files: Path, tiny_model: Path
) -> None:
    laptop, head, worker, file, _ = machines
    assert not any("raylet" in command for command in head.processes().values()), (
        "the bystander is seen inside"
    )

    up(machines)
    assert is_up(head)
    offered = joined(machines, tmp_path)
    assert offered[head.address].get("CPU", 0) == 0, "trials would run beside the driver"
    assert offered[worker.address]["CPU"] > 0

    said = laptop.run(
        "ray", "exec", str(file), "export RAY_AUTH_MODE=disabled; ray status", check=False
    )
    assert said.returncode != 0, "the cluster speaks to whoever has no token"

    study = study_file(
        tmp_path, text_files, tiny_model,
        methods=["gradient_ascent"],
        search={"sampler": "random", "trials_per_method": 1},
        operations={"lanes": 1, "cpus_per_worker": 1, "gpus_per_worker": 0},
    )  # fmt: skip
    address = f"{head.address}:6379"
    machines.exec(
        f"ray-unlearn run {study} --storage {tmp_path}/study --address {address} --quiet",
        timeout_s=500,
    )
    assert machines.exec(f"ray-unlearn verify {tmp_path}/study")
    assert '"finished": 1' in machines.exec(f"ray-unlearn status {tmp_path}/study --json")
    assert set(nodes(machines, tmp_path)) == {head.address, worker.address}
    for host in (head, worker):
        mode = host.run("stat", "-c", "%a", "/tmp/home/.ray-unlearn/auth_token").stdout.strip()
        assert mode == "600"

    # The head's process dies and is started again: its tables are on its disk, and the worker is
    # found there.
    raylets = {pid for pid, command in worker.processes().items() if "raylet/raylet" in command}
    for pid, command in head.processes().items():
        if "gcs_server" in command:
            os.kill(pid, signal.SIGKILL)
    up(machines, "--restart-only")
    joined(machines, tmp_path)
    assert raylets <= worker.processes().keys(), "the worker was started anew"

    laptop.run("ray", "down", "--yes", str(file), timeout_s=200)
    assert not is_up(head)
    # `ray down` leaves workers of this provider alone; without a head they end by themselves after
    # a minute.
    deadline = time.monotonic() + 180
    while is_up(worker):
        assert time.monotonic() < deadline, "a worker outlives its cluster"
        time.sleep(1)

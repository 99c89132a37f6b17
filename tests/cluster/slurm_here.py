"""A real Slurm on the hosts of `hosts.py`: munged and slurmctld on the first, slurmd on each; all
files in one shared folder.

    with Hosts(2, shared=[folder]) as hosts, Slurm(hosts, folder) as slurm:
        job = slurm.submit("job.sh")
        assert slurm.ended(job)["ExitCode"] == "0:0"

Nothing of the machine's own Slurm or munge is read. Every host has its own process ids, so what a
job kills is its own.
"""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from hosts import Host, Hosts

PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "sinfo", "srun")
# `cred_expire`: a requeued job waits until the credentials of its first start have expired, else
# two minutes.
SETTINGS = """
ClusterName=here
SlurmctldHost={name}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
MpiDefault=none
KillWait=30
MinJobAge=3600
SchedulerParameters=sched_interval=1,bf_interval=1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
MUNGE = {
    "socket": "socket",
    "key-file": "key",
    "pid-file": "pid",
    "seed-file": "seed",
    "log-file": "log",
}


def unavailable() -> str:
    """Why Slurm cannot run here; empty when it can."""
    missing = [name for name in COMMANDS if shutil.which(name, path=PATH) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


class Slurm:
    """A context manager: inside it all hosts are idle nodes. It ends with the hosts.

    Args:
        hosts: running hosts, all of which see `folder`.
        folder: an empty one with a short path, since munge's socket lies there.
    """

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self._hosts = list(hosts)
        self._folder = folder
        self._ending = ExitStack()
        self._variables = {"SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self) -> Self:
        folder, first = self._folder, self._hosts[0]
        (folder / "state").mkdir()
        (folder / "munge.key").touch(0o600)
        (folder / "munge.key").write_bytes(os.urandom(128))
        nodes = [
            f"NodeName={host.name} NodeAddr={host.address} CPUs=2 RealMemory=1000\n"
            for host in self._hosts
        ]
        settings = SETTINGS.format(name=first.name, address=first.address, folder=folder)
        (folder / "slurm.conf").write_text("".join([*nodes, settings]))
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        # --force: the folder's parents may be open to a group.
        self._daemon(
            first,
            "munged",
            "--foreground",
            "--force",
            *(f"--{k}={folder}/munge.{v}" for k, v in MUNGE.items()),
        )
        self._until((folder / "munge.socket").exists, 30)
        self._daemon(first, "slurmctld", "-D")
        for host in self._hosts:
            self._daemon(host, "slurmd", "-D", "-N", host.name)
        wanted = f"idle {len(self._hosts)}"
        self._until(
            lambda: self.run("sinfo", "-h", "-o", "%T %D", check=False).strip() == wanted, 60
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.close()

    @property
    def path(self) -> str:
        """The PATH of commands and, as they pass it on, of jobs."""
        return f"{self._hosts[0].environment()['PATH']}:/usr/sbin:/sbin"

    def run(self, *command: str, check: bool = True, **variables: str) -> str:
        """The output of a command on the first host."""
        return self._hosts[0].run(*command, check=check, **self._with_path(variables)).stdout

    def submit(self, *arguments: str, **variables: str) -> int:
        """The number of a job; arguments as for `sbatch`."""
        return int(self.run("sbatch", "--parsable", *arguments, **variables))

    def job(self, number: int) -> dict[str, str]:
        """What Slurm knows of a job: JobState, ExitCode, Restarts ..."""
        said = self.run("scontrol", "--oneliner", "show", "job", str(number))
        return dict(word.partition("=")[::2] for word in said.split() if "=" in word)

    def ended(self, number: int, timeout_s: float = 300.0) -> dict[str, str]:
        """The same, when the job has ended."""
        states = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED")
        self._until(lambda: self.job(number)["JobState"] not in states, timeout_s)
        return self.job(number)

    def _daemon(self, host: Host, *command: str) -> None:
        log = self._ending.enter_context(
            (self._folder / f"{command[0]}-{host.name}.out").open("wb")
        )
        host.start(*command, log=log, **self._with_path({}))

    def _with_path(self, variables: dict[str, str]) -> dict[str, str]:
        return self._variables | {"PATH": self.path} | variables

    def _until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                logs = [
                    f"{path}:\n{path.read_text()[-1500:]}"
                    for path in sorted(self._folder.glob("*.[ol]*[tg]"))
                ]
                raise TimeoutError("\n".join(logs))
            time.sleep(0.2)

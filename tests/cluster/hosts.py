"""Several real hosts on one machine: each its own network, processes, mounts and name, joined by a
bridge.

    with Hosts(3, shared=[tmp_path]) as hosts:
        head, first, second = hosts
        head.run("ray", "start", "--head", f"--node-ip-address={head.address}")
        second.isolate()   # nothing gets through, and nobody is told
        second.rejoin()
        first.kill()       # power cut

A host is a process with its own network, pid, mount and uts namespace. It has its own /tmp,
/dev/shm, HOME and loopback; every other file is the machine's, and `shared` folders below /tmp are
seen by all, like a shared file system. Commands enter it through `nsenter`.

The bridge has a network namespace too. So nothing of this is seen in the machine's own network,
addresses cannot collide with it or with another test run, and the kernel removes everything with
the processes: they end when `Hosts` is closed, and when the process that made it dies, however it
does.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

REPOSITORY = Path(__file__).parent.parent.parent
NAMESPACES = ("--net", "--pid", "--mount", "--uts")
TOOLS = ("unshare", "nsenter", "ip", "mount", "hostname")

# Process 1 of a host adopts orphans and must reap them; it ends when whoever made it does, for then
# the pipe closes.
FIRST_PROCESS = """
import signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("up", flush=True)
sys.stdin.read()
"""

# Bind mounts below the stage travel with it to /tmp. With no name server to ask, every unknown name
# fails at once.
BOOT = """
set -e
name=$1 hosts=$2; shift 2
hostname "$name"
ip link set lo up
mount -t tmpfs -o mode=1777 tmpfs "$STAGE"
mkdir "$STAGE/home"
for folder in "$@"; do
    mkdir -p "$STAGE/${folder#/tmp/}"
    mount --bind "$folder" "$STAGE/${folder#/tmp/}"
done
printf '%s' "$hosts" > "$STAGE/.hosts"
: > "$STAGE/.resolv"
[ ! -e /etc/hosts ] || mount --bind "$STAGE/.hosts" /etc/hosts
[ ! -e /etc/resolv.conf ] || mount --bind "$STAGE/.resolv" /etc/resolv.conf
mount --rbind "$STAGE" /tmp
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
exec "$PYTHON" -ISc "$FIRST_PROCESS"
"""


def unavailable() -> str:
    """Why there can be no hosts here; empty when there can."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"not installed: {', '.join(missing)}"
    attempt = "mount -t tmpfs tmpfs /tmp && ip link add probe type bridge && ip link add one type veth peer name two"
    command = ["unshare", *NAMESPACES, "--fork", "--mount-proc", "sh", "-c", attempt]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (
        f"root, but may not make namespaces here: {done.stderr.strip()}" if done.returncode else ""
    )


class Host:
    """One host. Made by `Hosts`."""

    def __init__(
        self, name: str, address: str, process: "subprocess.Popen[str]", switch: int, port: str
    ) -> None:
        self.name = name
        self.address = address
        self._process = process
        self._switch = switch
        self._port = port

    @property
    def alive(self) -> bool:
        """False once it was killed."""
        return self._process.poll() is None

    @property
    def root(self) -> Path:
        """Its file system as seen from outside, for logs: `host.root / "tmp/ray"`. Gone with the
        host."""
        return Path(f"/proc/{self._process.pid}/root")

    def command(self, *command: str) -> list[str]:
        """`command` as the machine has to call it, to run inside. Pass `environment()` along."""
        pid = self._process.pid
        inside = [
            "nsenter",
            f"--target={pid}",
            "--net",
            "--mount",
            "--uts",
            f"--pid=/proc/{pid}/ns/pid_for_children",
        ]
        return [*inside, "env", f"--chdir={REPOSITORY}", *command]

    def environment(self, **changes: str) -> dict[str, str]:
        """The caller's variables, without what would lead a program back to the machine's own Ray
        or folders."""
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("RAY_", "XDG_", "PYTEST_")) and k != "TMPDIR"
        }
        here = {
            "HOME": "/tmp/home",
            "PATH": f"{Path(sys.executable).parent}:{kept.get('PATH', os.defpath)}",
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
        }
        return kept | here | changes

    def start(
        self,
        *command: str,
        log: IO[Any] | int | None = None,
        stdin: int | None = None,
        **environment: str,
    ) -> "subprocess.Popen[str]":
        """Run a command and do not wait. It dies with the host; ending the returned process
        (`nsenter`) does not end it.

        Args:
            command: the program and its arguments.
            log: takes both outputs; default: a pipe, `stdout` of what is returned.
            stdin: as in `subprocess`.
            environment: variables to set.
        """
        return subprocess.Popen(
            self.command(*command),
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE if log is None else log,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment(**environment),
        )

    def run(
        self,
        *command: str,
        stdin: str = "",
        timeout_s: float = 120.0,
        check: bool = True,
        **environment: str,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end; `stdout` of the result has both outputs.

        Raises:
            RuntimeError: it failed and `check` is set; the message has its output.
            subprocess.TimeoutExpired: it took longer than `timeout_s`. It goes on, until the host
            ends.
        """
        # Not through a pipe: a daemon that the command leaves behind would hold it open.
        with tempfile.TemporaryFile("w+") as output:
            process = self.start(*command, log=output, stdin=subprocess.PIPE, **environment)
            assert process.stdin is not None
            with process.stdin, suppress(BrokenPipeError):
                process.stdin.write(stdin)
            code = process.wait(timeout=timeout_s)
            output.seek(0)
            said = output.read()
        if code and check:
            raise RuntimeError(
                f"{self.name}: {' '.join(command)} ended with {code}:\n{said[-4000:]}"
            )
        return subprocess.CompletedProcess(command, code, said)

    def write(self, path: str, text: str, mode: int = 0o600) -> None:
        """A file on this host; `~` is its HOME."""
        script = 'mkdir -p "$(dirname "$1")" && umask 077 && cat > "$1" && chmod "$2" "$1"'
        self.run(
            "sh", "-c", script, "-", path.replace("~", "/tmp/home", 1), f"{mode:o}", stdin=text
        )

    def isolate(self) -> None:
        """Take its cable out of the switch: its own interface stays up, and packets vanish both
        ways."""
        _in_network(self._switch, "ip", "link", "set", self._port, "nomaster")

    def rejoin(self) -> None:
        """Put the cable back."""
        _in_network(self._switch, "ip", "link", "set", self._port, "master", "bridge")

    def kill(self) -> None:
        """A power cut: SIGKILL to every process, without a word to the others. Returns when all are
        gone."""
        inside = self.processes()
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + 30
        while any(_namespace(pid) for pid in inside) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()

    def processes(self) -> dict[int, str]:
        """What runs inside: command lines by the machine's process numbers, with which they can be
        signalled."""
        own, found = _link(f"/proc/{self._process.pid}/ns/pid_for_children"), {}
        for path in Path("/proc").glob("[0-9]*"):
            if own and _namespace(int(path.name)) == own:
                with suppress(OSError):
                    found[int(path.name)] = (
                        (path / "cmdline")
                        .read_bytes()
                        .replace(b"\0", b" ")
                        .decode(errors="replace")
                    )
        return found


class Hosts:
    """A context manager: inside it the hosts are up; afterwards nothing is left of them.

    Args:
        count: how many.
        shared: folders that all of them see. Only those below /tmp need naming, for everything else
            is shared anyway.

    Raises:
        RuntimeError: they cannot be made here (see `unavailable`).
    """

    def __init__(self, count: int, shared: Iterable[Path] = ()) -> None:
        wanted = [REPOSITORY, Path(sys.prefix), Path(sys.base_prefix), *shared]
        self._shared = _outermost(path.resolve() for path in wanted)
        self._names = {f"host{number}": f"10.0.0.{number}" for number in range(1, count + 1)}
        self._ending = ExitStack()
        self._hosts: list[Host] = []

    def __enter__(self) -> Self:
        with ExitStack() as ending:  # whatever fails below, what was made so far is removed
            stage = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="hosts-")))
            switch = _started(
                [
                    "unshare",
                    "--net",
                    "--fork",
                    "--kill-child",
                    sys.executable,
                    "-ISc",
                    FIRST_PROCESS,
                ],
                {},
            )
            ending.callback(_ended, switch)
            _in_network(switch.pid, "ip", "link", "add", "bridge", "type", "bridge")
            _in_network(switch.pid, "ip", "link", "set", "bridge", "up")
            for name, address in self._names.items():
                self._hosts.append(self._host(name, address, switch.pid, stage, ending))
            self._ending = ending.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.close()

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts)

    def __getitem__(self, index: int) -> Host:
        return self._hosts[index]

    def _host(self, name: str, address: str, switch: int, stage: Path, ending: ExitStack) -> Host:
        lines = [
            "127.0.0.1 localhost",
            *(f"{known} {other}" for other, known in self._names.items()),
        ]
        inside = ["sh", "-c", BOOT, "boot", name, "\n".join([*lines, ""]), *map(str, self._shared)]
        process = _started(
            ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc", *inside],
            {"STAGE": str(stage), "PYTHON": sys.executable, "FIRST_PROCESS": FIRST_PROCESS},
        )
        host = Host(name, address, process, switch, f"to-{name}")
        ending.callback(host.kill)
        ends = [
            "ip",
            "link",
            "add",
            f"to-{name}",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            str(process.pid),
        ]
        _in_network(switch, *ends)
        _in_network(process.pid, "ip", "address", "add", f"{address}/24", "dev", "eth0")
        _in_network(process.pid, "ip", "link", "set", "eth0", "up")
        # Programs learn their own address by looking which way a packet to the world would take.
        _in_network(process.pid, "ip", "route", "add", "default", "via", "10.0.0.254")
        _in_network(switch, "ip", "link", "set", f"to-{name}", "master", "bridge", "up")
        return host


def _outermost(folders: Iterable[Path]) -> list[Path]:
    """Those below /tmp, without those that lie in another one."""
    below = sorted({folder for folder in folders if folder.is_relative_to("/tmp")})
    return [
        one
        for one in below
        if not any(one != other and one.is_relative_to(other) for other in below)
    ]


def _started(command: Sequence[str], variables: dict[str, str]) -> "subprocess.Popen[str]":
    """A process that has said that it is up.

    Raises:
        RuntimeError: it ended before; the message has what it said.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | variables,
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    if said != "up\n":
        said += process.stdout.read()
        _ended(process)
        raise RuntimeError(f"no host: {said.strip()} ({' '.join(command[:6])} ...)")
    return process


def _ended(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def _in_network(pid: int, *command: str) -> None:
    done = subprocess.run(
        ["nsenter", f"--net=/proc/{pid}/ns/net", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _namespace(pid: int) -> str:
    """The pid namespace of a process; empty when it is gone."""
    return _link(f"/proc/{pid}/ns/pid")


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""

"""What `chaos.py` runs: kinds of studies and their targets, the command line, the store."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chaos_processes import MARK

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))
from object_store import BUCKET, ENVIRONMENT  # noqa: E402


@dataclass(frozen=True)
class Kind:
    """A kind of piece."""

    name: str
    targets: tuple[str, ...]
    lanes: int = 1
    methods: tuple[str, ...] = ()
    warm: bool = True
    """On the Ray that this run keeps, not on one that the driver starts."""
    remote: bool = False


ACTORS = ("driver", "hub", "controller", "worker", "tune actor")
KINDS = {
    kind.name: kind
    for kind in (
        Kind("warm", (*ACTORS, "node")),
        Kind("object-store", (*ACTORS, "store"), remote=True),
        Kind("own-ray", (*ACTORS, "node", "head"), warm=False),
        Kind("two-lanes", (*ACTORS, "node"), 2, ("random_labels", "ascent_kl_in_distribution")),
        Kind("head", (*ACTORS, "node", "head")),
    )
}


def started(
    arguments: list[str], log: Path, environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """The command line, in a process of its own session."""
    code = "from ray_unlearn.cli.main import main; main()"
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments, "--quiet"],
            stdout=file, stderr=file, start_new_session=True, env=dict(environment),
        )  # fmt: skip


class StoreServer:
    """`tests/object_store.py` in a process, whose objects outlive it."""

    def __init__(self, folder: Path, port: int, mark: str) -> None:
        self._folder, self._port, self._mark = folder, port, mark

    @property
    def objects(self) -> Path:
        """The folder in which its objects are."""
        return self._folder / "objects" / BUCKET

    @property
    def requests(self) -> Path:
        """The folder that names what it is carrying out."""
        return self._folder / "requests"

    def start(self) -> None:
        """Start it, on the same port each time."""
        faults = ("--errors", "0.05", "--slow", "0.02", "--slow-s", "2")
        process = subprocess.Popen(
            [
                sys.executable, str(REPOSITORY / "tests" / "object_store.py"),
                *faults, "--port", str(self._port), "--keep", str(self._folder),
                "--seed", str(time.time_ns() % 10**6),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", MARK: self._mark},
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline(), "the object store does not start"


def store_environment(port: int) -> dict[str, str]:
    """Variables with which a study finds the server."""
    return ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}

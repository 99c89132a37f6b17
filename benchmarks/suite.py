"""How long `make test` takes, in seconds and in units of a fixed workload of the same run.

    python benchmarks/suite.py [--command "make test"]

A shared machine is sometimes half as fast as at other times. The workload (hashing, on every core
at once) runs before and after the command; the ratio of the two times can be compared with that of
another day or machine, seconds cannot. When the workload before and after differ by more than a
fifth, the machine was not quiet and the ratio is worth little.
"""

import argparse
import hashlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
ROUNDS = 4_000_000
"""Rounds of one workload: about 2 s on a core of 2023."""
CORES = 2
REPEATS = 5


def work(seed: int) -> bytes:
    """Hash in a chain, so that neither memory nor disk nor a second thread decides the time."""
    return hashlib.pbkdf2_hmac("sha256", b"suite", str(seed).encode(), ROUNDS)


def workload_s() -> list[float]:
    """Wall seconds of the workload on all cores at once, several times."""
    found = []
    with ProcessPoolExecutor(CORES) as pool:
        list(pool.map(len, [b""] * CORES))  # the processes are there before the clock starts
        for _ in range(REPEATS):
            started = time.monotonic()
            list(pool.map(work, range(CORES)))
            found.append(time.monotonic() - started)
    return found


def main() -> int:
    """Print the times as JSON; returns the command's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--command", default="make test")
    command = shlex.split(parser.parse_args().command)
    before = workload_s()
    started, children = time.monotonic(), os.times()
    code = subprocess.run(command, cwd=REPOSITORY, check=False).returncode
    wall_s, after = time.monotonic() - started, os.times()
    cpu_s = sum(after[2:4]) - sum(children[2:4])
    later = workload_s()
    unit = statistics.median(before + later)
    figures = {
        "command": shlex.join(command),
        "exit_code": code,
        "wall_s": round(wall_s, 1),
        "cpu_s": round(cpu_s, 1),
        "workload_before_s": round(statistics.median(before), 3),
        "workload_after_s": round(statistics.median(later), 3),
        "ratio": round(wall_s / unit, 1),
    }
    print(json.dumps(figures, indent=2))
    return code


if __name__ == "__main__":
    sys.exit(main())

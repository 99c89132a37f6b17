"""Kill a study's processes at random, resume it to its end, and compare it with an undisturbed one.

    python benchmarks/chaos.py [--kills 50] [--seed 0] [--study FILE]

Driver, workers, Ray Train controllers, Ray Tune actors and the hub receive SIGKILL. In the end
`ray-unlearn verify` must be clean, the number of trials exact, no process left, and, with one lane
and a sampler without memory (`random`, `qmc`), the result table identical to the undisturbed run's,
row for row, in every column but those of the clock and the memory.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.table import UNREPEATABLE, result_table
from ray_unlearn.store.verify import Verification, verify

TARGETS = {
    "driver": b"",
    "worker": b"RayTrainWorker",
    "controller": b"TrainController",
    "tune actor": b"ThinTrial",
    "hub": b"ray::Hub",
}
STUDY = {
    "name": "chaos",
    "model": {"source": "demo:shakespeare"},
    "data": {"source": "demo:shakespeare", "sequence_length": 128},
    "methods": ["gradient_ascent", "random_labels", "ascent_kl_in_distribution"],
    "space_overrides": {
        "learning_rate": {"type": "float", "low": 2e-4, "high": 1e-3, "scale": "log"},
        "steps": {"type": "int", "low": 1, "high": 12, "free": True},
    },
    "search": {"sampler": "random", "trials_per_method": 8, "quasi_random_share": 0.5},
    "evaluation": {"at": [4, 8, 12]},
}
OPERATIONS = {
    "lanes": 1,
    "max_retries": 1000,
    "checkpoint_every_s": 0,
    "tensorboard": False,
    "grace_s": 5,
}


@dataclass
class Chaos:
    """The kills in a study, and its result."""

    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    seconds: float = 0.0
    exits: list[int] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    """Processes left when Ray's agents, which wait 60 s for a dead head, should be gone."""


def undisturbed(study: Path, folder: Path) -> float:
    """Run the study without any fault, and return the seconds it took."""
    start = time.monotonic()
    process = _start(study, folder, folder.with_suffix(".log"))
    if process.wait() != 0:
        raise RuntimeError(folder.with_suffix(".log").read_text())
    return time.monotonic() - start


def disturbed(
    study: Path, folder: Path, kills: int, seed: int, mean_s: float = 8.0, limit_s: float = 3600.0
) -> Chaos:
    """Run the study to its end, with `kills` of its processes killed on the way.

    A process is killed every `mean_s` seconds on average, at exponentially distributed moments,
    whatever the study is doing then: starting, training, writing, ending.
    """
    rng, chaos, start = random.Random(seed), Chaos(), time.monotonic()
    log = folder.with_suffix(".log")
    seen: dict[int, str] = {}
    while True:
        process = _start(study, folder, log)
        chaos.starts += 1
        while process.poll() is None:
            if time.monotonic() - start > limit_s:
                process.kill()
                raise TimeoutError(
                    f"not done after {limit_s:.0f} s: {chaos}\n{log.read_text()[-4000:]}"
                )
            moment = time.monotonic() + rng.expovariate(1 / mean_s)
            while process.poll() is None and time.monotonic() < moment:
                seen |= descendants(process.pid)
                time.sleep(0.1)
            if process.poll() is None and chaos.kills.total() < kills:
                _kill(process.pid, rng.choice(list(TARGETS)), chaos)
            elif process.poll() is None:
                seen |= descendants(process.pid)
        chaos.exits.append(process.returncode)
        if process.returncode == 0:
            chaos.seconds = time.monotonic() - start
            chaos.orphans = _outlive(seen)
            return chaos


def compare(one: Path, two: Path) -> list[str]:
    """Cells in which two studies' result tables differ, apart from clock and memory."""
    tables = [
        result_table(read_ledger(folder / "ledger")).drop_columns(list(UNREPEATABLE))
        for folder in (one, two)
    ]
    first, second = (table.drop_columns(["study"]).to_pylist() for table in tables)
    if len(first) != len(second):
        return [f"{len(first)} rows and {len(second)} rows"]
    return [
        f"trial {a['number']} update {a['update']} {name}: {a[name]} and {b[name]}"
        for a, b in zip(first, second, strict=True)
        for name in a
        if repr(a[name]) != repr(b[name])
    ]


def descendants(pid: int) -> dict[int, str]:
    """Process ids below `pid` with their start times, because Linux reuses ids."""
    parents: dict[int, list[int]] = {}
    began: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
                began[int(path.parent.name)] = fields[19]
    found, waiting = {}, [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            found[child] = began[child]
            waiting.append(child)
    return found


def _start(study: Path, folder: Path, log: Path) -> "subprocess.Popen[bytes]":
    begun = (folder / "ledger" / "events.jsonl").exists() and (
        folder / "ledger" / "events.jsonl"
    ).stat().st_size > 0
    arguments = ["resume", str(folder)] if begun else ["run", str(study), "--storage", str(folder)]
    command = [
        sys.executable,
        "-c",
        "from ray_unlearn.cli.main import main; main()",
        *arguments,
        "--quiet",
    ]
    with open(log, "ab") as file:
        return subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def _kill(driver: int, target: str, chaos: Chaos) -> None:
    victims = [driver]
    if TARGETS[target]:
        victims = [pid for pid in descendants(driver) if TARGETS[target] in _command(pid)]
    if victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(max(victims), signal.SIGKILL)
            chaos.kills[target] += 1


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _outlive(seen: dict[int, str]) -> list[str]:
    """The processes that are still alive after a minute and a half."""

    def alive() -> list[int]:
        found = []
        for pid, began in seen.items():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z" and fields[19] == began:
                    found.append(pid)
        return found

    deadline = time.monotonic() + 90
    while alive() and time.monotonic() < deadline:
        time.sleep(0.2)
    return [f"{pid} {_command(pid)[:80]!r}" for pid in alive()]


def main() -> None:
    """Run both, print what was killed and how they compare; exit 1 if anything differs."""
    parser = argparse.ArgumentParser(description="random SIGKILLs over one study")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--study", type=Path, help="default: 24 trials on the demo world")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        study = Path(scratch) / "study.yaml"
        content = yaml.safe_load(arguments.study.read_text()) if arguments.study else STUDY
        study.write_text(
            yaml.safe_dump(content | {"operations": content.get("operations", {}) | OPERATIONS})
        )
        calm, wild = Path(scratch) / "calm", Path(scratch) / "wild"
        calm_s = undisturbed(study, calm)
        chaos = disturbed(study, wild, arguments.kills, arguments.seed)
        found: Verification = verify(wild)
        differences = compare(calm, wild)
        killed = ", ".join(f"{count} {name}" for name, count in chaos.kills.most_common())
        print(
            f"killed: {chaos.kills.total()} ({killed}); {chaos.starts} starts of the driver; "
            f"exits {chaos.exits}"
        )
        print(f"undisturbed {calm_s:.0f} s, disturbed {chaos.seconds:.0f} s")
        print(
            f"verify: {'clean' if not found.problems else found.problems}; complete: "
            f"{found.complete}"
        )
        print(
            f"{found.trials} trials of {found.asked_for}, {found.rows} rows, {found.rows} rows "
            "compared"
        )
        print(
            f"result table: {'identical' if not differences else differences[:10]}; orphans: "
            f"{chaos.orphans or 'none'}"
        )
        good = not found.problems and found.complete and not differences and not chaos.orphans
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

"""The log: seconds per event side by side with another version's, and writers that race for it.

    python benchmarks/log.py                        this version: a folder, and a real S3 server
    python benchmarks/log.py --against ../other     in turn with the version in another checkout
    python benchmarks/log.py --race 4 --seconds 60  processes that take the study from one another

Prints one line per measurement; `--race` exits with 1 when an event that was acknowledged is not
in its place.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path.append(str(HERE / "tests"))

EVENT_TEXT = "x" * 1_000
PAUSE_S = 0.3
"""Mean pause of a racing writer between two events: a study makes a few per second."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="checkout of another version")
    parser.add_argument("--events", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--race", type=int, metavar="PROCESSES")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--at", help=argparse.SUPPRESS)
    parser.add_argument("--writer", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.writer:
        _race_on(given.at, given.writer, given.seconds)
        return 0
    if given.at:
        print(json.dumps(_appended(given.at, given.events)))
        return 0
    from object_store import object_store

    with tempfile.TemporaryDirectory() as folder, object_store() as store:
        environment = os.environ | store.environment
        if given.race:
            return _raced(given.race, given.seconds, Path(folder), environment)
        trees = {"this version": HERE} | ({"other": given.against} if given.against else {})
        for kind in ("folder", "s3"):
            _compared(kind, trees, given, Path(folder), environment)
    return 0


def _appended(location: str, events: int) -> list[float]:
    """Milliseconds of each append."""
    from ray_unlearn.store.event import Header, Note
    from ray_unlearn.store.location import opened

    took = []
    Path(location).parent.mkdir(parents=True, exist_ok=True) if "://" not in location else None
    with opened(location) as place, place.create_ledger(Header(spec={"name": "x"})) as ledger:
        for _ in range(events):
            began = time.perf_counter()
            ledger.append(Note(EVENT_TEXT))
            took.append(1e3 * (time.perf_counter() - began))
    return took


def _compared(
    kind: str,
    trees: dict[str, Path],
    given: argparse.Namespace,
    folder: Path,
    environment: dict[str, str],
) -> None:
    took: dict[str, list[float]] = {name: [] for name in trees}
    for repeat in range(given.repeats):
        for name, tree in trees.items():
            place = f"{repeat}-{len(name)}-{kind}"
            location = f"s3://studies/{place}" if kind == "s3" else str(folder / place)
            command = [sys.executable, __file__, "--at", location, "--events", str(given.events)]
            out = subprocess.run(
                command,
                env=environment | {"PYTHONPATH": str(tree.resolve())},
                check=True,
                capture_output=True,
                text=True,
            )
            took[name].append(statistics.median(json.loads(out.stdout)))
    for name, medians in took.items():
        print(
            f"{kind}: {name}: {statistics.median(medians):.3f} ms per event (median of "
            f"{given.repeats} runs of {given.events}; {min(medians):.3f} to {max(medians):.3f})"
        )
    if len(took) == 2:
        ratios = [a / b for a, b in zip(*took.values(), strict=True)]
        print(
            f"{kind}: ratio {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
        )


def _race_on(location: str, done: Path, seconds: float) -> None:
    """Take the study again and again; write down each event that was acknowledged."""
    from ray_unlearn.spec.errors import StorageError
    from ray_unlearn.store import lease
    from ray_unlearn.store.event import Note
    from ray_unlearn.store.location import opened

    lease.EXPIRY_S = -1.0  # the lease is of no help: everybody takes everybody for dead
    end, number = time.monotonic() + seconds, 0
    with open(done, "w", buffering=1) as file:
        while time.monotonic() < end:
            try:
                with opened(location) as place, place.open_ledger() as ledger:
                    file.write("taken\n")
                    while time.monotonic() < end:
                        text = f"{done.name}:{number}"
                        number += 1
                        ledger.append(Note(text))
                        file.write(text + "\n")
                        time.sleep(random.expovariate(1 / PAUSE_S))
            except StorageError:
                continue


def _raced(processes: int, seconds: float, folder: Path, environment: dict[str, str]) -> int:
    os.environ.update(environment)
    from ray_unlearn.store.event import Header
    from ray_unlearn.store.ledger import read_ledger
    from ray_unlearn.store.location import fetched, opened
    from ray_unlearn.store.object_events import read_events
    from ray_unlearn.store.storage import storage_at

    url = "s3://studies/race"
    with opened(url) as place:
        place.create_ledger(Header(spec={"name": "x"})).close()
    files = [folder / f"writer-{index}" for index in range(processes)]
    command = [sys.executable, __file__, "--at", url, "--seconds", str(seconds), "--writer"]
    path = environment | {"PYTHONPATH": str(HERE)}
    running = [subprocess.Popen([*command, str(file)], env=path) for file in files]
    for process in running:
        process.wait()
    lines = [line for file in files for line in file.read_text().splitlines()]
    acknowledged = [line for line in lines if line != "taken"]
    with fetched(url) as study:
        there = read_ledger(study / "ledger").notes
    numbers = [number for number, _ in read_events(storage_at(url))]
    lost = set(acknowledged) - set(there)
    dense = numbers == list(range(len(numbers)))
    print(
        f"{processes} writers, {seconds:.0f} s: {len(lines) - len(acknowledged):,} changes of "
        f"holder, {len(acknowledged):,} events acknowledged, {len(lost)} of them lost, "
        f"{len(there) - len(set(there))} twice, {len(numbers):,} in the log, "
        f"{'dense' if dense else 'NOT DENSE'}"
    )
    return int(bool(lost) or len(there) != len(set(there)) or not dense)


if __name__ == "__main__":
    sys.exit(main())

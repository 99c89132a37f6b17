"""Kill a study's processes at random, resume it to its end, and compare it with an undisturbed one.

    python benchmarks/chaos.py --kills 1000 --out DIR [--pieces warm object-store] [--seed 0]

Driver, workers, Ray Train controllers, Ray Tune actors, the hub, nodes, the head and the object
store's server receive SIGKILL, at moments spread evenly over a study's phases (`chaos_watch`). It
goes study by study ("pieces", `chaos_piece`); stopped, or killed, it goes on where it was.

After each piece `ray-unlearn verify` must be clean, the result table identical to the undisturbed
study's, row for row, in every column but those of the clock and the memory, no line of the ledger
lost on the way, and no process left. Exit code 1 if anything was violated.
"""

import argparse
import os
import random
import secrets
import signal
import sys
import time
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.compute
import yaml
from chaos_kinds import KINDS, Kind, started, store_environment
from chaos_log import ChaosLog
from chaos_piece import Piece
from chaos_processes import MARK, OwnRay, end, free_port, marked

from ray_unlearn.spec.errors import StorageError
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.table import UNREPEATABLE, result_table

STUDY: dict[str, Any] = {
    "name": "chaos",
    "model": {"source": "demo:shakespeare"},
    "data": {"source": "demo:shakespeare", "sequence_length": 128},
    "methods": ["gradient_ascent"],
    "space_overrides": {
        "learning_rate": {"type": "float", "low": 2e-4, "high": 1e-3, "scale": "log"},
        "steps": {"type": "int", "low": 1, "high": 30, "free": True},
    },
    "search": {"sampler": "random", "quasi_random_share": 0.0, "trials_per_method": 1},
    "evaluation": {"at": [6, 12, 18, 24, 30]},
}
"""A trial is longer than the start of a lane, so that kills find trials and not only starts.

Each leg adds a trial, so the first ones must not depend on how many there are in all.
"""

OPERATIONS = {
    "max_retries": 1000,
    "checkpoint_every_s": 0,
    "tensorboard": False,
    "grace_s": 5,
}


def undisturbed(study: Path, folder: Path) -> float:
    """Run the study without any fault, and return the seconds it took."""
    start = time.monotonic()
    log = folder.with_suffix(".log")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = started(["run", str(study), "--storage", str(folder)], log, environment)
    if process.wait() != 0:
        raise RuntimeError(log.read_text())
    return time.monotonic() - start


def compare(one: Path, two: Path) -> list[str]:
    """Cells in which two studies' result tables differ, apart from clock and memory."""
    first, second = (result_table(read_ledger(folder / "ledger")) for folder in (one, two))
    return differing_cells(first, second)


def differing_cells(one: pa.Table, two: pa.Table) -> list[str]:
    """Cells in which two result tables differ, apart from clock and memory."""
    first, second = (
        table.drop_columns([*UNREPEATABLE, "study"]).to_pylist() for table in (one, two)
    )
    if len(first) != len(second):
        return [f"{len(first)} rows and {len(second)} rows"]
    return [
        f"trial {a['number']} update {a['update']} {name}: {a[name]} and {b[name]}"
        for a, b in zip(first, second, strict=True)
        for name in a
        if repr(a[name]) != repr(b[name])
    ]


class Reference:
    """The undisturbed studies, each as long as the longest piece needs it."""

    def __init__(self, out: Path, content: dict[str, Any], mark: str) -> None:
        self._out, self._content, self._mark = out, content, mark

    def table(self, kind: Kind, trials: int) -> pa.Table:
        """The rows of the first `trials` trials of each method, as they are without faults."""
        methods = kind.methods or self._content["methods"]
        folder = self._out / ("calm-" + "-".join(map(str, methods)))
        study = study_file(self._content, kind, folder.with_suffix(".yaml"), trials)
        environment = os.environ | {"OMP_NUM_THREADS": "1", MARK: self._mark}
        log, command = folder.with_suffix(".log"), ["run", str(study), "--storage", str(folder)]
        wanted = trials * len(methods)
        if _finished(folder) < wanted:
            process = started([*command, "--resume"], log, environment)
            if process.wait() != 0:
                raise RuntimeError(log.read_text())
        table = result_table(read_ledger(folder / "ledger"))
        return table.filter(pa.compute.less(table["number"], wanted))


def _finished(folder: Path) -> int:
    try:
        return len(read_ledger(folder / "ledger").finished)
    except StorageError:
        return 0


def study_file(content: dict[str, Any], kind: Kind, path: Path, trials: int) -> Path:
    """The study of a piece, with so many trials of each method."""
    search = {"search": {**content["search"], "trials_per_method": trials}}
    operations = {"operations": content.get("operations", {}) | OPERATIONS | {"lanes": kind.lanes}}
    methods = {"methods": [*kind.methods]} if kind.methods else {}
    path.write_text(yaml.safe_dump(content | methods | search | operations))
    return path


def main() -> None:
    """Kill until the number is reached, print the totals; exit 1 if anything was violated."""
    parser = argparse.ArgumentParser(description="random SIGKILLs over studies")
    parser.add_argument("--kills", type=int, default=50, help="in all, earlier runs included")
    parser.add_argument("--out", type=Path, required=True, help="state, logs and studies")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--study", type=Path, help="default: trials of seconds on the demo")
    parser.add_argument("--per-piece", type=int, default=18, help="kills of one study")
    parser.add_argument("--pieces", nargs="+", choices=[*KINDS], default=[*KINDS])
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    given.out = given.out.resolve()
    log = ChaosLog(given.out / "kills.jsonl")
    for line in log.of("run"):  # of a run that was killed itself
        for kind in ("study", "ray", "store"):
            end(marked(f"{line['mark']}-{kind}"))
    signal.signal(signal.SIGTERM, _stop)
    try:
        _run(given, log)
    except KeyboardInterrupt:
        print("stopped; the same command goes on")
    finally:
        log.add_time()
        print(log.totals())
    sys.exit(1 if log.of("violation") else 0)


def _run(given: argparse.Namespace, log: ChaosLog) -> None:
    mark = secrets.token_hex(6)
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "10")  # 60: a dead head's
    log.add("run", mark=mark)
    content = yaml.safe_load(given.study.read_text()) if given.study else STUDY
    port = free_port()
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | store_environment(port)
    reference = Reference(given.out, content, f"{mark}-study")
    warm = OwnRay(f"{mark}-ray", environment, given.out / "ray.log")
    try:
        while len(kills := log.of("kill")) < given.kills:
            number = log.next_piece
            kind = KINDS[given.pieces[number % len(given.pieces)]]
            known = [line["name"] for line in log.of("piece", number)]
            if known:
                kind = KINDS[known[0]]
            else:
                log.add("piece", piece=number, name=kind.name)
            rng = random.Random(f"{given.seed} {number} {len(kills)}")
            piece = Piece(number, kind, given.out, log, rng, mark, warm, port)
            here = len(log.of("kill", number))
            quota = min(given.per_piece, here + given.kills - len(kills))
            try:
                piece.run(quota, partial(study_file, content, kind))
                table = reference.table(kind, piece.trials)
                piece.check(partial(differing_cells, table))
            finally:
                piece.close()
            log.add_time()
            print(f"piece {number} ({kind.name}) done\n{log.totals()}", flush=True)
    finally:
        warm.close()
        end(marked(f"{mark}-study"))


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()

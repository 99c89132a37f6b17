"""How much of their time lanes compute, by the number of lanes.

The cluster of small nodes is simulated, and trials sleep. A trial sleeps as a real one computes:
for some seconds in updates, with a sign of life after each, and in evaluations, whose rows are each
on disk and judged before the next update. The rest of a lane's time goes to Tune, hub, ledger and
hand-over. One driver, one hub and one Tune serve all lanes, so the fraction falls if they are too
slow for so many.

    python benchmarks/lane_utilisation.py [--lanes 2 8 32] [--seconds 20] [--rounds 6] [--packed]

32 lanes are on 8 nodes of 4, because a node's own processes (raylet, agents, idle workers) cost
more than a lane's. They still need about 20 GiB. `--packed` runs the lanes as threads, eight in an
actor: the same lane loop, hub, Tune, recorder and ledger, all that lanes share, without Ray Train's
processes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")

import ray_unlearn.execution  # noqa: F401  (sets Ray's switches before ray is imported)

# isort: split
import ray
from lane_overhead import ROW, TrivialSearch, any_spec
from ray.cluster_utils import Cluster

from ray_unlearn.execution.conductor import first_job
from ray_unlearn.execution.interrupt import Interrupt
from ray_unlearn.execution.lane import RunningTrial
from ray_unlearn.execution.lane_fleet import Fleet
from ray_unlearn.execution.lane_trainer import LaneConfig, lane_loop
from ray_unlearn.execution.messages import BestWeights, Fault, Launch, Prepared
from ray_unlearn.execution.ray_runtime import connected
from ray_unlearn.execution.ray_tune import run_trials
from ray_unlearn.execution.recorder import Recorder
from ray_unlearn.spec.operations import Operations
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.event import BaselineMeasured, Header
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import Row, RowKey
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.loop import Ended

EVALUATIONS = 5
UPDATES_PER_EVALUATION = 8
EVALUATION_SHARE = 0.25
"""Fraction of a trial's time that is evaluation."""
LANES_PER_NODE = 4


@dataclass(frozen=True)
class SleepingWorkspace:
    """The workspace of the lane, which is empty."""

    seconds: float

    def prepare(self, baselines: bool) -> Prepared:
        return Prepared({"vanilla": ROW | {"update": 0}})

    def adopt(self, shared: Any) -> None:
        pass

    def trial(self, config: TrialConfig, running: RunningTrial) -> Iterator[Row | Ended]:
        update_s = self.seconds * (1 - EVALUATION_SHARE) / (EVALUATIONS * UPDATES_PER_EVALUATION)
        for update in range(1, EVALUATIONS * UPDATES_PER_EVALUATION + 1):
            time.sleep(update_s)
            running.checkpoint_wanted(update)
            if update % UPDATES_PER_EVALUATION == 0:
                time.sleep(self.seconds * EVALUATION_SHARE / EVALUATIONS)
                yield ROW | {"update": update}
        yield Ended("complete")

    def save_weights(self, number: int, key: RowKey) -> BestWeights | None:
        return None


@dataclass(frozen=True)
class OpenSleeping:
    """A call that opens the workspace on a lane."""

    seconds: float

    def __call__(self, comm: Comm) -> SleepingWorkspace:
        return SleepingWorkspace(self.seconds)


@ray.remote(num_cpus=0, max_concurrency=16)
class Host:
    """An actor with some lanes, a thread each."""

    def lane(self, config: LaneConfig) -> None:
        lane_loop({"lane": config})


class PackedFleet(Fleet):
    """A fleet whose lanes share processes."""

    def __enter__(self) -> "PackedFleet":
        self._hosts = [Host.remote() for _ in range((self.most + 7) // 8)]
        super().__enter__()
        return self

    def _fit(self, launch: Launch) -> Fault:
        host = self._hosts[launch.lane // 8]
        ray.get(host.lane.remote(LaneConfig(launch, self.name, 1, self._open_workspace)))
        return Fault("its training function returned")


class Watch:
    """An observer of the lanes' states, first and last, and of all processes' memory in between.

    The first look is when twice as many trials as lanes have been handed out: before that Tune
    starts an actor per lane, on the driver's node. The last one is at the last trial.
    """

    def __init__(self, fleet: Fleet, lanes: int, trials: int) -> None:
        self.fleet, self.lanes, self.trials = fleet, lanes, trials
        self.first: list[dict[str, Any]] = []
        self.last: list[dict[str, Any]] = []
        self.tune_up = 0.0
        self.memory: dict[str, tuple[int, float]] = {}

    def on_trial(self, trial: Trial) -> None:
        if trial.number == 2 * self.lanes:
            self.first = self.fleet.state()["lanes"]
        if trial.number == self.trials // 2:
            self.memory = pss_by_kind()
        if trial.number == self.trials - 1:
            self.last = self.fleet.state()["lanes"]

    def on_row(self, trial: Trial, row: Row) -> None:
        self.tune_up = self.tune_up or time.monotonic()

    def on_outcome(self, trial: Trial) -> None:
        pass


def measure(lanes: int, seconds: float, rounds: int, packed: bool) -> dict[str, Any]:
    """Run one study on a cluster of its own."""
    per_node = min(LANES_PER_NODE, max(1, lanes // 2))
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    for _ in range(lanes // per_node):
        cluster.add_node(num_cpus=per_node, object_store_memory=80 * 2**20)
    operations = Operations(lanes="auto", max_lanes=lanes)
    trials, nobody = lanes * rounds, Interrupt(print)
    search = TrivialSearch(trials)
    with (
        tempfile.TemporaryDirectory() as folder,
        connected(cluster.address, operations),
        (PackedFleet if packed else Fleet)(operations, OpenSleeping(seconds), trials) as fleet,
    ):
        began = time.monotonic()
        first = first_job(fleet.hub, True, nobody)
        assert first is not None
        while sum(lane["state"] == "idle" for lane in fleet.state()["lanes"]) < lanes:
            time.sleep(0.5)
        started_s, before = time.monotonic() - began, fleet.state()["lanes"]
        watch = Watch(fleet, lanes, trials)
        with Ledger.create(Path(folder), Header(retraining_flops=1.0)) as ledger:
            ledger.append(BaselineMeasured(name="vanilla", metrics=first.rows["vanilla"]))
            driver, called = time.process_time(), time.monotonic()
            recorder = Recorder(any_spec(), ledger, search, search, [watch])
            run_trials(recorder, search, fleet, operations, nobody)
            driver = time.process_time() - driver
            assert all(len(trial.rows) == EVALUATIONS for trial in ledger.record.finished)
            assert len(list(ledger.record.finished)) == trials
        after = fleet.state()["lanes"]
        wall = time.monotonic() - began - started_s
    cluster.shutdown()
    return {
        "lanes": lanes,
        "nodes": lanes // per_node,
        "trials": trials,
        "started_s": started_s,
        "wall_s": wall,
        "driver_cpu_s": driver,
        "tune_s": watch.tune_up - called - seconds / EVALUATIONS,
        "steady": shares(watch.first, watch.last),
        "whole": shares(before, after),
        "memory": watch.memory,
        "load": os.getloadavg()[0],
    }


def shares(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, float]:
    """Fractions of the lanes' time between two looks."""

    def spent(name: str) -> float:
        return sum(late[name] - early[name] for early, late in zip(before, after, strict=True))

    return {name: spent(f"{name}_s") / spent("up_s") for name in ("busy", "verdict", "idle")}


def pss_by_kind() -> dict[str, tuple[int, float]]:
    """Number and MiB of the processes below this one, by kind.

    The size is the proportional set size, in which shared pages count in part.
    """
    count: Counter[str] = Counter()
    size: dict[str, float] = defaultdict(float)
    for pid in below(os.getpid()):
        try:
            command = (
                Path(f"/proc/{pid}/cmdline")
                .read_bytes()
                .replace(b"\0", b" ")
                .decode(errors="replace")
                .strip()
            )
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        kind = (
            command.split()[0].split(".")[0]
            if command.startswith("ray::")
            else "nodes' own processes"
        )
        count[kind] += 1
        size[kind] += int(rollup.split("\nPss:")[1].split()[0]) / 1024
    return {kind: (count[kind], size[kind]) for kind in sorted(size, key=lambda kind: -size[kind])}


def below(pid: int) -> Iterator[int]:
    """Descendants of a process."""
    parents: dict[int, list[int]] = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(fields[1])].append(int(path.parent.name))
    waiting = [pid]
    while waiting:
        for child in parents[waiting.pop()]:
            waiting.append(child)
            yield child


def main() -> None:
    """Measure each number of lanes in a process of its own, and print a line for each."""
    parser = argparse.ArgumentParser(
        description="share of lane time spent in updates and evaluation"
    )
    parser.add_argument("--lanes", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--seconds", type=float, default=20.0, help="of a trial")
    parser.add_argument("--rounds", type=int, default=6, help="trials per lane")
    parser.add_argument("--packed", action="store_true", help="lanes share processes, eight each")
    parser.add_argument("--json", action="store_true", help="one number of lanes, as JSON")
    arguments = parser.parse_args()
    if arguments.json:
        print(
            "measured:",
            json.dumps(
                measure(arguments.lanes[0], arguments.seconds, arguments.rounds, arguments.packed)
            ),
        )
        return
    for lanes in arguments.lanes:
        command = [sys.executable, __file__, "--json", "--lanes", str(lanes)]
        command += ["--seconds", str(arguments.seconds), "--rounds", str(arguments.rounds)]
        command += ["--packed"] if arguments.packed else []
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        told = json.loads(output.splitlines()[-1].removeprefix("measured:"))
        steady, whole = told["steady"], told["whole"]
        print(
            f"{lanes:3} lanes on {told['nodes']} nodes, {told['trials']} trials of "
            f"{arguments.seconds:g} s: updates and evaluation "
            f"{steady['busy']:.1%} of lane time after two trials per lane to the last hand-out "
            f"(waiting for verdicts {steady['verdict']:.1%}, "
            f"for trials {steady['idle']:.1%}), {whole['busy']:.1%} with Tune's start "
            f"({told['tune_s']:.0f} s) and the last "
            f"trials; lanes up after {told['started_s']:.0f} s, then {told['wall_s']:.0f} s, "
            f"driver {told['driver_cpu_s']:.1f} s of CPU, load {told['load']:.1f}"
        )
        for kind, (count, mib) in told["memory"].items():
            print(
                f"      {kind:28} {count:3} processes {mib:8.0f} MiB, {mib / lanes:6.0f} per lane"
            )


if __name__ == "__main__":
    main()

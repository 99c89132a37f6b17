"""One study, killed again and again: legs of one more trial each, about six kills a leg.

A leg ends when every trial has its outcome. `run --resume` with one trial more begins the next one.
In each leg one kill is aimed at each phase, so that kills are spread evenly over the phases and not
over time, most of which is waiting for Ray. Each is the first of a burst, whose others come while
the study recovers.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import yaml
from chaos_kinds import BUCKET, Kind, StoreServer, started, store_environment
from chaos_log import ChaosLog
from chaos_processes import (
    GONE_S,
    MARK,
    OF_A_CLUSTER,
    OF_RAY,
    OwnRay,
    end,
    marked,
    outliving,
    victims,
)
from chaos_watch import PHASES, Watch

from ray_unlearn.execution.hub import MAX_FAILED_STARTS
from ray_unlearn.spec.errors import EXIT_WRONG_INPUT

LIMIT_S = 420.0
"""Seconds without any progress after which a study hangs."""
LOOK_S = 0.005
AGAIN = "again"
"""What a kill is aimed at that follows another one."""
SETTLED_S = 3.0
"""Seconds after a kill in which what was on its way still arrives."""
LOOK_AROUND_S = 1.0  # between two looks for processes, which take longer than a draft lasts
MORE = 0.92
"""Chance that another kill follows one."""
ENDS_A_BURST = 0.4
"""Weight of targets whose death ends the driver, and with it the burst."""
PAUSE_S = 3.0
"""Longest time between two kills of a burst."""
NO_NODE = "the largest node has 0 CPU"
GIVEN_UP = f"failed to start {MAX_FAILED_STARTS} times"
"""A lane that died in as many starts running; the study stops, and can go on."""
SURVIVED = {"controller", "worker", "tune actor", "node"}
"""Targets whose death a driver outlives, by docs/survival.md."""


class Piece:
    """One study; see the module.

    Args:
        number: of the piece.
        kind: which targets, where.
        out: the folder of all pieces.
        log: the state.
        rng: chance.
        mark: of this run's processes.
        warm: the Ray that this run keeps.
        store_port: port of the object store's server.
    """

    def __init__(
        self, number: int, kind: Kind, out: Path, log: ChaosLog, rng: random.Random, mark: str,
        warm: OwnRay, store_port: int,
    ) -> None:  # fmt: skip
        self._number, self._kind, self._log, self._rng, self._mark = number, kind, log, rng, mark
        self._folder = out / f"piece-{number:04d}"
        self._folder.mkdir(exist_ok=True)
        self._output = self._folder / "driver.log"
        self._warm = warm
        self._store = store_environment(store_port)
        self._server: StoreServer | None = None
        self._scratch = Path(tempfile.mkdtemp(prefix="ck-", dir="/tmp"))  # short: sockets' paths
        study = self._folder / "study"
        self._location = str(study)
        if kind.remote:
            server = StoreServer(self._folder / "store", store_port, f"{mark}-store")
            self._location = f"s3://{BUCKET}/study"
            self._server = server
            objects = server.objects / "study" / "trials"
            self._watch = Watch(self._events, objects, server.requests)
        else:
            self._watch = Watch(self._events, study / "trials")
        self.trials = 1 + len(log.of("leg", number))
        self._plan: list[str] = []
        self._there: dict[str, list[int]] = {}
        """Processes of each target, as of the last look."""
        self._early = False
        """Whether this session of the driver is killed at its start, if a start is to be."""
        self._survived = SURVIVED if kind.warm else SURVIVED - {"node"}
        self._killed: Counter[str] = Counter()
        """Targets in this session of the driver."""

    def run(self, kills: int, study: Callable[[Path, int], Path]) -> None:
        """Legs with kills until there are so many, then one to its end."""
        began = time.monotonic()
        if self._server is not None:
            self._server.start()
        while True:
            file = study(self._folder / "study.yaml", self.trials)
            self._total = self.trials * len(yaml.safe_load(file.read_text())["methods"])
            self._plan = [*self._plan, *PHASES]
            self._rng.shuffle(self._plan)
            while self._session(file, kills) != 0:
                pass
            if len(self._log.of("kill", self._number)) >= kills:
                break
            self._log.add("leg", piece=self._number, trials=self.trials)
            self.trials += 1
        self._seconds = time.monotonic() - began

    def close(self) -> None:
        """End the driver and the store's server, if they are there, and clean up."""
        for what in ("study", "store"):
            end(marked(f"{self._mark}-{what}"))
        shutil.rmtree(self._scratch, ignore_errors=True)

    def check(self, differing: Callable[[pa.Table], list[str]]) -> None:
        """Verify, compare, look for processes; then throw the study away unless it is at fault."""
        rows = self._folder / "rows.parquet"
        if said := self._command("verify", self._location):
            self._violated(f"verify: {said}")
        if said := self._command("export", self._location, "-o", str(rows)):
            self._violated(f"export: {said}")
        table = pyarrow.parquet.read_table(rows)
        for cell in differing(table)[:10]:
            self._violated(f"result table: {cell}")
        for left in outliving(f"{self._mark}-study"):
            self._violated(f"process left: {left}")
        if self._kind.warm:
            for left in outliving(f"{self._mark}-ray", OF_A_CLUSTER):
                self._violated(f"process left: {left}")
        self._log.add("end", piece=self._number, rows=table.num_rows, seconds=self._seconds)
        if not self._log.of("violation", self._number):
            shutil.rmtree(self._folder)

    def _command(self, *arguments: str) -> str:
        """What a command line said if it failed."""
        code = "from ray_unlearn.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True, text=True, check=False, env=self._environment(),
        )  # fmt: skip
        return f"{done.returncode}: {(done.stdout + done.stderr)[-600:]}" if done.returncode else ""

    def _environment(self) -> dict[str, str]:
        scratch = {"TMPDIR": str(self._scratch), "RAY_TMPDIR": str(self._scratch)}
        mark = {MARK: f"{self._mark}-study", "OMP_NUM_THREADS": "1"}
        access = self._warm.access if self._kind.warm else {}
        return dict(os.environ | scratch | self._store | access | mark)

    def _events(self) -> Path | None:
        if self._kind.remote:
            with contextlib.suppress(OSError):  # a driver that ends removes its copy meanwhile
                copies = self._scratch.glob("ray-unlearn-*/**/events.jsonl")
                return max(copies, key=os.path.getmtime, default=None)
            return None
        path = self._folder / "study" / "ledger" / "events.jsonl"
        return path if path.exists() else None

    def _session(self, study: Path, kills: int) -> int:
        """One process of the driver, to its end; returns its exit code."""
        if self._kind.warm:
            self._warm.heal()
        arguments = ["run", str(study), "--storage", self._location, "--resume"]
        if self._watch.total == self._total and self._rng.random() < 0.5:
            arguments = ["resume", self._location]
        address = ["--address", self._warm.address] if self._kind.warm else []
        self._killed = Counter()
        self._early = self._rng.random() < 0.7
        self._watch.driver_starts()
        self._output.write_bytes(b"")
        process = started([*arguments, *address], self._output, self._environment())
        while process.poll() is None:
            phase = self._next_phase(kills)
            if self._wait(process, phase) and (target := self._kill(process, phase)):
                self._recover(process, {target, *self._more(process, kills)})
        self._watch.look()
        self._judge(process.returncode)
        return process.returncode

    def _next_phase(self, kills: int) -> str:
        """The phase to kill in next: of the plan the first that can still come; empty: none."""
        if len(self._log.of("kill", self._number)) >= kills:
            return ""
        if self._early and "start" in self._plan and not self._watch.at_work and not self._killed:
            return "start"
        for phase in self._plan:
            if phase not in ("start", "end") and not self._watch.over:
                return phase
        return "end" if "end" in self._plan else ""

    def _wait(self, process: "subprocess.Popen[bytes]", phase: str) -> bool:
        """Whether the moment for a kill has come, and the driver is still there."""
        moment = self._watch.moment(phase, self._rng) if phase else lambda: False
        limit = time.monotonic() + LIMIT_S
        progress, looked = self._watch.progress, 0.0
        while process.poll() is None:
            if time.monotonic() - looked > LOOK_AROUND_S:
                self._look_around()
                looked = time.monotonic()
            self._watch.look()
            if moment():
                return True
            if self._watch.over and phase not in ("", "end"):
                return False  # too late for it
            if phase == "start" and self._watch.at_work:
                return False
            if self._watch.progress != progress:
                progress, limit = self._watch.progress, time.monotonic() + LIMIT_S
            if time.monotonic() > limit:
                self._hangs(process)
            time.sleep(LOOK_S)
        return False

    def _kill(self, process: "subprocess.Popen[bytes]", phase: str) -> str:
        """Kill one of the processes that are there; returns which, empty if it was gone."""
        there = self._there | {"driver": [process.pid]}
        counts = Counter(line["target"] for line in self._log.of("kill"))
        weights = [
            (1 if target in self._survived else ENDS_A_BURST) / (1 + counts[target])
            for target in there
        ]
        [target] = self._rng.choices([*there], weights)
        pid, watch = self._rng.choice(there[target]), self._watch
        now = watch.phase
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            if phase != AGAIN:
                self._plan.remove(phase)
            self._killed[target] += 1
            self._log.add(
                "kill", piece=self._number, target=target, pid=pid, phase=now, aimed_at=phase,
                trial=watch.trial, rows=watch.rows, leg=self.trials, progress=watch.progress,
                session_s=round(time.monotonic() - watch.started, 3),
            )  # fmt: skip
            self._again(target)
            return target
        return ""

    def _more(self, process: "subprocess.Popen[bytes]", kills: int) -> set[str]:
        """Kill others while the study recovers from a kill; returns which."""
        killed = set()
        while self._rng.random() < MORE and len(self._log.of("kill", self._number)) < kills:
            until = time.monotonic() + self._rng.uniform(0, PAUSE_S)
            while process.poll() is None and time.monotonic() < until:
                self._watch.look()
                time.sleep(LOOK_S)
            self._look_around()
            if process.poll() is not None:
                break
            killed.add(self._kill(process, AGAIN))
        return killed - {""}

    def _look_around(self) -> None:
        """Note the processes of each target, so that a kill need not look for them.

        A machine whose Ray did not come up again is started once more.
        """
        if self._kind.warm:
            self._warm.replace_lost_nodes()
        actors = f"{self._mark}-{'ray' if self._kind.warm else 'study'}"
        there = marked(actors)
        found = {t: victims(t, there) for t in self._kind.targets if t in OF_RAY}
        if self._kind.warm and "node" in found:
            found["node"] = self._warm.on_nodes(found["node"])
        if "store" in self._kind.targets:
            found["store"] = [*marked(f"{self._mark}-store")]
        self._there = {target: pids for target, pids in found.items() if pids}

    def _again(self, target: str) -> None:
        """Put back what a machine's owner would: a node, the store's server."""
        if target == "node" and self._kind.warm:
            self._warm.heal()
        if target == "store":
            assert self._server is not None
            time.sleep(self._rng.uniform(0, 5))
            self._server.start()

    def _recover(self, process: "subprocess.Popen[bytes]", killed: set[str]) -> None:
        """Wait until the study goes on, or its driver ends."""
        began = looked = time.monotonic()
        while process.poll() is None and time.monotonic() < began + SETTLED_S:
            self._watch.look()
            time.sleep(LOOK_S)
        before = self._watch.progress
        deadly = not killed <= self._survived | {"store"}
        while process.poll() is None and (deadly or self._watch.progress == before):
            self._watch.look()
            if time.monotonic() > began + LIMIT_S:
                self._hangs(process)
            if time.monotonic() - looked > LOOK_AROUND_S:
                self._look_around()
                looked = time.monotonic()
            time.sleep(LOOK_S)
            if self._watch.over and not deadly:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=GONE_S)
                break
        code = process.poll()
        self._log.add(
            "outcome", kill=len(self._log.of("kill")), piece=self._number,
            driver="goes on" if code is None else f"ended with {code}",
            seconds=round(time.monotonic() - began, 3),
        )  # fmt: skip

    def _hangs(self, process: "subprocess.Popen[bytes]") -> None:
        self._violated(f"no progress in {LIMIT_S:.0f} s: {self._output.read_text()[-600:]}")
        process.kill()
        process.wait()

    def _judge(self, code: int) -> None:
        """Whether the driver's end is one that docs/survival.md allows."""
        said = self._output.read_text()[-1500:]
        if code == EXIT_WRONG_INPUT and not self._kind.remote and self._events() is None:
            self._watch.taken_away()
        if self._watch.lost:
            self._violated(f"ledger: {self._watch.lost}")
            self._watch.lost = ""
        if code == EXIT_WRONG_INPUT and NO_NODE in said:
            return  # nodes that were put back had not joined yet
        of_lanes = sum(self._killed[target] for target in self._survived)
        if code == EXIT_WRONG_INPUT and GIVEN_UP in said and of_lanes >= MAX_FAILED_STARTS:
            return
        if code and self._killed.keys() <= self._survived:
            self._violated(f"ended with {code} although only {self._killed} died: {said}")
        if code == 4 and "store" not in self._killed:
            self._violated(f"ended with 4 after {self._killed}: {said}")

    def _violated(self, what: str) -> None:
        self._log.add("violation", piece=self._number, what=what)
        print(f"VIOLATION in piece {self._number}: {what}", flush=True)

"""A whole study in one process, without Ray: the real search, early stopping, hub, lane loop,
watcher, conductor, recorder, ledger and resume, under a seeded scheduler with faults.

Replaced are Ray's transport (`scheduler`), Ray Train's controllers and Ray Tune (both here), and
the model: rows come from a response surface that is cheap and always the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from scheduler import Process, Scheduler, SimulatedEnvironment, SimulatedLine
from specs import space, study
from stand_in import NLL

from ray_unlearn.environment import Environment
from ray_unlearn.execution.conductor import Conductor, first_job, record_first_job
from ray_unlearn.execution.early_stopping import Pruner
from ray_unlearn.execution.hub import Hub
from ray_unlearn.execution.hub_line import HubDied
from ray_unlearn.execution.interrupt import Interrupt
from ray_unlearn.execution.lane import LaneLink, RunningTrial, run_lane
from ray_unlearn.execution.lane_pool import LanePool
from ray_unlearn.execution.lane_watcher import LOOK_S, LaneWatcher
from ray_unlearn.execution.messages import (
    BestWeights,
    Fault,
    Launch,
    NodeFate,
    Prepared,
    RowReported,
    Worker,
)
from ray_unlearn.execution.placement import Cluster, Node, shape_of
from ray_unlearn.execution.recorder import Recorder
from ray_unlearn.execution.resume import drop_outdated_weights
from ray_unlearn.execution.search import Search
from ray_unlearn.spec.operations import Operations
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.event import Header, SessionBegan
from ray_unlearn.store.files import best_file, remove_leftovers
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.record import Record
from ray_unlearn.store.schema import Row, RowKey
from ray_unlearn.store.score import ScoreRule
from ray_unlearn.store.storage import FolderStorage, file_sha256
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.loop import Ended

START_S = 5.0
UPDATE_S = 1.0
PATIENCE_S = 60.0
VANILLA: Row = NLL | {"update": 0, "forget_nll": 0.5}


def small_study(**changes: Any) -> StudySpec:
    """Two methods, six trials each of at most nine updates."""
    given: dict[str, Any] = {
        "evaluate_at": (1, 3, 9),
        "sampler": "random",
        "trials_per_method": 6,
        "scheduler": {"type": "none"},
    }
    steps = {"type": "int", "low": 1, "high": 9, "free": True}
    spaces = (space(steps=steps), space("random_labels", steps=steps))
    return study(*spaces, **given | changes)


def surface(config: TrialConfig, update: int) -> Row:
    """Metrics of a trial: too little forgotten at first, then too much, sooner with a high rate."""
    forgotten = 0.5 + 60 * config.learning_rate * update + 0.01 * (config.seed % 7)
    harm = 1.0 + (30 * config.learning_rate * update) ** 2
    return NLL | {
        "update": update,
        "learning_rate_sum": config.learning_rate * update,
        "forget_nll": forgotten,
        "retain_nll_selection": harm,
        "retain_nll_reporting": harm,
        "forget_tokens": 10 * update,
    }


def calibrated(config: TrialConfig, update: int) -> Row:
    """The same at half the strength, or at 1.5 times it (before and after the row as trained in
    the order of strengths), and without harm."""
    strength = 0.5 if config.seed % 2 else 1.5
    weaker = config.model_copy(update={"learning_rate": strength * config.learning_rate})
    harmless = dict.fromkeys(("retain_nll_selection", "retain_nll_reporting"), 1.0)
    return surface(weaker, update) | harmless | {"strength": strength}


Trouble = Callable[[TrialConfig, int, RunningTrial], None]
"""Called at each update of each trial; may raise, hang or kill its process."""


def no_trouble(config: TrialConfig, update: int, running: RunningTrial) -> None:
    """All goes well."""


class SurfaceWorkspace:
    """Trials on the surface. Checkpoints and weights are files of the study."""

    def __init__(self, simulated: "InProcess", environment: Environment) -> None:
        self._simulated = simulated
        self._environment = environment
        self._adopted = False

    def prepare(self, baselines: bool) -> Prepared:
        self._environment.sleep(1.0)
        notes = ("FLOPs of updates are estimated",)
        return Prepared({"vanilla": VANILLA} if baselines else {}, "shared", notes)

    def adopt(self, shared: object) -> None:
        assert shared == "shared"

    def trial(self, config: TrialConfig, running: RunningTrial) -> Iterator[Row | Ended]:
        checkpoint = self._simulated.storage.path(f"trials/{running.number:04d}/last.pt")
        text = checkpoint.read_text() if checkpoint.exists() else ""
        done = int(text) if text.isdigit() else 0  # none, or a torn one
        if done:
            running.restored(done)
        for update in range(done + 1, config.steps + 1):
            self._environment.sleep(UPDATE_S)
            self._simulated.updates.append((running.number, update))
            self._simulated.trouble(config, update, running)
            if config.learning_rate * update > 0.02:
                yield Ended("diverged", "loss is not finite")
                return
            if update in config.evaluate_at:
                yield surface(config, update)
                if running.order.target is not None and update > 1:
                    yield calibrated(config, update)
            if running.checkpoint_wanted(update):
                checkpoint.parent.mkdir(parents=True, exist_ok=True)
                checkpoint.write_text(str(update))
                running.checkpoint_saved(update)
        yield Ended("complete", "")

    def save_weights(self, number: int, key: RowKey) -> BestWeights | None:
        self._environment.sleep(0.5)
        update, strength = key
        name = best_file(number, update, strength)
        path = self._simulated.storage.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number} {update} {strength}")
        size, sha256 = path.stat().st_size, file_sha256(path)
        return BestWeights(number, update, name, size, sha256, strength)


@dataclass
class SimulatedNode:
    """A machine with room for some lanes."""

    name: str
    cpus: int
    alive: bool = True
    leaves_at: float | None = None
    lanes: dict[int, Process] = field(default_factory=dict)
    """Workers that run here."""


class InProcess:
    """A study directory and all that runs it; `session` runs it once, from the ledger as it is.

    Args:
        folder: the study directory.
        spec: of the study, `operations` included.
        seed: of the scheduler.
        trouble: what befalls trials.
        opens: False: no lane can start.
        room: lanes that the first node has room for; None: all.
        network: see `Scheduler`.
    """

    def __init__(
        self,
        folder: Path,
        spec: StudySpec | None = None,
        seed: int = 0,
        trouble: Trouble = no_trouble,
        opens: bool = True,
        room: int | None = None,
        **network: float,
    ) -> None:
        self.folder = folder
        self.opens = opens
        self.room = room
        self.spec = spec or small_study()
        self.storage = FolderStorage(folder)
        self.seed = seed
        self.trouble = trouble
        self.network = network
        self.updates: list[tuple[int, int]] = []
        """Trial and update, of all updates that were computed."""
        self.said: list[str] = []
        self.record: Record | None = None

    def with_operations(self, **operations: Any) -> "InProcess":
        """The same with other operations."""
        changed = Operations.model_validate(self.spec.operations.model_dump() | operations)
        self.spec = self.spec.model_copy(update={"operations": changed})
        return self

    def session(self, happens: "Callable[[Session], None] | None" = None) -> "Session":
        """Run the study until it has all its trials, is interrupted or killed.

        Args:
            happens: a process of its own, which does something to the session.
        """
        session = Session(self, happens)
        self.seed += 1
        session.run()
        return session


class Session:
    """One driver and its lanes."""

    def __init__(
        self,
        simulated: InProcess,
        happens: "Callable[[Session], None] | None" = None,
        scheduler: Any = None,
        environment: Environment | None = None,
    ) -> None:
        self.simulated = simulated
        self.spec = simulated.spec
        self.scheduler = scheduler or Scheduler(simulated.seed, **simulated.network)
        self.environment = environment or SimulatedEnvironment(self.scheduler)
        operations = self.spec.operations
        self.hub = Hub(0, operations.max_retries, environment=self.environment)
        self.line = SimulatedLine(self.scheduler, self.hub)
        lanes = 1 if operations.lanes == "auto" else operations.lanes
        self.nodes = [SimulatedNode("node-0", simulated.room or lanes)]
        self.pool = LanePool(operations, 10_000, shape_of(operations), self.environment)
        self.interrupt = Interrupt(simulated.said.append, self.environment)
        self.workers: dict[int, Process] = {}
        self.controllers: dict[int, Process] = {}
        self.pulls: dict[int, tuple[Any, int, Any]] = {}
        self.given_up: list[int] = []
        self.fatal = ""
        self.interrupted = False
        self.stopped_at = 0.0
        self._over = False
        self._happens = happens

    def run(self) -> None:
        """Until the driver has ended."""
        driver = self.scheduler.start("driver", self.drive)
        self.driver = driver
        if self._happens is not None:
            happens = self._happens
            self.scheduler.start("happens", lambda: happens(self))
        try:
            self.scheduler.run(driver)
        finally:
            self.scheduler.close()
        for process in self.scheduler.processes:
            if process.name == "happens" and process.error is not None:
                raise process.error

    # -- what tests do to it -----------------------------------------------------------------------

    def until(self, condition: Callable[[], Any], limit_s: float = 10_000.0) -> Any:
        """Wait for something; for `happens`."""
        end = self.environment.monotonic() + limit_s
        while not (found := condition()):
            assert self.environment.monotonic() < end, "it never came to that"
            self.environment.sleep(0.1)
        return found

    def at(self, number: int, update: int) -> Callable[[], bool]:
        """Whether a trial has computed this update."""
        return lambda: (number, update) in self.simulated.updates

    def lane_of(self, number: int) -> int | None:
        """The lane that runs a trial."""
        return next((lane.index for lane in self.hub._lanes if lane.job == number), None)

    def lane_at(self, node: SimulatedNode) -> int | None:
        """The lane of a node with room for one."""
        here = [lane for lane, worker in self.workers.items() if worker.pid in node.lanes]
        return here[0] if here else None

    def tune_gives_up(self, number: int) -> None:
        """Tune ends the trial with its actor."""
        self.pulls.pop(number)
        self.given_up.append(number)

    def lose(self, node: SimulatedNode) -> None:
        """The node dies with all that runs there."""
        node.alive = False
        for process in list(node.lanes.values()):
            process.kill()

    def kill_tune_actor(self, number: int) -> None:
        """The actor of a trial dies; Tune starts another, which pulls from the beginning. The dead
        one's call may still be on the way."""
        _, _, order = self.pulls[number]
        self.pulls[number] = (self.line.send(Hub.pull, number, 0, order), 0, order)

    # -- the driver --------------------------------------------------------------------------------

    def opened(self) -> Ledger:
        """The study's ledger, begun if there is none."""
        folder = self.simulated.folder / "ledger"
        return Ledger.open(folder) if folder.exists() else Ledger.create(folder, self.header)

    @property
    def header(self) -> Header:
        """The first event."""
        return Header(spec=self.spec.model_dump(mode="json"), context="c", retraining_flops=1.0)

    def drive(self) -> None:
        """What the driver does."""
        with self.opened() as ledger:
            self.simulated.record = ledger.record
            search = Search(self.spec, "c", ledger.record.baselines)
            search.replay(ledger.record)
            ledger.append(SessionBegan(search.total))
            rule = ScoreRule.of(ledger.record, self.spec)
            drop_outdated_weights(ledger, rule, self.simulated.storage)
            remove_leftovers(self.simulated.storage, ledger.record)
            watcher = self.scheduler.start("watcher", self._watch)
            first = first_job(self.line, not ledger.record.trials, self.interrupt)
            if first is not None:
                record_first_job(ledger, first, lambda text: None)
                self._run_trials(ledger, search)
            self.interrupted = self.interrupt.requested
            self.stopped_at = self.environment.monotonic()
            self._over = True
            self.line.send(Hub.interrupt)
            watcher.kill()
            self._end_lanes()
            if ledger.held:
                remove_leftovers(self.simulated.storage, ledger.record)

    def _end_lanes(self) -> None:
        """As `Fleet` does: who has not left by itself is ended."""
        end = self.environment.monotonic() + PATIENCE_S
        while any(not controller.over for controller in self.controllers.values()):
            self.environment.sleep(0.1)
            if self.environment.monotonic() >= end:
                for lane in self.controllers:
                    self.end(lane)

    def _run_trials(self, ledger: Ledger, search: Search) -> None:
        recorder = Recorder(
            self.spec,
            ledger,
            search,
            Pruner(self.spec, search.surfaces),
            [],
            self.simulated.storage,
        )
        conductor = Conductor(
            recorder,
            search,
            self.line,
            lambda: self.pool.room,
            self.spec.operations,
            self.interrupt,
            self.environment,
        )
        TuneStandIn(self, conductor).run()
        conductor.take_in_the_rest()
        self.fatal = recorder.fatal

    # -- Ray Train's side --------------------------------------------------------------------------

    def _watch(self) -> None:
        watcher = LaneWatcher(
            self.pool,
            self.line,
            self,
            self.spec.operations.stall_timeout_s,
            self.simulated.said.append,
        )
        while True:
            watcher.look(self._cluster(), self._leaving(), self._over)
            self.environment.sleep(LOOK_S)

    def _cluster(self) -> Cluster:
        return Cluster(
            [
                Node(
                    node.name,
                    {"CPU": float(node.cpus)},
                    {"CPU": float(node.cpus - len(node.lanes))},
                    node.alive,
                    node.leaves_at is not None,
                    id=node.name,
                )
                for node in self.nodes
                if node.alive
            ]
        )

    def _leaving(self) -> dict[str, float | None]:
        return {node.name: node.leaves_at for node in self.nodes if node.leaves_at is not None}

    def start(self, launch: Launch) -> None:
        """See `LaneHands`."""
        name = f"controller {launch.lane}.{launch.number}"
        self.controllers[launch.lane] = self.scheduler.start(name, lambda: self._control(launch))

    def end(self, lane: int) -> None:
        """See `LaneHands`."""
        if lane in self.controllers:
            self.controllers[lane].kill()
        if lane in self.workers:
            self.workers[lane].kill()

    def kill(self, worker: Worker) -> None:
        """See `LaneHands`."""
        for process in self.scheduler.processes:
            if process.pid == worker.pid:
                process.kill()

    def _control(self, launch: Launch) -> None:
        """What Ray Train's controller and the fleet's thread do for a lane."""
        self.scheduler.me().ended.add_done_callback(lambda _: self._controller_ended(launch))
        self.line.ask(Hub.introduce, launch, None)
        while True:
            node = next(
                (
                    n
                    for n in self.nodes
                    if n.alive and n.leaves_at is None and len(n.lanes) < n.cpus
                ),
                None,
            )
            if node is None:
                self.environment.sleep(1.0)
                if self._over:
                    return
                continue
            work = partial(self._work, launch, node)
            worker = self.scheduler.start(f"worker {launch.lane}", work)
            node.lanes[worker.pid] = self.workers[launch.lane] = worker
            self.scheduler.me().wait(worker.ended)
            node.lanes.pop(worker.pid, None)
            if not worker.killed and worker.error is None:
                return
            reason = "killed" if worker.error is None else str(worker.error)
            fate: NodeFate = "" if node.alive else "node"
            if not self.line.ask(Hub.down, launch, Fault(reason, node=fate)):
                return

    def _controller_ended(self, launch: Launch) -> None:
        """The fleet's thread goes on."""
        for node in self.nodes:
            node.lanes = {pid: worker for pid, worker in node.lanes.items() if not worker.over}

        def left() -> None:
            self.line.ask(Hub.left, launch, Fault("its controller ended"))
            self.pool.left(launch.lane)

        self.scheduler.start(f"left {launch.lane}", left)

    def _work(self, launch: Launch, node: SimulatedNode) -> None:
        self.environment.sleep(START_S)
        worker = Worker(self.scheduler.me().pid, node.name)
        link = LaneLink(self.line, launch, Comm.single(), worker, self.environment)
        if not self.simulated.opens:
            raise ModuleNotFoundError("No module named 'not_on_this_worker'")
        run_lane(link, lambda comm: SurfaceWorkspace(self.simulated, self.environment))


class TuneStandIn:
    """What Ray Tune does: trials at a time, each pulled by an actor, all told one after another."""

    def __init__(self, session: Session, conductor: Conductor) -> None:
        self._session = session
        self._conductor = conductor

    def run(self) -> None:
        """Until there is nothing left to do."""
        pulls, finished = self._session.pulls, False
        while not self._conductor.stops():
            while not finished and not self._conductor.full:
                handed = self._conductor.next_trial()
                finished = handed is None
                if handed is not None:
                    pulls[handed.number] = self._pull(handed.number, 0, handed.order)
            while self._session.given_up:
                self._conductor.gave_up(self._session.given_up.pop())
            if finished and not pulls:
                if not self._conductor.unfinished:
                    return
                finished = False
            for number in list(pulls):  # actors die meanwhile
                if number in pulls and pulls[number][0].done():
                    self._tell(number)
            self._session.environment.sleep(0.05)

    def _pull(self, number: int, handled: int, order: Any) -> tuple[Any, int, Any]:
        return self._session.line.send(Hub.pull, number, handled, order), handled, order

    def _tell(self, number: int) -> None:
        reply, _, order = self._session.pulls.pop(number)
        try:
            delivery = reply.result()
        except HubDied:  # the trial's actor fails with it
            self._session.given_up.append(number)
            return
        if not isinstance(delivery.item, RowReported):
            self._conductor.ended(number, delivery)
            self._conductor.closed(number)
        elif self._conductor.row(number, delivery):
            self._session.pulls[number] = self._pull(number, delivery.sequence, order)
        else:
            self._conductor.closed(number)

"""Observation of a running study from outside: `live.json`, `metrics.prom` and an Optuna journal.

One thread of the driver writes them. The study reports events to the observation (an `Observer`)
and never waits for it. Whatever goes wrong here, such as a full disk or a taken port, is reported
once and in `live.json`, and has no other effect.
"""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.execution.exports.optuna_journal import JOURNAL_FILE, LiveJournal
from ray_unlearn.execution.progress import Pace
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.live import LANE_FIELDS, LANE_STATES, LIVE_FILE, Live
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.scan import read_acknowledged
from ray_unlearn.store.schema import Row
from ray_unlearn.store.score import OBJECTIVE, ScoreRule
from ray_unlearn.store.status import Tally

METRICS_FILE = "metrics.prom"

TICK_S = 5.0
"""Seconds between two looks, after which changes are written."""
HEARTBEAT_S = 15.0
"""Longest time in seconds between two writes of `live.json`.

It is well below `live.SILENT_S`; a remote study uploads the file each time.
"""
RATE_S = 600.0
"""Seconds over which rates are taken, because rows come in bursts."""
LEAVE_S = 10.0
"""Seconds that the end of a study waits for the thread, which a hung file system may hold."""

SECONDS = ("busy_s", "verdict_s", "idle_s", "up_s")

_log = logging.getLogger(__name__)

LaneStates = Callable[[], dict[str, Any]]
"""`Fleet.state`: the lanes, each with `live.LANE_FIELDS`, and the number of trials queued."""


class Observation:
    """An observer and context manager that writes the files of the module.

    Args:
        spec: the study's spec.
        ledger: its record so far, its folder, and whether this process still holds the study.
        total: trials of the whole study.
        say: called with what cannot be observed.
        environment: clocks and threads.
    """

    def __init__(
        self,
        spec: StudySpec,
        ledger: Ledger,
        total: int,
        say: Callable[[str], None],
        environment: Environment = REAL,
    ) -> None:
        self._environment = environment
        self._spec = spec
        self._ledger = ledger
        self._study = ledger.folder.parent
        self._say = say
        self._counts = Counts(spec, ledger.record, total, environment)
        self._states: LaneStates = dict
        self._state: dict[str, Any] = {}
        self._journal: LiveJournal | None = None
        self._latest: Live | None = None
        self._written: tuple[Live, float] | None = None
        self._problems: dict[str, str] = {}
        self._said: set[str] = set()
        self._over = environment.event()
        self._server: Any = None

    def lanes(self, states: LaneStates) -> None:
        """Set the function that reports the lanes, which is called from another thread."""
        self._states = states

    def __enter__(self) -> Self:
        with self._guarded(JOURNAL_FILE):
            self._journal = LiveJournal(self._ledger.record, self._spec, self._study / JOURNAL_FILE)
        port = self._spec.operations.metrics_port
        if port is not None:
            with self._guarded(f"metrics at port {port}"):
                self._server, _ = start_http_server(
                    port, addr="127.0.0.1", registry=self._registry()
                )
        self._tick(running=True)
        self._thread = self._environment.start_thread(self._run, "observation")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join(timeout=LEAVE_S)
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def on_trial(self, trial: Trial) -> None:
        """Count a trial that was handed out."""
        self._counts.began(trial)

    def on_row(self, trial: Trial, row: Row) -> None:
        """Count a trial's new evaluation row."""
        self._counts.row(trial, row)

    def on_outcome(self, trial: Trial) -> None:
        """Count a trial that has ended."""
        self._counts.ended(trial)

    def _run(self) -> None:
        while not self._over.wait(TICK_S):
            self._tick(running=True)
        self._states = lambda: self._state  # the lanes are gone: their last state stays
        self._tick(running=False)

    def _tick(self, running: bool) -> None:
        with self._guarded("lanes"):
            self._state = self._states()
        with self._guarded(LIVE_FILE):
            if not self._ledger.held:
                return  # another process runs the study by now and writes the files
            events = read_acknowledged(self._ledger.folder) + 1
            problems = [text for what, text in self._problems.items() if what != LIVE_FILE]
            self._latest = self._counts.live(running, self._state, events, problems)
        if self._journal is not None:
            with self._guarded(JOURNAL_FILE):
                for trial, ended in self._counts.changed():
                    self._journal.show(trial, ended)
                self._journal.flush()
        if self._latest is not None and (not running or self._due(self._latest)):
            self._written = (self._latest, self._environment.monotonic())
            with self._guarded(METRICS_FILE):
                write_whole(self._study / METRICS_FILE, generate_latest(self._registry()))
            with self._guarded(LIVE_FILE):
                self._latest.write(self._study)

    def _due(self, live: Live) -> bool:
        if self._written is None:
            return True
        before, when = self._written
        return (
            _lasting(live) != _lasting(before)
            or self._environment.monotonic() - when >= HEARTBEAT_S
        )

    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Metrics(lambda: self._latest))
        return registry

    @contextlib.contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """A context in which an error is reported once; the next tick tries again."""
        try:
            yield
        except Exception as error:  # watching a study must not end it
            self._problems[what] = f"{what}: {error}"
            if what not in self._said:
                self._said.add(what)
                self._say(f"cannot be observed: {what}: {error}; the study goes on")
                _log.debug("observation of %s", what, exc_info=True)
        else:
            self._problems.pop(what, None)


class Counts:
    """All counts of a study, from the record at the start of a run and from its events.

    One thread reports events, another one reads the counts.

    Args:
        spec: for the rule that ranks trials.
        record: the trials before this run.
        total: trials of the whole study.
        environment: clocks, host and process.
    """

    def __init__(
        self,
        spec: StudySpec,
        record: Record,
        total: int,
        environment: Environment = REAL,
    ) -> None:
        self._study = spec.name
        self._total = total
        self._environment = environment
        self._lock = environment.lock()
        self._tally = Tally(ScoreRule.of(record, spec))
        self._pace = Pace(environment)
        self._running: set[int] = set()
        self._changed: dict[int, tuple[Trial, bool]] = {}
        self._last: dict[int, tuple[int, int, int]] = {}
        """Updates, forget tokens and retain tokens of each unfinished trial's last row."""
        self._rows = self._updates = self._forget = self._retain = 0
        self._new_rows = False
        self._history: deque[tuple[float, int, int]] = deque()
        """Time, updates and tokens at each look."""
        self._started = environment.now()
        for trial in record.trials.values():
            self._rows += len(trial.rows)
            if trial.rows:
                self._advance(trial, max(trial.rows, key=lambda row: row["update"]))
            if trial.status is not None:
                self._last.pop(trial.number, None)
                self._tally.add(trial)

    def began(self, trial: Trial) -> None:
        """See `Observation.on_trial`."""
        with self._lock:
            self._running.add(trial.number)
            self._changed[trial.number] = (trial, False)
            self._pace.began(trial.number)

    def row(self, trial: Trial, row: Row) -> None:
        """See `Observation.on_row`."""
        with self._lock:
            self._rows += 1
            self._new_rows = True
            self._advance(trial, row)
            self._changed[trial.number] = (trial, False)

    def ended(self, trial: Trial) -> None:
        """See `Observation.on_outcome`."""
        with self._lock:
            self._running.discard(trial.number)
            self._last.pop(trial.number, None)
            self._changed[trial.number] = (trial, True)
            self._pace.ended(trial.number)
            self._tally.add(trial)

    def changed(self) -> list[tuple[Trial, bool]]:
        """Trials that have changed since the last call, and whether they have ended.

        They are in the order in which they changed first.
        """
        with self._lock:
            changed, self._changed = list(self._changed.values()), {}
        return changed

    def live(self, running: bool, state: dict[str, Any], events: int, problems: list[str]) -> Live:
        """The report on the study now."""
        lanes = [{name: lane.get(name) for name in LANE_FIELDS} for lane in state.get("lanes", ())]
        with self._lock:
            updates_per_s, tokens_per_s = self._rates()
            working = sum(lane["state"] in ("busy", "idle") for lane in lanes)
            left = self._total - self._tally.finished
            return Live(
                study=self._study,
                running=running,
                time=_iso(self._environment.now()),
                started=_iso(self._started),
                host=self._environment.host,
                pid=self._environment.pid,
                asked_for=self._total,
                outcomes=dict(self._tally.outcomes),
                trials_running=len(self._running) if running else 0,
                rows=self._rows,
                updates=self._updates,
                tokens={"forget": self._forget, "retain": self._retain},
                updates_per_s=updates_per_s,
                tokens_per_s=tokens_per_s,
                best={trial.method: float(row[OBJECTIVE]) for trial, row in self._tally.ranked},
                lanes=lanes,
                queued=int(state.get("queued") or 0),
                utilisation=_utilisation(lanes),
                eta_s=self._pace.seconds_left(left, working) if running else None,
                events=events,
                problems=problems,
            )

    def _advance(self, trial: Trial, row: Row) -> None:
        now = row["update"], int(row.get("forget_tokens", 0)), int(row.get("retain_tokens", 0))
        before = self._last.get(trial.number, (0, 0, 0))
        if now[0] > before[0]:
            self._updates += now[0] - before[0]
            self._forget += now[1] - before[1]
            self._retain += now[2] - before[2]
            self._last[trial.number] = now

    def _rates(self) -> tuple[float | None, float | None]:
        now = self._environment.monotonic()
        if not self._running and not self._history:
            return None, None  # the lanes are starting
        self._history.append((now, self._updates, self._forget + self._retain))
        while len(self._history) > 2 and now - self._history[1][0] >= RATE_S:
            self._history.popleft()
        then, updates, tokens = self._history[0]
        if not self._new_rows or now <= then:
            return None, None
        return (self._updates - updates) / (now - then), (self._forget + self._retain - tokens) / (
            now - then
        )


class _Metrics(Collector):
    """The last report as Prometheus metrics."""

    def __init__(self, latest: Callable[[], Live | None]) -> None:
        self._latest = latest

    def collect(self) -> Iterator[Metric]:
        """The metrics of the last report; called at each scrape."""
        live = self._latest()
        if live is not None:
            yield from metrics(live)


Kind = type[GaugeMetricFamily] | type[CounterMetricFamily]


def metrics(live: Live) -> Iterator[Metric]:
    """The metric families of a study.

    Totals are of the whole study, over all its runs; those of lanes are of this run.
    """

    def family(kind: Kind, name: str, text: str, *labels: str) -> Any:
        return kind(f"ray_unlearn_{name}", text, labels=["study", *labels])

    def one(kind: Kind, name: str, text: str, value: float | None) -> Iterator[Metric]:
        if value is not None:
            found = family(kind, name, text)
            found.add_metric([live.study], value)
            yield found

    yield from one(
        GaugeMetricFamily, "up", "1 while the study runs, by its own account", float(live.running)
    )
    written = datetime.fromisoformat(live.time).timestamp()
    yield from one(
        GaugeMetricFamily, "last_write_timestamp_seconds", "When the driver wrote this", written
    )
    trials = family(
        GaugeMetricFamily, "trials", "Trials by outcome; running ones have none yet", "outcome"
    )
    for outcome, count in (live.outcomes | {"running": live.trials_running}).items():
        trials.add_metric([live.study, outcome], count)
    yield trials
    yield from one(GaugeMetricFamily, "trials_wanted", "Trials of the whole study", live.asked_for)
    yield from one(GaugeMetricFamily, "trials_queued", "Trials that wait for a lane", live.queued)
    yield from one(CounterMetricFamily, "rows", "Evaluation rows", live.rows)
    yield from one(
        CounterMetricFamily,
        "updates",
        "Optimizer updates up to each trial's last row",
        live.updates,
    )
    tokens = family(CounterMetricFamily, "tokens", "Tokens in those updates, by set", "set")
    for name, count in live.tokens.items():
        tokens.add_metric([live.study, name], count)
    yield tokens
    best = family(
        GaugeMetricFamily, "best_score", "Lowest score of a method, selection half", "method"
    )
    for method, score in live.best.items():
        best.add_metric([live.study, method], score)
    yield best
    lanes = family(GaugeMetricFamily, "lanes", "Lanes by state", "state")
    for state in LANE_STATES:
        lanes.add_metric(
            [live.study, state],
            sum(lane["state"] == state for lane in live.lanes) if live.running else 0,
        )
    yield lanes
    busy = family(
        CounterMetricFamily, "lane_busy_seconds", "Seconds in which a lane had a trial", "lane"
    )
    restarts = family(
        CounterMetricFamily,
        "lane_restarts",
        "Times a lane's worker group was started again",
        "lane",
    )
    for lane in live.lanes:
        for found, value in ((busy, lane["busy_s"]), (restarts, lane["restarts"])):
            if value is not None:
                found.add_metric([live.study, str(lane["index"])], value)
    yield busy
    yield restarts
    yield from one(
        GaugeMetricFamily,
        "lane_utilisation_ratio",
        "Busy seconds of all lanes over seconds up",
        live.utilisation,
    )
    yield from one(
        GaugeMetricFamily, "time_left_seconds", "Estimate for the trials that are left", live.eta_s
    )
    yield from one(
        CounterMetricFamily, "ledger_events", "Acknowledged events of the ledger", live.events
    )


def _utilisation(lanes: list[dict[str, Any]]) -> float | None:
    up = sum(lane["up_s"] or 0.0 for lane in lanes)
    return sum(lane["busy_s"] or 0.0 for lane in lanes) / up if up > 0 else None


def _lasting(live: Live) -> Live:
    """The report without what changes by mere waiting."""
    lanes = [lane | dict.fromkeys(SECONDS) for lane in live.lanes]
    return replace(
        live,
        time="",
        updates_per_s=None,
        tokens_per_s=None,
        utilisation=None,
        eta_s=None,
        lanes=lanes,
    )


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")

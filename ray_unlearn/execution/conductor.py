"""Decides what Ray Tune does: which trial comes next, whether it goes on, when all of it stops.

It knows no Tune. `tune` lets Tune's searcher, scheduler and stopper ask it; the tests of the core
ask it in one process. All calls come from one thread.
"""

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.execution.hub import Hub
from ray_unlearn.execution.hub_line import HubDied, HubLine
from ray_unlearn.execution.interrupt import Interrupt
from ray_unlearn.execution.messages import (
    FIRST_JOB,
    Delivery,
    Fatal,
    JobEnded,
    KnownRow,
    Prepare,
    Prepared,
    RowReported,
    RunTrial,
)
from ray_unlearn.execution.recorder import Recorder
from ray_unlearn.execution.search import Search
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.operations import Operations
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.event import BaselineMeasured, Note
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.record import Trial

ACTOR_RESTARTS = 3
"""Times a trial's Tune actor may die before Tune gives the trial up, and times it is then asked
again; its lane and its rows do not notice."""

LOOK_S = 0.2
"""An interrupt is noticed within this."""


class LaneError(UserError):
    """The lanes cannot run this study at all; the message holds what a worker said."""


@dataclass(frozen=True)
class HandedOut:
    """A trial for a lane."""

    number: int
    order: RunTrial


def first_job(hub: HubLine, baselines: bool, interrupt: Interrupt) -> Prepared | None:
    """Wait for the lanes' first job: baselines (if asked for), and what all lanes share.

    Returns:
        None when interrupted.

    Raises:
        LaneError: it failed, no lane can start, or the hub died.
    """
    try:
        answer = hub.send(Hub.pull, FIRST_JOB, 0, Prepare(baselines))
        while not answer.done(LOOK_S):
            if interrupt.requested:
                return None
        delivery = answer.result()
        item = delivery.item
        hub.send(Hub.release, FIRST_JOB)
    except HubDied as error:
        raise LaneError(f"the hub actor died: {error}; go on with `ray-unlearn resume`") from None
    if isinstance(item, JobEnded) and item.prepared is not None:
        return replace(item.prepared, notes=(*delivery.notes, *item.prepared.notes))
    assert not isinstance(item, RowReported)
    raise LaneError(f"the lanes could not prepare the study: {item.reason}")


def record_first_job(ledger: Ledger, prepared: Prepared, say: Callable[[str], None]) -> None:
    """Baselines, and what the lane says of its model; a resumed study has recorded that before."""
    for name, row in prepared.rows.items():
        ledger.append(BaselineMeasured(name, row))
    for text in prepared.notes:
        if text not in ledger.record.notes:
            say(text)
            ledger.append(Note(text))


def pending(recorded: Mapping[int, Trial], total: int) -> Iterator[int]:
    """Numbers of the trials to run: first those that a stopped study had begun, then those never
    asked for."""
    yield from (number for number, trial in sorted(recorded.items()) if trial.status is None)
    yield from (number for number in range(total) if number not in recorded)


class Conductor:
    """See the module.

    Args:
        recorder: the entrance to the ledger.
        search: chooses configurations.
        hub: where trials are handed in.
        room: how many trials are worth asking for now.
        operations: of the study.
        interrupt: whether the study is to stop.
        environment: the clock.
    """

    def __init__(
        self,
        recorder: Recorder,
        search: Search,
        hub: HubLine,
        room: Callable[[], int],
        operations: Operations,
        interrupt: Interrupt,
        environment: Environment = REAL,
    ) -> None:
        self._recorder = recorder
        self._search = search
        self._hub = hub
        self._room = room
        self._operations = operations
        self._interrupt = interrupt
        self._environment = environment
        self._pending = pending(dict(recorder.record.trials), search.total)
        self._again: deque[int] = deque()
        """Trials that Tune has given up for the sake of their actor; they come first."""
        self._given_up: Counter[int] = Counter()
        self._live: set[int] = set()
        self._deadline: float | None = None
        self._stopped = False

    @property
    def full(self) -> bool:
        """Whether every lane has a trial."""
        return len(self._live) >= self._room()

    @property
    def unfinished(self) -> bool:
        """Whether trials are left that Tune gave up and that may run again."""
        return bool(self._again) and not self._recorder.fatal and not self._interrupt.requested

    def next_trial(self) -> HandedOut | None:
        """The next trial, recorded as asked for; None: there are no more, or not now that the study
        is to stop.

        Raises:
            StorageError: the ledger cannot be written.
        """
        if self._interrupt.requested:
            return None
        for number in self._numbers():
            config = self._config(number)
            if config is not None:
                self._live.add(number)
                rows = self._recorder.record.trials[number].rows
                known, target = tuple(map(KnownRow.of, rows)), self._recorder.target
                return HandedOut(number, RunTrial(config.model_dump(mode="json"), known, target))
        return None

    def _numbers(self) -> Iterator[int]:
        while self._again:
            yield self._again.popleft()
        # not `yield from`: that would close it together with this generator
        for number in self._pending:  # noqa: UP028
            yield number

    def _config(self, number: int) -> TrialConfig | None:
        """A trial that a stopped study had begun keeps its configuration; others are asked for.
        None: nothing to run."""
        begun = self._recorder.record.trials.get(number)
        if begun is not None and self._recorder.settled(number):
            return None
        config = TrialConfig.model_validate(begun.config) if begun else self._search.ask(number)
        if config is not None:
            self._recorder.asked(number, config, "" if begun else self._search.source(number))
        return config

    def row(self, number: int, delivery: Delivery) -> bool:
        """Record a row. Returns whether the trial goes on.

        Raises:
            StorageError: the ledger cannot be written.
        """
        item = delivery.item
        assert isinstance(item, RowReported)
        self._take_in(delivery)
        reason = self._recorder.row(number, delivery.attempt, item.metrics)
        if reason is not None:
            self._release(number)
        elif self._operations.keep_best and self._recorder.is_best(number, item.key):
            # before the lane goes on; a dead hub will be noticed
            with contextlib.suppress(HubDied):
                self._hub.ask(Hub.save_weights, number, delivery.attempt, item.key)
        return reason is None

    def ended(self, number: int, delivery: Delivery) -> None:
        """A trial that was not stopped here has come to an end: record its outcome.

        Raises:
            StorageError: the ledger cannot be written.
        """
        self._live.discard(number)
        item = delivery.item
        if isinstance(item, JobEnded):
            self._take_in(delivery)
            self._recorder.outcome(number, delivery.attempt, item.status, item.reason)
            self._release(number)
        elif isinstance(item, Fatal):
            self._recorder.fatal = item.reason

    def closed(self, number: int) -> None:
        """Tune is through with the trial."""
        self._live.discard(number)

    def gave_up(self, number: int) -> None:
        """Tune gave the trial up with its actor, at once when a cached actor was dead before the
        trial had begun. The lane does not notice, and the trial is asked again.

        Raises:
            StorageError: the ledger cannot be written.
        """
        self._live.discard(number)
        self._given_up[number] += 1
        if not self._hub.answers():
            self._recorder.fatal = "the hub actor died"  # no trial is counted as failed for it
        elif self._given_up[number] > ACTOR_RESTARTS:
            times = f"Tune gave it up {self._given_up[number]} times"
            died = f"its Ray Tune actor died again and again; {times}"
            self._recorder.outcome(number, 0, "failed", died)
            self._release(number)  # or its lane would wait for a verdict for ever
        else:
            self._again.append(number)

    def stops(self, failed: bool = False) -> bool:
        """Whether all of it stops now. Running trials keep their rows and get no outcome.

        At an interrupt lanes have `operations.grace_s` for a checkpoint of their trials first.

        Args:
            failed: something has gone wrong that ends the study.
        """
        if not self._stopped and (failed or self._recorder.fatal or self._drained()):
            self._stopped = True
            with contextlib.suppress(HubDied):
                self._hub.send(Hub.interrupt)
        return self._stopped

    def _drained(self) -> bool:
        """At an interrupt: whether the checkpoints are there, or time is up."""
        if not self._interrupt.requested:
            return False
        now = self._environment.monotonic()
        try:
            if self._deadline is None:
                checkpoints = self._operations.checkpoint_every_s is not None
                self._deadline = now + (self._operations.grace_s if checkpoints else 0.0)
                self._hub.send(Hub.drain)
            return now >= self._deadline or self._hub.ask(Hub.drained)
        except HubDied:
            return True

    def take_in_the_rest(self) -> None:
        """When all has stopped: weights that no item has brought.

        Raises:
            StorageError: the ledger cannot be written.
        """
        try:
            rest = self._hub.ask(Hub.undelivered)
        except HubDied:
            rest = []
        for weights in rest:
            self._recorder.weights_saved(weights)
        self._recorder.drop_outdated_weights()

    def _take_in(self, delivery: Delivery) -> None:
        for text in delivery.notes:
            self._recorder.note(text)
        if delivery.weights is not None:
            self._recorder.weights_saved(delivery.weights)

    def _release(self, number: int) -> None:
        self._live.discard(number)
        with contextlib.suppress(HubDied):
            self._hub.send(Hub.release, number)

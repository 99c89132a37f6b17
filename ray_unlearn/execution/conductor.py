"""The conductor decides what Ray Tune does: the next trial, whether it goes on, when all stops.

It does not import Tune. Tune's searcher, scheduler and stopper in `ray_tune` ask it; the tests of
the core ask it in one process. All calls come from one thread.
"""

import contextlib
import math
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
from ray_unlearn.store.event import BaselineMeasured, HalvesDealt, Note
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import HALVES

ACTOR_RESTARTS = 3
"""Times that a trial's Tune actor may die before Tune gives the trial up.

The trial is then asked again as many times; its lane and its rows are not affected.
"""

SAME_TARGET = 1e-5
"""nats/token, far below what another dealing changes."""

LOOK_S = 0.2
"""Seconds within which an interrupt is noticed."""


class LaneError(UserError):
    """The lanes cannot run this study at all; the message has a worker's error."""


class HubGone(LaneError):
    """The hub died: no fault of the study's, which `resume` goes on with."""


@dataclass(frozen=True)
class HandedOut:
    """A trial to be run by a lane."""

    number: int
    order: RunTrial


def first_job(hub: HubLine, baselines: bool, interrupt: Interrupt) -> Prepared | None:
    """Wait for the lanes' first job: baselines (if asked for), and what all lanes share.

    Returns:
        None if interrupted.

    Raises:
        LaneError: the job failed, no lane can start, or the hub died.
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
        raise HubGone(f"the hub actor died: {error}; go on with `ray-unlearn resume`") from None
    if isinstance(item, JobEnded) and item.prepared is not None:
        return replace(item.prepared, notes=(*delivery.notes, *item.prepared.notes))
    assert not isinstance(item, RowReported)
    raise LaneError(f"the lanes could not prepare the study: {item.reason}")


def record_first_job(ledger: Ledger, prepared: Prepared, say: Callable[[str], None]) -> None:
    """Record halves, baselines, and the lane's notes.

    A resumed study has recorded the notes before.

    Raises:
        LaneError: the dealing of a study with trials was lost, and comes out otherwise here.
    """
    if prepared.halves:
        _check_same_targets(ledger, prepared)
        ledger.append(HalvesDealt(dict(prepared.halves)))
    for name, row in prepared.rows.items():
        ledger.append(BaselineMeasured(name, row))
    for text in prepared.notes:
        if text not in ledger.record.notes:
            say(text)
            ledger.append(Note(text))


def _check_same_targets(ledger: Ledger, prepared: Prepared) -> None:
    """Halves that a damaged line lost are dealt again: only as they were, or scores would mix."""
    record = ledger.record
    if not record.trials:
        return
    for half in HALVES:
        name = f"approximate_nll_{half}"
        began = record.baselines.get("vanilla", {}).get(name, math.nan)
        now = prepared.rows["vanilla"][name]
        if abs(began - now) > SAME_TARGET:
            raise LaneError(
                "the ledger has lost which documents belong to which half, and dealt on this "
                f"machine the {half} half has another target ({now:.5f} nats/token, not "
                f"{began:.5f}): its trials could not be compared; resume on a machine like the one "
                "it began on, or start a new study with `ray-unlearn run`"
            )


def pending(recorded: Mapping[int, Trial], total: int) -> Iterator[int]:
    """Numbers of the trials to run.

    Trials that a stopped study had begun come first, then those never asked for.
    """
    yield from (number for number, trial in sorted(recorded.items()) if trial.status is None)
    yield from (number for number in range(total) if number not in recorded)


class Conductor:
    """Chooses, records and ends trials for Ray Tune; see the module.

    Args:
        recorder: the entrance to the ledger.
        search: chooses configurations.
        hub: runs trials on lanes.
        room: returns how many trials are worth asking for now.
        operations: the study's operations.
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
        """Trials that Tune has given up because of their actor; they come first."""
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
        """The next trial, recorded as asked for; None if there is none or the study is to stop.

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
                order = RunTrial(
                    config.model_dump(mode="json"),
                    tuple(map(KnownRow.of, rows)),
                    self._recorder.target,
                    self._recorder.incumbent(config.method),
                )
                return HandedOut(number, order)
        return None

    def _numbers(self) -> Iterator[int]:
        while self._again:
            yield self._again.popleft()
        # not `yield from`: that would close it together with this generator
        for number in self._pending:  # noqa: UP028
            yield number

    def _config(self, number: int) -> TrialConfig | None:
        """The recorded configuration of a begun trial, or a new one; None: nothing to run."""
        begun = self._recorder.record.trials.get(number)
        if begun is not None and self._recorder.settled(number):
            return None
        config = TrialConfig.model_validate(begun.config) if begun else self._search.ask(number)
        if config is not None:
            self._recorder.asked(number, config, "" if begun else self._search.source(number))
        return config

    def row(self, number: int, delivery: Delivery) -> bool:
        """Record a row, and return whether the trial goes on.

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
            # before the lane goes on; a later call will notice a dead hub
            with contextlib.suppress(HubDied):
                self._hub.ask(Hub.save_weights, number, delivery.attempt, item.key)
        return reason is None

    def ended(self, number: int, delivery: Delivery) -> None:
        """Record the outcome of a trial that has ended by itself.

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
        """Note that Tune has closed the trial."""
        self._live.discard(number)

    def gave_up(self, number: int) -> None:
        """Ask a trial again that Tune gave up with its actor.

        Tune gives a trial up at once if a cached actor was dead before the trial had begun. The
        trial's lane is not affected.

        Raises:
            StorageError: the ledger cannot be written.
        """
        self._live.discard(number)
        self._given_up[number] += 1
        if not self._hub.answers():
            self._recorder.fatal = "the hub actor died"  # no trial counts as failed because of it
        elif self._given_up[number] > ACTOR_RESTARTS:
            times = f"Tune gave it up {self._given_up[number]} times"
            died = f"its Ray Tune actor died again and again; {times}"
            self._recorder.outcome(number, 0, "failed", died)
            self._release(number)  # otherwise its lane would wait for a verdict for ever
        else:
            self._again.append(number)

    def stops(self, failed: bool = False) -> bool:
        """Whether the study stops now; running trials keep their rows and get no outcome.

        At an interrupt, lanes first have `operations.grace_s` for a checkpoint of their trials.

        Args:
            failed: an error has ended the study.
        """
        if not self._stopped and (failed or self._recorder.fatal or self._drained()):
            self._stopped = True
            with contextlib.suppress(HubDied):
                self._hub.send(Hub.interrupt)
        return self._stopped

    def _drained(self) -> bool:
        """Whether, after an interrupt, all checkpoints are made or time is up."""
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
        """Record, after the study has stopped, weights that no delivery has brought.

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

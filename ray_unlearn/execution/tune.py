"""The study as Ray Tune sees it: a searcher that asks our search, a scheduler that asks our pruner.

Tune runs the trials and nothing else. Its snapshots, loggers and checkpoints are off: after a crash
a new Tuner goes on from the ledger (Tune's own restore loses finished trials and empties ASHA's
rungs).
"""

import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any, Protocol

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from ray_unlearn.execution.interrupt import Interrupt
from ray_unlearn.execution.lanes import Fleet
from ray_unlearn.execution.recorder import Recorder
from ray_unlearn.execution.thin_trial import ITEM, ThinTrial
from ray_unlearn.spec.trial_config import TrialConfig

ACTOR_RESTARTS = 3
"""Times a trial's Tune actor may die before Tune gives the trial up, and times it is then asked
again; its lane and its rows do not notice."""


class Asks(Protocol):
    """What Tune's side needs of the search."""

    @property
    def total(self) -> int:
        """Number of trials of the whole study."""

    def ask(self, number: int) -> TrialConfig | None:
        """The configuration of trial `number`, or None when there is nothing left to try."""

    def source(self, number: int) -> str:
        """Who chose that configuration."""


def run_trials(
    recorder: Recorder, search: Asks, fleet: Fleet, lanes: int, interrupt: Interrupt
) -> None:
    """Run every trial that the ledger has no outcome for, as many at a time as the fleet has lanes,
    at most `lanes`.

    Returns when all are done, at an interrupt, or with `recorder.fatal` set when the lanes cannot
    go on.

    Raises:
        StorageError: the ledger cannot be written.
    """
    given_up: Counter[int] = Counter()
    while _run_tune(recorder, search, fleet, lanes, interrupt, given_up):
        pass  # Tune had finished its search when it gave up a trial


def _run_tune(
    recorder: Recorder,
    search: Asks,
    fleet: Fleet,
    lanes: int,
    interrupt: Interrupt,
    given_up: Counter[int],
) -> bool:
    """One Tuner over what is to be run. Whether trials are left that Tune gave up and that may run
    again."""
    failure = _Failure()
    asker = _Asker(recorder, search, fleet, failure, interrupt, given_up)
    tuner = tune.Tuner(
        ThinTrial,
        tune_config=tune.TuneConfig(
            search_alg=asker,
            scheduler=_Judge(recorder, fleet, failure),
            num_samples=-1,
            max_concurrent_trials=lanes,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=fleet.scratch,
            verbose=0,
            # Tune's own choice in a notebook clears the cell's output, ours with it.
            progress_reporter=tune.CLIReporter(),
            stop=_Brake(recorder, fleet, interrupt, failure),
            failure_config=tune.FailureConfig(max_failures=ACTOR_RESTARTS),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    except tune.TuneError:
        if failure.error is None:
            raise
    if failure.error is not None:
        raise failure.error
    for number, file in fleet.undelivered():
        recorder.artefact(number, file)
    return bool(asker.again) and not recorder.fatal and not interrupt.requested


def pending(recorder_trials: dict[int, Any], total: int) -> Iterator[int]:
    """Numbers of the trials to run: first those that a stopped study had begun, then those never
    asked for."""
    yield from (number for number, trial in sorted(recorder_trials.items()) if trial.status is None)
    yield from (number for number in range(total) if number not in recorder_trials)


def _trial_name(trial: Any) -> str:
    return f"trial-{trial.config['number']}"


class _Failure:
    """Kept and raised again after Tune has stopped, hence each `except Exception ... raise` below.

    What our code raised inside Tune, which passes on only a text of it, or nothing and calls the
    trial failed."""

    error: Exception | None = None


class _Inert:
    """What Tune's snapshots hold in place of our objects: ledger, terminal and threads cannot be
    pickled."""


class _NotPickled:
    def __reduce__(self) -> tuple[Any, ...]:
        return (_Inert, ())

    def __deepcopy__(self, memo: Any) -> Any:
        return self


class _Asker(_NotPickled, Searcher):  # type: ignore[misc]
    """Tune's searcher."""

    def __init__(
        self,
        recorder: Recorder,
        search: Asks,
        fleet: Fleet,
        failure: _Failure,
        interrupt: Interrupt,
        given_up: Counter[int],
    ) -> None:
        super().__init__()
        self.again: deque[int] = deque()
        """Trials that Tune has given up for the sake of their actor; they come first."""
        self._given_up = given_up
        self._recorder = recorder
        self._search = search
        self._interrupt = interrupt
        self._fleet = fleet
        self._failure = failure
        self._pending = pending(dict(recorder.record.trials), search.total)
        self._numbers: dict[str, int] = {}
        self._live: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial, None while all lanes have one, or `FINISHED`."""
        if self._interrupt.requested:
            return str(Searcher.FINISHED)
        if len(self._live) >= self._fleet.room:
            return None  # Tune asks again
        try:
            for number in self._next():
                config = self._config(number)
                if config is not None:
                    self._numbers[trial_id] = number
                    self._live.add(trial_id)
                    known = [row["update"] for row in self._recorder.record.trials[number].rows]
                    payload = {
                        "kind": "trial",
                        "config": config.model_dump(mode="json"),
                        "known": known,
                    }
                    return {"number": number, "hub": self._fleet.name, "payload": [payload]}
        except Exception as error:  # kept and raised again, see `_Failure`
            self._failure.error = error
            raise
        return str(Searcher.FINISHED)

    def _next(self) -> Iterator[int]:
        while self.again:
            yield self.again.popleft()
        for number in self._pending:  # noqa: UP028  (`yield from` would close it together with this generator)
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

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The recorder has told our search already. An error is Tune's own: it gave the trial up
        with its actor, at once when a cached actor was dead before the trial had begun. The lane
        knows nothing of it, and the trial is asked again.
        """
        self._live.discard(trial_id)
        if not error or self._failure.error is not None:
            return
        number = self._numbers[trial_id]
        self._given_up[number] += 1
        try:
            if not self._fleet.hub_answers():
                self._recorder.fatal = (
                    "the hub actor died"  # no trial's fault: none is counted as failed
                )
            elif self._given_up[number] > ACTOR_RESTARTS:
                died = f"its Ray Tune actor died again and again; Tune gave it up {self._given_up[number]} times"
                self._recorder.outcome(number, 0, "failed", died)
            else:
                self.again.append(number)
        except Exception as problem:  # the same
            self._failure.error = problem
            raise

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """The ledger is the record."""


class _Judge(_NotPickled, TrialScheduler):  # type: ignore[misc]
    """Tune's scheduler: the first to hear of a result, so it calls the recorder."""

    def __init__(self, recorder: Recorder, fleet: Fleet, failure: _Failure) -> None:
        super().__init__()
        self._recorder = recorder
        self._fleet = fleet
        self._failure = failure

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """A row: record it, then say whether the trial goes on."""
        item, number = result[ITEM][0], trial.config["number"]
        try:
            self._notes(number, item)
            reason = self._recorder.row(number, item["attempt"], item["metrics"])
            if (
                reason is None
                and self._fleet.keeps_best
                and self._recorder.is_best(number, item["update"])
            ):
                self._fleet.keep(number)
        except Exception as error:  # kept and raised again, see `_Failure`
            self._failure.error = error
            raise
        if reason is None:
            return str(TrialScheduler.CONTINUE)
        self._fleet.release(number)
        return str(TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """The end of a trial that was not stopped here: record its outcome."""
        item, number = result[ITEM][0], trial.config["number"]
        try:
            if item["kind"] == "ended":
                self._notes(number, item)
                self._recorder.outcome(number, item["attempt"], item["status"], item["reason"])
                self._fleet.release(number)
            elif item["kind"] == "fatal":
                self._recorder.fatal = item["reason"]
        except Exception as error:  # kept and raised again, see `_Failure`
            self._failure.error = error
            raise

    def _notes(self, number: int, item: dict[str, Any]) -> None:
        for text in item["notes"]:
            self._recorder.note(text)
        if "kept" in item:
            self._recorder.artefact(number, item["kept"])

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Nothing to do."""

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Nothing to do: see `_Asker.on_trial_complete`."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing to do."""

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Tune keeps its own first-come queue; choosing here would walk over all trials at every
        step."""
        return None

    def debug_string(self) -> str:
        """Not shown."""
        return ""


class _Brake(_NotPickled, tune.Stopper):  # type: ignore[misc]
    """Stops Tune at Ctrl-C and when the lanes cannot go on. Running trials keep their rows and get
    no outcome.

    At Ctrl-C lanes have `operations.grace_s` for a checkpoint of their trials first.
    """

    def __init__(
        self, recorder: Recorder, fleet: Fleet, interrupt: Interrupt, failure: _Failure
    ) -> None:
        self._recorder = recorder
        self._fleet = fleet
        self._interrupt = interrupt
        self._failure = failure
        self._stopped = False
        self._deadline: float | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Single trials are the scheduler's business."""
        return False

    def stop_all(self) -> bool:
        """Asked after every event."""
        self._interrupt.keep()
        if not self._stopped and (self._recorder.fatal or self._failure.error or self._drained()):
            self._stopped = True
            self._fleet.stop()
        return self._stopped

    def _drained(self) -> bool:
        """At an interrupt: whether the checkpoints are there, or time is up."""
        if not self._interrupt.requested:
            return False
        if self._deadline is None:
            self._deadline = time.monotonic() + self._fleet.grace_s
            self._fleet.drain()
        return time.monotonic() >= self._deadline or self._fleet.drained()

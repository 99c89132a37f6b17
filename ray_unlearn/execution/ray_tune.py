"""The study as Ray Tune sees it: a searcher, a scheduler and a stopper that ask the `Conductor`.

Tune runs the trials and nothing else. Its snapshots, loggers and checkpoints are off: after a crash
a new Tuner goes on from the ledger (Tune's own restore loses finished trials and empties ASHA's
rungs).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from ray_unlearn.execution.conductor import ACTOR_RESTARTS, Conductor
from ray_unlearn.execution.interrupt import Interrupt
from ray_unlearn.execution.lane_fleet import Fleet
from ray_unlearn.execution.messages import Delivery
from ray_unlearn.execution.recorder import Recorder
from ray_unlearn.execution.search import Search
from ray_unlearn.execution.thin_trial import DELIVERY, ThinTrial
from ray_unlearn.spec.operations import Operations


def run_trials(
    recorder: Recorder, search: Search, fleet: Fleet, operations: Operations, interrupt: Interrupt
) -> None:
    """Run every trial without an outcome in the ledger, as many at a time as the fleet has lanes.

    It returns when all are done, at an interrupt, or with `recorder.fatal` set if the lanes cannot
    go on.

    Raises:
        StorageError: the ledger cannot be written.
    """
    conductor = Conductor(recorder, search, fleet.hub, lambda: fleet.room, operations, interrupt)
    _run_tune(conductor, fleet, interrupt)
    while conductor.unfinished:  # Tune had finished its search when it gave up a trial
        _run_tune(conductor, fleet, interrupt)


def _run_tune(conductor: Conductor, fleet: Fleet, interrupt: Interrupt) -> None:
    """Run one Tuner over the trials to run."""
    failure = _Failure()
    tuner = tune.Tuner(
        ThinTrial,
        tune_config=tune.TuneConfig(
            search_alg=_Asker(conductor, fleet.name, failure),
            scheduler=_Judge(conductor, failure),
            num_samples=-1,
            max_concurrent_trials=fleet.most,
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
            stop=_Brake(conductor, interrupt, failure),
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
    conductor.take_in_the_rest()


def _trial_name(trial: Any) -> str:
    return f"trial-{trial.config['number']}"


class _Failure:
    """An error that our code raised inside Tune, to be raised again after Tune has stopped.

    Tune itself passes on only a text of it, or nothing and calls the trial failed.
    """

    error: Exception | None = None

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """A context in which an error is noted and raised."""
        try:
            yield
        except Exception as error:  # any error of ours: Tune would pass on only its text
            self.error = error
            raise


class _Inert:
    """The placeholder for our objects in Tune's snapshots.

    Ledger, terminal and threads cannot be pickled.
    """


class _NotPickled:
    def __reduce__(self) -> tuple[Any, ...]:
        return (_Inert, ())

    def __deepcopy__(self, memo: Any) -> Any:
        return self


class _Asker(_NotPickled, Searcher):  # type: ignore[misc]
    """Tune's searcher."""

    def __init__(self, conductor: Conductor, hub: str, failure: _Failure) -> None:
        super().__init__()
        self._conductor = conductor
        self._hub = hub
        self._failure = failure
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial, None while all lanes have one (Tune asks again), or `FINISHED`."""
        if self._conductor.full:
            return None
        with self._failure.noted():
            handed = self._conductor.next_trial()
        if handed is None:
            return str(Searcher.FINISHED)
        self._numbers[trial_id] = handed.number
        # in a list, so that Tune does not flatten it
        return {"number": handed.number, "hub": self._hub, "order": [handed.order]}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Close a trial, which the recorder has reported to our search; an error is Tune's own."""
        number = self._numbers[trial_id]
        self._conductor.closed(number)
        if error and self._failure.error is None:
            with self._failure.noted():
                self._conductor.gave_up(number)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing: the ledger is the record."""


class _Judge(_NotPickled, TrialScheduler):  # type: ignore[misc]
    """Tune's scheduler, which receives a result first and so has it recorded."""

    def __init__(self, conductor: Conductor, failure: _Failure) -> None:
        super().__init__()
        self._conductor = conductor
        self._failure = failure
        self._trials: list[Any] = []
        """Tune's trials that have not been slimmed."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Record a row, and decide whether the trial goes on."""
        with self._failure.noted():
            goes_on = self._conductor.row(trial.config["number"], _delivery(result))
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Record the end of a trial that was not stopped here."""
        with self._failure.noted():
            self._conductor.ended(trial.config["number"], _delivery(result))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Slim those that have ended: Tune keeps every trial until its end."""
        for ended in [one for one in self._trials if one.is_finished()]:
            self._trials.remove(ended)
            _slim(ended)
        self._trials.append(trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Do nothing; see `_Asker.on_trial_complete`."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Do nothing."""

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Choose none: Tune has its own queue, and a choice here would visit all trials."""
        return None

    def debug_string(self) -> str:
        """An empty text, as it is not shown."""
        return ""


class _Brake(_NotPickled, tune.Stopper):  # type: ignore[misc]
    """Tune's stopper, which stops it at Ctrl-C and if the lanes cannot go on."""

    def __init__(self, conductor: Conductor, interrupt: Interrupt, failure: _Failure) -> None:
        self._conductor = conductor
        self._interrupt = interrupt
        self._failure = failure

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial, as the scheduler does that."""
        return False

    def stop_all(self) -> bool:
        """Whether all trials stop; asked after every event."""
        self._interrupt.take_back_signals()
        return self._conductor.stops(failed=self._failure.error is not None)


def _slim(trial: Any) -> None:
    """Drop what Tune keeps of an ended trial: its last result, and statistics of all results.

    The ledger has it. The names are private: where another Tune has others, it only keeps more.
    """
    for name in ("last_result", "metric_analysis", "metric_n_steps"):
        if hasattr(trial.run_metadata, name):
            setattr(trial.run_metadata, name, {})


def _delivery(result: dict[str, Any]) -> Delivery:
    delivery = result[DELIVERY][0]
    assert isinstance(delivery, Delivery)
    return delivery

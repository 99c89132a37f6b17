"""Running and resuming a study: the only way in for the command line.

A study directory:

    study.yaml              the resolved spec; `operations` and `search.trials_per_method` may be
                            edited between runs
    trials/                 the last checkpoint of each unfinished trial, the weights of the best
                            row (see `store.files`)
    ledger/events.jsonl     the record (see `store.ledger`); all else is made from it
    ledger/rows.parquet     the result table, ledger/baselines.parquet the baselines; written when a
                            run ends
    baselines.json          for people
    optuna.journal          for optuna-dashboard; follows the study, exact when a run has ended
    live.json, metrics.prom what the driver of a running study sees (see `observation`)
    tensorboard/            for TensorBoard, unless `operations.tensorboard: false`; MLflow and
                            W&B (`operations.loggers`) keep theirs elsewhere

Everything that can be refused is refused before Ray starts.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from ray_unlearn.environment import REAL
from ray_unlearn.execution.conductor import (
    HubGone,
    LaneError,
    first_job,
    pending,
    record_first_job,
)
from ray_unlearn.execution.early_stopping import Pruner
from ray_unlearn.execution.exports.log_process import LogProcess
from ray_unlearn.execution.exports.optuna_journal import JOURNAL_FILE, export_journal
from ray_unlearn.execution.exports.tensorboard_log import TensorBoardObserver
from ray_unlearn.execution.interrupt import Interrupt
from ray_unlearn.execution.lane_fleet import Fleet
from ray_unlearn.execution.lane_workspace import OpenStudy, shared_model
from ray_unlearn.execution.monitor import Observation
from ray_unlearn.execution.progress import Progress
from ray_unlearn.execution.ray_runtime import check_address, connected
from ray_unlearn.execution.ray_tune import run_trials
from ray_unlearn.execution.recorder import Observer, Recorder
from ray_unlearn.execution.resume import (
    SPEC_FILE,
    drop_outdated_weights,
    record_extension,
    resumed_spec,
    trials_to_reach,
    write_spec,
)
from ray_unlearn.execution.search import Search
from ray_unlearn.execution.stages import stages
from ray_unlearn.execution.study_checks import admitted, check_disk, check_unchanged, readmitted
from ray_unlearn.execution.study_header import code_version, libraries, study_header
from ray_unlearn.spec.errors import EXIT_FAILED_TRIALS, EXIT_INTERRUPTED, StorageError, UserError
from ray_unlearn.spec.method_modules import ENVIRONMENT
from ray_unlearn.spec.printable import printable
from ray_unlearn.spec.strict import differences
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.user_methods import modules_of
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.store.event import (
    BestWeightsGone,
    HalvesDealt,
    Note,
    SessionBegan,
    TrialReopened,
)
from ray_unlearn.store.failure_reasons import OutcomeCounts, none_succeeded
from ray_unlearn.store.files import kept_weights, remove_leftovers
from ray_unlearn.store.free_place import check_free, left_free
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.location import StudyFiles, opened
from ray_unlearn.store.record import Record
from ray_unlearn.store.score import ScoreRule
from ray_unlearn.store.storage import FolderStorage
from ray_unlearn.store.table import baseline_table, result_table, write_table
from ray_unlearn.store.target import (
    forgetting_warnings,
    half_sentences,
    half_targets,
    target_warnings,
)
from ray_unlearn.store.working_copy import header_digest_of
from ray_unlearn.unlearn.data import StudyData
from ray_unlearn.unlearn.finding import Finding
from ray_unlearn.unlearn.model import exact_retrain_sources, make_ready
from ray_unlearn.unlearn.plan import host_gib
from ray_unlearn.unlearn.prepared_study import prepared_study
from ray_unlearn.unlearn.tracker_extras import missing_trackers

LEDGER_FOLDER = "ledger"
BASELINES_FILE = "baselines.json"
TENSORBOARD_FOLDER = "tensorboard"


@dataclass(frozen=True)
class StudyResult:
    """How a run of a study ended."""

    location: str
    """Where the study is: a folder or an address."""
    interrupted: bool
    total: int
    counts: dict[str, int] = field(default_factory=dict)
    """Trials by outcome, over the whole study; outcomes that occurred."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Why trials have no result, by reason, the commonest first; over the whole study."""

    @property
    def exit_code(self) -> int:
        """0 done, 3 finished with failed trials or without any result, 130 interrupted."""
        if self.interrupted:
            return EXIT_INTERRUPTED
        failed = none_succeeded(self.counts) or self.counts.get("failed")
        return EXIT_FAILED_TRIALS if failed else 0


Say = Callable[[str], None]


def to_stderr(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def run_study(
    spec: StudySpec,
    location: Path | str,
    *,
    address: str | None = None,
    observers: Sequence[Observer] = (),
    quiet: bool = False,
    say: Say = to_stderr,
    halves_of: Record | None = None,
) -> StudyResult:
    """Run a new study.

    Args:
        spec: what to run.
        location: a folder, made if missing, or an address such as `s3://bucket/studies/name` (see
            `store.storage`); must not hold a study.
        address: of a Ray cluster; default: a Ray of our own on this machine.
        observers: told of trials, rows and outcomes after the ledger.
        quiet: show nothing on stderr but what `say` is told.
        say: told what happens, a line at a time.
        halves_of: the study that this one confirms, whose documents keep their halves; None: they
            are dealt anew.

    Raises:
        UserError: there is a study already, or files of others; model or data cannot be used, no
            room on the cluster, lanes cannot start. What was made by then is taken away again.
        StorageError: the storage cannot be written or its disk is nearly full.
    """
    with opened(location) as place:
        check_free(place)
        check_address(address)
        Search(spec, "")  # refuses a grid that is too large
        if missing := missing_trackers(spec.operations.loggers, "operations.loggers"):
            raise UserError(missing)
        with stages(quiet) as report:
            make_ready(spec.model, report)
        check_disk(place, spec)
        data = prepared_study(spec, say)
        found = admitted(spec, data, address, place)
        dealing = "balanced" if halves_of is None else halves_of.header.dealing
        with (
            left_free(place, but=HubGone),
            place.create_ledger(study_header(spec, data, dealing)) as ledger,
        ):
            if halves_of is not None and halves_of.halves:
                ledger.append(HalvesDealt(halves_of.halves))
            write_spec(place.folder / SPEC_FILE, spec)
            place.publish(SPEC_FILE)
            data = data.as_dealt(dealing, ledger.record.halves)
            run = _Run(spec, place, ledger, data, address, observers, quiet, say)
            for finding in found.worth_saying:
                run.tell(finding)
            return run.to_the_end()


def resume_study(
    location: Path | str,
    *,
    expected: StudySpec | None = None,
    operations: dict[str, Any] | None = None,
    add_trials: int | None = None,
    retry_failed: bool = False,
    address: str | None = None,
    observers: Sequence[Observer] = (),
    quiet: bool = False,
    say: Say = to_stderr,
) -> StudyResult:
    """Go on with a study until it has all its trials.

    Trials that were running go on from their last checkpoint, or start again if there is none.

    Args:
        location: the study's location, as in `run_study`.
        expected: the study that the caller expects; only its number of trials may differ, and then
            counts.
        operations: values that replace those in its `operations`, for this run.
        add_trials: number of trials of each method to add, which `study.yaml` records.
        retry_failed: run trials again that failed, for example because of hardware.
        address: as in `run_study`, like all below.
        observers: called with each new trial, row and outcome.
        quiet: print nothing on stderr but the lines of `say`.
        say: called with each line of progress.

    Raises:
        UserError: as in `run_study`; or the spec, the model or the data are not those that the
            study began with.
        StorageError: no study there, another process is running it, or its ledger is damaged.
    """
    with opened(location) as place, place.open_ledger() as ledger:
        for note in ledger.found_at_opening:
            say(note)
        if expected is not None:
            add_trials = trials_to_reach(expected, ledger, str(location))
        spec = resumed_spec(place.folder, ledger, operations, add_trials)
        failed = retry_failed and any(t.status == "failed" for t in ledger.record.finished)
        total = Search(spec, "").total
        left = failed or next(pending(ledger.record.trials, total), None) is not None
        for finding in readmitted(spec, address, place, left).worth_saying:
            say(f"{finding.state}: {finding}")
        with stages(quiet) as report:
            make_ready(spec.model, report)
        data = prepared_study(spec, say)
        check_unchanged(ledger.record.header, spec, data)
        data = data.as_dealt(ledger.record.header.dealing, ledger.record.halves)
        check_disk(place, spec)
        record_extension(place.folder, ledger, spec)
        place.publish(SPEC_FILE)
        if retry_failed:
            _reopen_failed(ledger)
        return _Run(spec, place, ledger, data, address, observers, quiet, say).to_the_end()


@dataclass
class _Run:
    """One run of a study, new or resumed, until it has all trials that were asked for."""

    spec: StudySpec
    place: StudyFiles
    ledger: Ledger
    data: StudyData
    address: str | None
    observers: Sequence[Observer]
    quiet: bool
    say: Say

    def __post_init__(self) -> None:
        record = self.ledger.record
        self.search = Search(self.spec, record.header.context, record.baselines)
        self.search.replay(record)
        self.folder = self.place.folder

    def to_the_end(self) -> StudyResult:
        interrupted = False
        if self._unfinished():
            self._begin_session()
            try:
                interrupted = self._run()
            except KeyboardInterrupt:
                interrupted = True
            except Exception:  # whatever it was, it is raised again
                # A second error would hide what stopped the study.
                with contextlib.suppress(StorageError):
                    self._tidy_up()
                raise
            self._tidy_up()
        else:  # whoever recorded the last outcome may have died before this
            self._drop_outdated_weights()
            self._tidy_up()
        return self._result(interrupted)

    def _result(self, interrupted: bool) -> StudyResult:
        ended = OutcomeCounts(self.ledger.record.finished)
        return StudyResult(
            self.place.location,
            interrupted,
            self.search.total,
            {outcome: count for outcome, count in ended.by_outcome.items() if count},
            ended.failures.counts,
        )

    def _begin_session(self) -> None:
        """Record who goes on and with what; remove what a killed process left behind."""
        header, record = self.ledger.record.header, self.ledger.record
        now = {"code_version": code_version(), "libraries": libraries(self.spec)}
        before = record.sessions[-1] if record.sessions else header
        began = {name: getattr(before, name) for name in now}
        if changes := differences(began, now):
            self._note(f"goes on with other software than before: {'; '.join(changes)}")
        self.ledger.append(
            SessionBegan(
                total=self.search.total,
                host=REAL.host,
                pid=REAL.pid,
                code_version=code_version(),
                libraries=libraries(self.spec),
            )
        )
        self._drop_outdated_weights()
        files, freed = self._removed_leftovers()
        if files:
            self._note(
                f"removed {files} file(s) of {freed / 2**20:.1f} MiB that a stopped process had "
                "left behind"
            )
        best = record.best_weights
        if best is not None and (
            kept_weights(self.place.storage, record, best.number, best.update, best.strength)
            is None
        ):
            self._note(
                f"{best.file} is gone or changed; `export` runs trial {best.number} again for its "
                "weights"
            )
            self.ledger.append(BestWeightsGone(best.number, best.update, best.strength))

    def _note(self, text: str) -> None:
        self.say(text)
        self.ledger.append(Note(text))

    def tell(self, finding: Finding) -> None:
        """Say what a check found; a warning of what the study is made of is recorded, too."""
        self.say(f"{finding.state}: {finding}")
        if finding.state == "warning" or finding in self.data.findings:
            self.ledger.append(Note(str(finding)))

    def _unfinished(self) -> bool:
        return next(pending(self.ledger.record.trials, self.search.total), None) is not None

    def _run(self) -> bool:
        """Start the lanes, measure baselines and run the trials; True if interrupted."""
        operations = self.spec.operations
        number = (
            "as many lanes as fit," if operations.lanes == "auto" else f"{operations.lanes} lane(s)"
        )
        self.say(f"starting {number} of {operations.workers_per_lane} worker(s)")
        if named := modules_of(self.spec.methods):
            os.environ[ENVIRONMENT] = named  # for the processes of a Ray that starts now
        trials = sum(1 for _ in pending(self.ledger.record.trials, self.search.total))
        worker_gib = host_gib(self.spec) if operations.lanes == "auto" else None
        with (
            self.place.publishing(self.say),
            Observation(self.spec, self.ledger, self.search.total, self.say) as observation,
            LogProcess(self._loggers(), self.place.location, self.say),
            connected(self.address, operations, self.spec.methods),
            Interrupt(self.say) as interrupt,
            Fleet(operations, self._open_workspace(), trials, worker_gib, self.say) as fleet,
        ):
            observation.lanes(fleet.state)
            self.say("the lanes load the model and measure the baselines")
            # Measured anew until a trial was judged by them: a crash may have left only the first
            # of them.
            first = first_job(fleet.hub, self._baselines_missing(), interrupt)
            if first is None:
                return True
            record_first_job(self.ledger, first, self.say)
            self._say_target()
            self._write_baselines()
            with self._observed(observation) as observers:
                recorder = Recorder(
                    self.spec,
                    self.ledger,
                    self.search,
                    Pruner(self.spec, self.search.surfaces),
                    observers,
                    self.place.storage,
                )
                run_trials(recorder, self.search, fleet, operations, interrupt)
            if recorder.fatal:
                raise LaneError(
                    f"{recorder.fatal}; finished trials are kept: ray-unlearn resume "
                    f"{self.place.location}"
                )
            return interrupt.requested and self._unfinished()

    def _loggers(self) -> Sequence[str]:
        """The trackers of the study file; a study that goes on does so without what is missing."""
        loggers = self.spec.operations.loggers
        if missing := missing_trackers(loggers, "operations.loggers"):
            self.say(f"warning: {missing}; the study goes on without it")
        return [name for name in loggers if not missing_trackers([name], "")]

    def _say_target(self) -> None:
        """What the halves hold and aim at; what is wrong with that is noted, too."""
        vanilla = self.ledger.record.baselines.get("vanilla", {})
        targets = half_targets(vanilla)
        if targets is None:
            return
        for sentence in half_sentences(targets):
            self.say(sentence)
        for warning in (*target_warnings(targets), *forgetting_warnings(vanilla)):
            self.say(f"warning: {warning}")
            if warning not in self.ledger.record.notes:
                self.ledger.append(Note(warning))

    def _baselines_missing(self) -> bool:
        """One may have been lost with a damaged line, too."""
        wanted = {"vanilla"} | exact_retrain_sources(self.spec.model).keys()
        record = self.ledger.record
        return not record.trials or not wanted <= record.baselines.keys() or self.data.to_deal

    def _open_workspace(self) -> OpenStudy:
        storage = (
            self.place.storage
            if self.place.storage.remote
            else FolderStorage(self.folder.absolute())
        )
        model = shared_model(self.spec)
        return OpenStudy(
            self.spec,
            ray.put(self.data),
            model,
            storage,
            header_digest_of(storage),
            self.ledger.fence,
        )

    @contextlib.contextmanager
    def _observed(self, first: Observer) -> Iterator[list[Observer]]:
        """The observers, with progress and TensorBoard among them where wanted."""
        observers = [first, *self.observers]
        with contextlib.ExitStack() as stack:
            if not self.quiet:
                observers.append(
                    stack.enter_context(Progress(self.spec, self.ledger.record, self.search.total))
                )
            if self.spec.operations.tensorboard:
                board = TensorBoardObserver(
                    self.folder / TENSORBOARD_FOLDER, ScoreRule.of(self.ledger.record, self.spec)
                )
                observers.append(stack.enter_context(contextlib.closing(board)))
            yield observers

    def _write_baselines(self) -> None:
        if rows := self.ledger.record.baselines:
            text = json.dumps(rows, indent=1, sort_keys=True)
            write_whole(self.folder / BASELINES_FILE, f"{text}\n".encode())

    def _tidy_up(self) -> None:
        """Remove leftovers and write exports, after the lanes have ended.

        If the study was lost to another process, that process owns the files, and nothing is done.
        """
        if self.ledger.held:
            self._removed_leftovers()  # of lanes that were ended in the middle of a write
            self._write_exports()
            self.place.publish_all()

    def _drop_outdated_weights(self) -> None:
        rule = ScoreRule.of(self.ledger.record, self.spec)
        drop_outdated_weights(self.ledger, rule, self.place.storage)

    def _removed_leftovers(self) -> tuple[int, int]:
        try:
            return remove_leftovers(self.place.storage, self.ledger.record)
        except OSError as error:
            raise StorageError(str(error)) from None

    def _write_exports(self) -> None:
        """Tables, Optuna journal, baselines: made from the ledger, so they can be made again."""
        record = self.ledger.record
        self._write_baselines()
        if record.baselines:
            write_table(baseline_table(record), self.folder / LEDGER_FOLDER / "baselines.parquet")
        write_table(result_table(record), self.folder / LEDGER_FOLDER / "rows.parquet")
        export_journal(record, self.spec, self.folder / JOURNAL_FILE)


def _reopen_failed(ledger: Ledger) -> None:
    for trial in ledger.record.finished:
        if trial.status == "failed":
            reason = f"asked for by --retry-failed; it had failed: {trial.reason}"
            ledger.append(TrialReopened(trial.number, reason))

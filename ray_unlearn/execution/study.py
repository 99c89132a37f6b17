"""Running and resuming a study: the only way in for the command line.

A study directory:

    study.yaml              the resolved spec; `operations` and `search.trials_per_method` may be edited between runs
    ledger/events.jsonl     the record (see `results.ledger`); all else is made from it
    ledger/rows.parquet     the result table, ledger/baselines.parquet the baselines; written when a run ends
    baselines.json          for people
    optuna.journal          for optuna-dashboard; written when a run ends
    tensorboard/            for TensorBoard, unless `operations.tensorboard: false`

Everything that can be refused is refused before Ray starts.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import yaml

import ray_unlearn
from ray_unlearn.execution.fleet import Fleet, LaneError
from ray_unlearn.execution.interrupt import Interrupt
from ray_unlearn.execution.journal import export_journal
from ray_unlearn.execution.progress import Progress
from ray_unlearn.execution.pruning import Pruner
from ray_unlearn.execution.recorder import Observer, Recorder
from ray_unlearn.execution.runtime import connected
from ray_unlearn.execution.search import Search
from ray_unlearn.execution.stages import stages
from ray_unlearn.execution.tensorboard import TensorBoardObserver
from ray_unlearn.execution.tuning import pending, run_trials
from ray_unlearn.execution.world import OpenStudy
from ray_unlearn.results.ledger import Ledger, Record, events_file
from ray_unlearn.results.table import baseline_table, result_table, write_table
from ray_unlearn.spec.base import validated
from ray_unlearn.spec.errors import EXIT_FAILED_TRIALS, EXIT_INTERRUPTED, StorageError, UserError
from ray_unlearn.spec.study import ModelSpec, StudySpec, load_study
from ray_unlearn.unlearn.data import StudyData, prepare
from ray_unlearn.unlearn.model import local_source, make_ready, model_digest
from ray_unlearn.unlearn.plan import longest, parameter_count
from ray_unlearn.unlearn.workspace import context_digest, retraining_flops

SPEC_FILE = "study.yaml"
LEDGER_FOLDER = "ledger"
BASELINES_FILE = "baselines.json"
JOURNAL_FILE = "optuna.journal"
TENSORBOARD_FOLDER = "tensorboard"
LIBRARIES = ("ray", "torch", "transformers", "optuna", "numpy", "tokenizers")
SMALLEST_FREE_BYTES = 200 * 2**20
BYTES_PER_ROW = 6_000


@dataclass(frozen=True)
class StudyResult:
    """How a run of a study ended."""

    folder: Path
    interrupted: bool
    total: int
    counts: dict[str, int] = field(default_factory=dict)
    """Trials by outcome, over the whole study."""

    @property
    def exit_code(self) -> int:
        """0 done, 3 finished with failed trials, 130 interrupted."""
        if self.interrupted:
            return EXIT_INTERRUPTED
        return EXIT_FAILED_TRIALS if self.counts.get("failed") else 0


Say = Callable[[str], None]


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run_study(
    spec: StudySpec,
    folder: Path,
    *,
    address: str | None = None,
    observers: Sequence[Observer] = (),
    quiet: bool = False,
    say: Say = _to_stderr,
) -> StudyResult:
    """Run a new study in `folder`.

    Args:
        spec: what to run.
        folder: made if missing; must not hold a study.
        address: of a Ray cluster; default: a Ray of our own on this machine.
        observers: told of trials, rows and outcomes after the ledger.
        quiet: show nothing on stderr but what `say` is told.
        say: told what happens, a line at a time.

    Raises:
        UserError: the folder holds a study, model or data cannot be used, no room on the cluster, lanes cannot start.
        StorageError: the folder cannot be written or its disk is nearly full.
    """
    _refuse_existing(folder)
    search = Search(spec, "")
    _check_disk(folder, search.total * _most_rows(spec))
    with stages(quiet) as report:
        make_ready(spec.model, report)
    data = prepare(spec.data, spec.model, say=say)
    with Ledger.create(folder / LEDGER_FOLDER, _header(spec, data)) as ledger:
        _write_spec(folder / SPEC_FILE, spec)
        return _Run(spec, folder, ledger, data, address, observers, quiet, say).to_the_end()


def resume_study(
    folder: Path,
    *,
    operations: dict[str, Any] | None = None,
    trials_per_method: int | None = None,
    address: str | None = None,
    observers: Sequence[Observer] = (),
    quiet: bool = False,
    say: Say = _to_stderr,
) -> StudyResult:
    """Go on with the study in `folder` until it has all its trials. Trials that were running start again.

    Args:
        folder: a study directory.
        operations: values that replace those in its `operations`, for this run.
        trials_per_method: a new number of trials, kept in `study.yaml`; never fewer than there are.
        address: as in `run_study`, like all below.
        observers: told of what is new.
        quiet: show nothing on stderr but what `say` is told.
        say: told what happens.

    Raises:
        UserError: as `run_study`; or the spec, the model or the data are not those the study began with.
        StorageError: no study there, another process is running it, or its ledger is damaged.
    """
    with Ledger.open(folder / LEDGER_FOLDER) as ledger:
        spec = _resumed_spec(folder, ledger.record, operations, trials_per_method)
        data = prepare(spec.data, spec.model, say=say)
        _check_same("data", ledger.record.header["data_digest"], data.digest)
        _check_same("model", ledger.record.header["model_digest"], model_digest(spec.model))
        _check_disk(folder, 1)
        return _Run(spec, folder, ledger, data, address, observers, quiet, say).to_the_end()


@dataclass
class _Run:
    """One run of a study, new or resumed: from the ledger as it is to the asked-for number of trials."""

    spec: StudySpec
    folder: Path
    ledger: Ledger
    data: StudyData
    address: str | None
    observers: Sequence[Observer]
    quiet: bool
    say: Say

    def __post_init__(self) -> None:
        self.search = Search(self.spec, self.ledger.record.header["context"])
        self.search.replay(self.ledger.record)

    def to_the_end(self) -> StudyResult:
        record = self.ledger.record
        interrupted = False
        if self._unfinished():
            try:
                interrupted = self._run()
            except KeyboardInterrupt:
                interrupted = True
            finally:
                self._write_exports()
        counts = Counter(str(trial.status) for trial in record.finished)
        return StudyResult(self.folder, interrupted, self.search.total, dict(counts))

    def _unfinished(self) -> bool:
        return next(pending(self.ledger.record.trials, self.search.total), None) is not None

    def _run(self) -> bool:
        """Lanes, baselines, trials. True when interrupted."""
        operations = self.spec.operations
        self.say(f"starting {operations.lanes} lane(s) of {operations.workers_per_lane} worker(s)")
        with (
            connected(self.address, operations),
            Interrupt(self.say) as interrupt,
            Fleet(operations, OpenStudy(self.spec, ray.put(self.data))) as fleet,
        ):
            # Measured anew until a trial was judged by them: a crash may have left only the first of them.
            first = fleet.first_job(baselines=not self.ledger.record.trials, interrupt=interrupt)
            if first is None:
                return True
            self._record_baselines(first["result"]["rows"])
            with self._observed() as observers:
                recorder = Recorder(self.spec, self.ledger, self.search, Pruner(self.spec), observers)
                run_trials(recorder, self.search, fleet, operations.lanes, interrupt)
            if recorder.fatal:
                raise LaneError(f"{recorder.fatal}; finished trials are kept: ray-unlearn resume {self.folder}")
            return interrupt.requested and self._unfinished()

    @contextlib.contextmanager
    def _observed(self) -> Iterator[list[Observer]]:
        """The observers, with progress and TensorBoard among them where wanted."""
        observers = list(self.observers)
        with contextlib.ExitStack() as stack:
            if not self.quiet:
                observers.append(stack.enter_context(Progress(self.spec, self.ledger.record, self.search.total)))
            if self.spec.operations.tensorboard:
                board = TensorBoardObserver(self.folder / TENSORBOARD_FOLDER, self.spec)
                observers.append(stack.enter_context(contextlib.closing(board)))
            yield observers

    def _record_baselines(self, rows: dict[str, dict[str, Any]]) -> None:
        for name, row in rows.items():
            self.ledger.append({"kind": "baseline", "name": name, "metrics": row})
        if rows:
            text = json.dumps(rows, indent=1, sort_keys=True)
            (self.folder / BASELINES_FILE).write_text(text + "\n")

    def _write_exports(self) -> None:
        """Tables and Optuna journal: made from the ledger, so they can be made again."""
        record = self.ledger.record
        if record.baselines:
            write_table(baseline_table(record), self.folder / LEDGER_FOLDER / "baselines.parquet")
        write_table(result_table(record), self.folder / LEDGER_FOLDER / "rows.parquet")
        export_journal(record, self.spec, self.folder / JOURNAL_FILE)


def _refuse_existing(folder: Path) -> None:
    if events_file(folder / LEDGER_FOLDER).exists() or (folder / SPEC_FILE).exists():
        raise UserError(
            f"{folder} holds a study already; go on with it: `ray-unlearn resume {folder}`, or choose another folder"
        )


def _check_disk(folder: Path, rows: int) -> None:
    """Refuse a disk that the ledger would fill; a torn study is worse than none."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    needed = max(SMALLEST_FREE_BYTES, 2 * rows * BYTES_PER_ROW)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise StorageError(
            f"{folder}: {free / 2**20:.0f} MiB free, the study may need {needed / 2**20:.0f} MiB; free some space"
        )


def _most_rows(spec: StudySpec) -> int:
    """An upper bound of any trial's evaluation rows, for the disk estimate."""
    return max(len(spec.evaluation.updates(longest(spec, method).steps)) for method in spec.methods)


def _header(spec: StudySpec, data: StudyData) -> dict[str, Any]:
    return {
        "spec": spec.model_dump(mode="json"),
        "domain": data.domain,
        "data_digest": data.digest,
        "model_digest": model_digest(spec.model),
        "context": context_digest(spec, data),
        "retraining_flops": _retraining_flops(spec.model),
        "code_version": _code_version(),
        "libraries": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def _retraining_flops(model: ModelSpec) -> float:
    """See `workspace.retraining_flops`; the parameters are counted on the meta device, nothing is loaded."""
    if model.source.startswith("demo:") or not model.pretraining_tokens:
        return retraining_flops(model, 0)
    from transformers import AutoConfig

    gguf = {"gguf_file": model.gguf_file} if model.gguf_file else {}
    config = AutoConfig.from_pretrained(
        local_source(model.source), revision=model.revision, trust_remote_code=False, **gguf
    )
    return retraining_flops(model, parameter_count(config))


def _code_version() -> str:
    """The installed version and a digest of the sources: two checkouts of one version are told apart."""
    try:
        version = importlib.metadata.version("ray-unlearn")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    root = Path(ray_unlearn.__file__).parent
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return f"{version} ({total.hexdigest()[:12]})"


def _resumed_spec(
    folder: Path, record: Record, operations: dict[str, Any] | None, trials_per_method: int | None
) -> StudySpec:
    """The spec in `study.yaml` with the overrides, checked against the one the study began with.

    Raises:
        UserError: something that decides results was edited, or fewer trials are asked for than there are.
    """
    path = folder / SPEC_FILE
    began = validated(StudySpec, record.header["spec"], "ledger header: spec")
    if not path.exists():
        _write_spec(path, began)
    spec = load_study(path)
    if trials_per_method is not None:
        if spec.search.sampler == "grid":
            raise UserError("--trials: a grid study runs its whole grid; there is nothing to add")
        known = Counter(trial.method for trial in record.trials.values())
        if trials_per_method < max(known.values(), default=0):
            raise UserError(
                f"--trials: the study has {max(known.values())} trials of a method already, got {trials_per_method}"
            )
        spec = _with_trials(spec, trials_per_method)
        _write_spec(path, spec)
    if _with_trials(spec, began.search.trials_per_method).results_digest() != began.results_digest():
        raise UserError(
            f"{path}: was changed since the study began; only `operations` and `search.trials_per_method` may be: "
            "put it back, or start a new study with `ray-unlearn run`"
        )
    return load_study(path, operations) if operations else spec


def _write_spec(path: Path, spec: StudySpec) -> None:
    """Write the resolved spec, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        draft.write_text(yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
        draft.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from None


def _with_trials(spec: StudySpec, trials_per_method: int | None) -> StudySpec:
    return spec.model_copy(update={"search": spec.search.model_copy(update={"trials_per_method": trials_per_method})})


def _check_same(what: str, began: str, now: str) -> None:
    if began != now:
        raise UserError(
            f"the {what} has changed since the study began (digest {began}, now {now}): its trials could not be compared; "
            f"put the {what} back, or start a new study with `ray-unlearn run`"
        )

"""The ledger as an Optuna journal, for optuna-dashboard and Optuna's own plots.

It follows a running study, and is exact when the run has ended. It is an export: nothing reads it
back.
"""

import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial

from ray_unlearn.execution.drawn_points import active, contains
from ray_unlearn.execution.optuna_trials import as_optuna_trial, directions, objectives
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.schema import Row
from ray_unlearn.store.score import ScoreRule

JOURNAL_FILE = "optuna.journal"

SHOWN = (
    "update",
    "strength",
    "forget_ppl",
    "forget_gap_selection",
    "utility_loss_selection",
    "score_reporting",
    "flops",
)
"""Metrics of a trial's best row that are shown beside its value."""


def export_journal(record: Record, spec: StudySpec, path: Path) -> None:
    """Write the journal, with one Optuna study per method, `<study>/<method>`.

    The file is replaced whole or not at all. A journal with the same content is left unchanged,
    because Optuna's readers remember their place in the file and cannot go on in another one.

    Raises:
        StorageError: the file cannot be written.
    """
    trials = [trial for _, trial in sorted(record.trials.items())]
    buffer, storage, _ = _written(trials, ScoreRule.of(record, spec))
    if _contents(_loaded(path)) != _contents(storage):
        _replace(path, buffer.logs)


class LiveJournal:
    """The journal of a running study.

    It is written whole at the start and then only appended to, so that readers can follow. There is
    one writer, without Optuna's lock (an optuna-dashboard that stores a note takes it, and both
    append). What the journal has recorded of a trial cannot be taken back: only the export at the
    end removes the intermediate values of a trial that turned out diverged.

    Raises:
        StorageError: the file cannot be written.
    """

    def __init__(self, record: Record, spec: StudySpec, path: Path) -> None:
        self._rule = ScoreRule.of(record, spec)
        self._path = path
        trials = [trial for _, trial in sorted(record.trials.items())]
        self._buffer, self._storage, self._ids = _written(trials, self._rule)
        self._studies = {
            method: self._storage.get_study_id_from_name(f"{spec.name}/{method}")
            for method in spec.methods
        }
        self._shown = {
            trial.number: _exported(trial, self._rule) for trial in trials if trial.status is None
        }
        """Running trials as the journal has them."""
        _replace(path, self._buffer.logs)
        self._buffer.forget()

    def show(self, trial: Trial, ended: bool) -> None:
        """Add what is new about a trial; `flush` writes it.

        Args:
            trial: may be changing now, in another thread.
            ended: whether it has its outcome; if not, it is shown as running, whatever its state
                has become by now.
        """
        now = trial if ended else replace(trial, status=None, reason="", rows=list(trial.rows))
        frozen, id_ = _exported(now, self._rule), self._ids.get(trial.number)
        if id_ is None:
            id_ = self._ids[trial.number] = self._storage.create_new_trial(
                self._studies[trial.method], frozen
            )
        elif (before := self._shown.get(trial.number)) is not None:
            for name, value in frozen.user_attrs.items():
                if before.user_attrs.get(name) != value:
                    self._storage.set_trial_user_attr(id_, name, value)
            for update, value in frozen.intermediate_values.items():
                if update not in before.intermediate_values:
                    self._storage.set_trial_intermediate_value(id_, update, value)
            if ended:
                for name, value in frozen.system_attrs.items():
                    self._storage.set_trial_system_attr(id_, name, value)
                self._storage.set_trial_state_values(id_, frozen.state, frozen.values)
        if ended:
            self._shown.pop(trial.number, None)
        else:
            self._shown[trial.number] = frozen

    def flush(self) -> None:
        """Append what was shown since the last call, in one write.

        Nothing is lost by an error: the next call tries again.

        Raises:
            OSError: the disk is full, or the file was removed.
        """
        if self._buffer.logs:
            _append(self._path, _lines(self._buffer.logs))
            self._buffer.forget()


class _Buffer(BaseJournalBackend):  # type: ignore[misc]
    """A journal in memory, as Optuna's file backend would lock, write and sync for each trial.

    That takes 5 ms a trial.
    """

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []
        self._forgotten = 0

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self.logs[log_number_from - self._forgotten :]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs

    def forget(self) -> None:
        """Drop what was written to the file; Optuna reads every entry at once, and only once."""
        self._forgotten += len(self.logs)
        self.logs = []


def _written(
    trials: list[Trial], rule: ScoreRule
) -> tuple[_Buffer, JournalStorage, dict[int, int]]:
    """The trials in a journal in memory, and Optuna's id of each."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    buffer, spec = _Buffer(), rule.spec
    storage, ids = JournalStorage(buffer), {}
    for method in spec.methods:
        study = optuna.create_study(
            storage=storage, study_name=f"{spec.name}/{method}", directions=directions(spec)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(objectives(spec)))
        for trial in trials:
            if trial.method == method:
                ids[trial.number] = storage.create_new_trial(
                    study._study_id, _exported(trial, rule)
                )
    return buffer, storage, ids


def _loaded(path: Path) -> JournalStorage | None:
    """The journal in a file; None if Optuna can read none there, and it is to be made anew."""
    if not path.is_file():
        return None
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except Exception:  # Optuna applies lines unchecked: a damaged one fails in any way
        return None


def _contents(storage: JournalStorage | None) -> dict[str, list[Any]] | None:
    """A journal's content on our trials, to compare, without times and optuna-dashboard's notes."""
    if storage is None:
        return None
    return {
        study.study_name: [
            study.directions,
            *(
                (
                    t.number,
                    t.state,
                    t.values,
                    t.params,
                    t.distributions,
                    t.user_attrs,
                    t.constraints,
                    t.intermediate_values,
                )
                for t in storage.get_all_trials(study._study_id, deepcopy=False)
            ),
        ]
        for study in storage.get_all_studies()
    }


def _lines(logs: list[dict[str, Any]]) -> bytes:
    """The lines of a journal as Optuna's file backend writes them."""
    return b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)


def _replace(path: Path, logs: list[dict[str, Any]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, _lines(logs))
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from None


def _append(path: Path, content: bytes) -> None:
    """Append all or nothing, because half a line would end the journal for every reader."""
    with open(os.open(path, os.O_WRONLY | os.O_APPEND), "ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(end)
            raise


def _exported(trial: Trial, rule: ScoreRule) -> FrozenTrial:
    """The trial as the search sees it, with user attributes for what Optuna has no field for.

    Values outside the space (it was edited later) are left out of the parameters.
    """
    space = rule.spec.spaces[trial.method]
    point = active(space, trial.config)
    point = {name: value for name, value in point.items() if contains(space, {name: value})}
    frozen = as_optuna_trial(trial, rule, point)
    scoring = rule.row(trial)
    best: Row = dict(({} if scoring is None else scoring).items())
    facts = {"number": trial.number, "trial_id": trial.trial_id, "seed": trial.config["seed"]}
    outcome: dict[str, Any] = {"status": trial.status or "running", "reason": trial.reason}
    if rule.objective.constraints and trial.status is not None:
        outcome |= {"feasible": scoring is not None, "outside": rule.outside(trial)}
    for name, value in (
        facts | outcome | {name: best[name] for name in SHOWN if name in best}
    ).items():
        frozen.set_user_attr(name, value)
    return frozen

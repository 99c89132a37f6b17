"""The ledger as an Optuna journal, for optuna-dashboard and Optuna's own plots. An export: nothing reads it back."""

import os
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial

from ray_unlearn.execution.past import as_optuna_trial, directions, objectives
from ray_unlearn.execution.points import active, contains
from ray_unlearn.results.best import best_row
from ray_unlearn.results.record import Record, Trial
from ray_unlearn.results.schema import Row
from ray_unlearn.spec.errors import StorageError
from ray_unlearn.spec.study import StudySpec

SHOWN = ("update", "forget_ppl", "forget_gap_selection", "utility_loss_selection", "score_reporting", "flops")
"""Metrics of a trial's best row that are shown beside its value."""


def export_journal(record: Record, spec: StudySpec, path: Path) -> None:
    """Write `path`: one Optuna study per method, `<study>/<method>`, replacing the file whole or not at all.

    Raises:
        StorageError: the file cannot be written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    buffer = _Buffer()
    storage = JournalStorage(buffer)
    for method in spec.methods:
        study = optuna.create_study(storage=storage, study_name=f"{spec.name}/{method}", directions=directions(spec))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(objectives(spec)))
        trials = [trial for _, trial in sorted(record.trials.items()) if trial.method == method]
        study.add_trials([_exported(trial, spec) for trial in trials])
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        JournalFileBackend(str(temporary)).append_logs(buffer.logs)
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from None


class _Buffer(BaseJournalBackend):  # type: ignore[misc]
    """A journal in memory: Optuna's file backend would lock, write and sync once per trial (5 ms each)."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs


def _exported(trial: Trial, spec: StudySpec) -> FrozenTrial:
    """The trial as the search sees it, and in its user attributes what Optuna has no word for.

    Values outside the space (it was edited later) are left out of the parameters.
    """
    space = spec.spaces[trial.method]
    point = active(space, trial.config)
    point = {name: value for name, value in point.items() if contains(space, {name: value})}
    frozen = as_optuna_trial(trial, spec, point)
    best: Row = dict((best_row(trial, spec) or {}).items())
    facts = {"number": trial.number, "trial_id": trial.trial_id, "seed": trial.config["seed"]}
    outcome = {"status": trial.status or "running", "reason": trial.reason}
    for name, value in (facts | outcome | {name: best[name] for name in SHOWN if name in best}).items():
        frozen.set_user_attr(name, value)
    return frozen

"""TensorBoard files beside the ledger: one run per trial, and the HParams tab over all of them.

They are written with TensorBoard's own record writer and protocol buffers, without torch or
tensorflow. Its `EventFileWriter` (and torch's and tensorboardX's, built like it) starts a thread
per file, which a study of 1,000 trials cannot afford.
"""

import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.hparams import summary_v2 as hp
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from ray_unlearn.execution.drawn_points import Sampled
from ray_unlearn.execution.exports.run_facts import (
    BEST,
    best_metrics,
    outcome_text,
    run_configuration,
    run_name,
    shown_metrics,
)
from ray_unlearn.spec.search_space import Choice, IntRange
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import Row, row_key
from ray_unlearn.store.score import ScoreRule


class TensorBoardObserver:
    """Writer of a run for each trial: scalars by update, hyperparameters, best row, outcome.

    Trial 7 has the folder `<folder>/0007-<method>/`. A trial's files are derived from the ledger
    like everything else: a trial that runs again writes them again.
    """

    def __init__(self, folder: Path, rule: ScoreRule) -> None:
        self._folder = folder
        self._rule = rule
        self._spec = spec = rule.spec
        self._runs: dict[int, _Run] = {}
        experiment = _Run(folder)
        experiment.add(
            hp.hparams_config_pb(
                _hyperparameters(spec), [hp.Metric(f"best/{name}") for name in BEST]
            )
        )
        experiment.close()

    def on_trial(self, trial: Trial) -> None:
        """Begin the trial's run, with the rows that an interrupted trial has already."""
        self._close(trial.number)
        run = self._runs[trial.number] = _Run(self._folder / run_name(trial))
        values = run_configuration(self._spec, trial)
        run.add(hp.hparams_pb(values, trial_id=f"{trial.number:04d}"))
        for row in trial.rows:
            self.on_row(trial, row)

    def on_row(self, trial: Trial, row: Row) -> None:
        """Write one scalar per metric, at the row's update.

        Calibrated rows have names of their own.
        """
        if trial.number not in self._runs:
            self.on_trial(trial)
            if any(row_key(known) == row_key(row) for known in trial.rows):
                return
        scalars = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in shown_metrics(row).items()
        ]
        self._runs[trial.number].add(Summary(value=scalars), row["update"])

    def on_outcome(self, trial: Trial) -> None:
        """Write the best row and the outcome, and close the file."""
        if trial.number not in self._runs:
            self.on_trial(trial)
        run = self._runs[trial.number]
        best = best_metrics(self._rule, trial)
        if best:
            run.add(Summary(value=[Summary.Value(tag=n, simple_value=v) for n, v in best.items()]))
        run.add(text_pb("outcome", outcome_text(trial)))
        run.add(_session_end(succeeded=trial.status in {"complete", "pruned"}))
        self._close(trial.number)

    def close(self) -> None:
        """Close the files of trials that have no outcome yet (the study was interrupted)."""
        for number in list(self._runs):
            self._close(number)

    def _close(self, number: int) -> None:
        if number in self._runs:
            self._runs.pop(number).close()


class _Run:
    """An event file in an otherwise empty run folder.

    Each summary is in the file when `add` returns.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        name = f"events.out.tfevents.{time.time_ns()}"
        self._writer = RecordWriter(open(folder / name, "wb"))  # noqa: SIM115
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add(self, summary: Summary, update: int = 0) -> None:
        self._write(Event(wall_time=time.time(), step=update, summary=summary))

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _hyperparameters(spec: StudySpec) -> list[hp.HParam]:
    """Columns of the HParams tab: method, seed, and each hyperparameter that a method samples."""
    parameters: dict[str, list[Sampled]] = {}
    for method in spec.methods:
        for name, parameter in spec.spaces[method].sampled().items():
            parameters.setdefault(name, []).append(parameter)
    columns = [
        hp.HParam("method", hp.Discrete(spec.methods)),
        hp.HParam("seed", hp.Discrete(spec.search.trial_seeds)),
    ]
    return columns + [hp.HParam(name, _domain(ranges)) for name, ranges in parameters.items()]


def _domain(ranges: list[Sampled]) -> Any:
    """The values of a parameter over all methods.

    None if their kinds differ; TensorBoard then accepts any.
    """
    if all(isinstance(r, Choice) for r in ranges):
        values = list(dict.fromkeys(v for r in ranges if isinstance(r, Choice) for v in r.choices))
        return hp.Discrete(values) if len({type(v) for v in values}) == 1 else None
    limits = [r for r in ranges if not isinstance(r, Choice)]
    if len(limits) < len(ranges):
        return None
    low, high = min(r.low for r in limits), max(r.high for r in limits)
    if all(isinstance(r, IntRange) for r in limits):
        return hp.IntInterval(int(low), int(high))
    return hp.RealInterval(float(low), float(high))


def _session_end(succeeded: bool) -> Summary:
    """The result of `tensorboard.plugins.hparams.summary.session_end_pb`, without tensorflow."""
    status = api_pb2.Status.Value("STATUS_SUCCESS" if succeeded else "STATUS_FAILURE")
    end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    about = metadata.create_summary_metadata(
        plugin_data_pb2.HParamsPluginData(session_end_info=end)
    )
    value = Summary.Value(
        tag=metadata.SESSION_END_INFO_TAG, metadata=about, tensor=metadata.NULL_TENSOR
    )
    return Summary(value=[value])

"""A study in MLflow: a parent run, and one run per trial below it.

Where it goes is MLflow's to say: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME (here: `ray-unlearn`).
What a run has is asked from MLflow itself, and only what it lacks is sent: a study that goes on, on
whatever machine, goes on in the same runs.
"""

import math
import os
import re
from collections.abc import Iterator
from typing import Any

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.execution.exports.run_facts import (
    best_metrics,
    outcome_text,
    run_configuration,
    run_name,
    shown_metrics,
)
from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import Row
from ray_unlearn.store.score import ScoreRule

EXPERIMENT = "ray-unlearn"
STUDY_TAG, TRIAL_TAG, LOGGED_TAG = "ray_unlearn.study_id", "ray_unlearn.trial", "ray_unlearn.logged"
PARENT = "parent"
ROW = "row"
"""Metric with a row's place among its trial's: which rows a run has already."""
PER_PAGE = 1000
PER_REQUEST = 90
"""MLflow takes 100 parameters at once."""
MOST_CHARACTERS = 500
SUCCEEDED = ("complete", "pruned")


class MlflowTracker:
    """A tracker that writes to MLflow; see the module.

    Args:
        rule: of the study.
        study_id: tells studies of one name apart.
        location: where the study is, for people.
        environment: its clock dates the metrics.

    Raises:
        Exception: MLflow cannot be reached.
    """

    def __init__(
        self, rule: ScoreRule, study_id: str, location: str, environment: Environment = REAL
    ) -> None:
        # A server that is down must not hold up the other trackers for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        from mlflow.tracking import MlflowClient

        self._rule = rule
        self._study_id = study_id
        self._environment = environment
        self._client = MlflowClient()
        self._experiment = self._experiment_id()
        self._found = dict(self._runs_there())
        """By `PARENT` or number of the trial, its run as it was found."""
        self._ids: dict[int, str] = {}
        self._sent: dict[int, set[int]] = {}
        self._whole: set[int] = set()
        """Trials whose run was found to have everything."""
        self._parent = self._parent_id(location)

    def on_trial(self, trial: Trial) -> None:
        """Find the trial's run or make it, and send the rows that it lacks."""
        found, number = self._found.pop(str(trial.number), None), trial.number
        if found is not None:
            self._ids[number] = found.info.run_id
            if found.data.tags.get(LOGGED_TAG) == _logged(trial):
                self._whole.add(number)
                return
        if number not in self._ids:
            self._ids[number] = self._new_run(trial)
        self._whole.discard(number)
        run_id = self._ids[number]
        if found is not None and found.info.status != "RUNNING":
            self._client.update_run(run_id, "RUNNING")
        self._sent[number] = {
            round(point.value) for point in self._client.get_metric_history(run_id, ROW)
        }
        self._send_rows(trial)

    def on_row(self, trial: Trial, row: Row) -> None:
        """Send the rows that the run lacks."""
        if trial.number not in self._sent:
            self.on_trial(trial)
        else:
            self._send_rows(trial)

    def on_outcome(self, trial: Trial) -> None:
        """Send outcome and best row, and end the run."""
        if trial.number not in self._ids:
            self.on_trial(trial)
        if trial.number in self._whole:
            return
        run_id = self._ids[trial.number]
        tags = {"outcome": str(trial.status), "reason": outcome_text(trial)}
        self._send(run_id, best_metrics(self._rule, trial), 0, tags)
        # The last word: without it the next one who looks sends what is missing.
        self._send(run_id, {}, 0, {LOGGED_TAG: _logged(trial)})
        self._client.set_terminated(run_id, "FINISHED" if trial.status in SUCCEEDED else "FAILED")
        self._sent.pop(trial.number, None)

    def close(self) -> None:
        """End the parent; a study that goes on opens it again."""
        self._client.set_terminated(self._parent, "FINISHED")

    def _send_rows(self, trial: Trial) -> None:
        sent = self._sent[trial.number]
        for place, row in enumerate(trial.rows):
            if place not in sent:
                metrics = shown_metrics(row) | {ROW: float(place)}
                self._send(self._ids[trial.number], metrics, row["update"], {})
                sent.add(place)

    def _send(
        self, run_id: str, metrics: dict[str, float], update: int, tags: dict[str, str]
    ) -> None:
        """All in one request: MLflow takes all of it or nothing."""
        from mlflow.entities import Metric, RunTag

        now = int(self._environment.time() * 1000)
        self._client.log_batch(
            run_id,
            metrics=[
                Metric(_as_name(name), float(value), now, update)
                for name, value in metrics.items()
                if math.isfinite(value)
            ],
            tags=[RunTag(name, text[:MOST_CHARACTERS]) for name, text in tags.items()],
        )

    def _experiment_id(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        known = self._client.get_experiment_by_name(name)
        return str(known.experiment_id if known else self._client.create_experiment(name))

    def _runs_there(self) -> Iterator[tuple[str, Any]]:
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                f"tags.`{STUDY_TAG}` = '{self._study_id}'",
                max_results=PER_PAGE,
                page_token=token,
            )
            yield from ((run.data.tags[TRIAL_TAG], run) for run in page)
            token = page.token
            if not token:
                return

    def _parent_id(self, location: str) -> str:
        known, spec = self._found.pop(PARENT, None), self._rule.spec
        if known is not None:
            self._client.update_run(known.info.run_id, "RUNNING")
            return str(known.info.run_id)
        tags = {STUDY_TAG: self._study_id, TRIAL_TAG: PARENT, "study": spec.name}
        made = self._client.create_run(
            self._experiment, tags=tags | {"location": location}, run_name=spec.name
        )
        about = {"model": spec.model.source, "methods": ", ".join(spec.methods)}
        self._describe(made.info.run_id, about)
        return str(made.info.run_id)

    def _new_run(self, trial: Trial) -> str:
        spec = self._rule.spec
        tags = {
            "mlflow.parentRunId": self._parent,
            STUDY_TAG: self._study_id,
            TRIAL_TAG: str(trial.number),
            "study": spec.name,
            "method": trial.method,
            "trial_id": trial.trial_id,
        }
        made = self._client.create_run(self._experiment, tags=tags, run_name=run_name(trial))
        self._describe(made.info.run_id, run_configuration(spec, trial))
        return str(made.info.run_id)

    def _describe(self, run_id: str, values: dict[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(_as_name(n), str(v)[:MOST_CHARACTERS]) for n, v in values.items()]
        for first in range(0, len(params), PER_REQUEST):
            self._client.log_batch(run_id, params=params[first : first + PER_REQUEST])


def _logged(trial: Trial) -> str:
    return f"{len(trial.rows)} rows, {trial.status}"


def _as_name(name: str) -> str:
    """The name in the characters that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", name)

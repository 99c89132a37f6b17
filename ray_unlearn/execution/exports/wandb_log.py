"""A study in Weights & Biases: a group, and one run per trial in it.

Where it goes is W&B's to say: WANDB_PROJECT (here: `ray-unlearn`), WANDB_ENTITY, WANDB_MODE,
WANDB_DIR. A trial's run has an id that follows from study and trial, and a row's step is its place
among the trial's rows, so a study that goes on, on whatever machine, goes on in the same runs: W&B
says how many rows a run has. Offline nobody can say so; then the trial's folder is written anew.
"""

import hashlib
import math
import shutil
from pathlib import Path
from typing import Any

from ray_unlearn.execution.exports.run_facts import (
    best_metrics,
    outcome_text,
    run_configuration,
    run_name,
    shown_metrics,
)
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import Row
from ray_unlearn.store.score import ScoreRule

PROJECT = "ray-unlearn"
WHOLE_FILE = "ray-unlearn.txt"
"""In the folder of a run that has everything: with how many rows and which outcome it ended."""
MOST_CHARACTERS = 64
"""Of a tag; a group may have 128."""
SUCCEEDED = ("complete", "pruned")


class WandbTracker:
    """A tracker that writes to W&B; see the module.

    Args:
        rule: of the study.
        study_id: tells studies of one name apart.
        location: where the study is, for people.
    """

    def __init__(self, rule: ScoreRule, study_id: str, location: str) -> None:
        import wandb

        self._wandb: Any = wandb
        self._rule = rule
        self._study_id = study_id
        self._location = location
        self._runs: dict[int, Any] = {}
        self._sent: dict[int, int] = {}

    def on_trial(self, trial: Trial) -> None:
        """Open the trial's run, and send the rows that it lacks."""
        if trial.number in self._runs:
            self._close(trial.number, failed=False)
        if self._is_whole(trial):
            return
        run = self._opened(trial)
        self._runs[trial.number] = run
        self._sent[trial.number] = run.starting_step
        self._send_rows(trial)

    def on_row(self, trial: Trial, row: Row) -> None:
        """Send the rows that the run lacks."""
        if trial.number not in self._runs:
            self.on_trial(trial)
        else:
            self._send_rows(trial)

    def on_outcome(self, trial: Trial) -> None:
        """Send outcome and best row, and end the run."""
        if trial.number not in self._runs:
            self.on_trial(trial)
        if trial.number not in self._runs:
            return  # it had everything
        run = self._runs[trial.number]
        run.summary.update(
            _finite(best_metrics(self._rule, trial))
            | {"outcome": trial.status, "reason": outcome_text(trial)}
        )
        folder = Path(run.dir).parent
        self._close(trial.number, failed=trial.status not in SUCCEEDED)
        write_whole(folder / WHOLE_FILE, _logged(trial).encode())

    def close(self) -> None:
        """Close the runs of trials that have no outcome yet."""
        for number in list(self._runs):
            self._close(number, failed=False)

    def _send_rows(self, trial: Trial) -> None:
        run = self._runs[trial.number]
        for place in range(self._sent[trial.number], len(trial.rows)):
            row = trial.rows[place]
            run.log(_finite(shown_metrics(row)) | {"update": row["update"]}, step=place)
            self._sent[trial.number] = place + 1

    def _opened(self, trial: Trial) -> Any:
        settings = self._wandb.setup().settings
        if settings.mode in ("offline", "dryrun"):
            for old in self._folders(trial):
                shutil.rmtree(old)
        spec = self._rule.spec
        run = self._wandb.init(
            project=settings.project or PROJECT,
            id=self._run_id(trial),
            name=run_name(trial),
            group=f"{spec.name} {self._study_id[:8]}"[:128],
            job_type=trial.method[:MOST_CHARACTERS],
            tags=[text[:MOST_CHARACTERS] for text in (spec.name, trial.method)],
            notes=f"trial {trial.number} ({trial.trial_id}) of {self._location}",
            config=run_configuration(spec, trial) | {"study": spec.name, "trial": trial.number},
            resume="allow",
            reinit="create_new",
            settings=self._wandb.Settings(
                silent=True, console="off", x_disable_stats=True, disable_git=True
            ),
        )
        run.define_metric("update")
        run.define_metric("*", step_metric="update")
        return run

    def _run_id(self, trial: Trial) -> str:
        return hashlib.sha256(f"{self._study_id} {trial.number}".encode()).hexdigest()[:16]

    def _folders(self, trial: Trial) -> list[Path]:
        """The folders of the trial's run on this machine."""
        root = Path(self._wandb.setup().settings.wandb_dir)
        return sorted(root.glob(f"*run-*-{self._run_id(trial)}"))

    def _is_whole(self, trial: Trial) -> bool:
        for folder in self._folders(trial):
            file = folder / WHOLE_FILE
            if file.is_file() and file.read_text(encoding="utf-8") == _logged(trial):
                return True
        return False

    def _close(self, number: int, *, failed: bool) -> None:
        self._sent.pop(number, None)
        self._runs.pop(number).finish(exit_code=int(failed))


def _finite(metrics: dict[str, float]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _logged(trial: Trial) -> str:
    return f"{len(trial.rows)} rows, {trial.status}"

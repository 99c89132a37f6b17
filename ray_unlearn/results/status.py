"""Where a study stands, derived from its ledger alone: safe beside a running study, and long after it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray_unlearn.results.best import OBJECTIVE, best_trial
from ray_unlearn.results.ledger import read_ledger
from ray_unlearn.results.record import Record
from ray_unlearn.results.schema import OUTCOMES
from ray_unlearn.spec.base import validated
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.study import StudySpec


@dataclass(frozen=True)
class Best:
    """The best configuration of a method so far; score and metrics on the selection half."""

    method: str
    number: int
    trial_id: str
    update: int
    learning_rate: float
    score: float
    forget_ppl: float
    target_ppl: float


@dataclass(frozen=True)
class Status:
    """Counts and bests of one study."""

    name: str
    folder: str
    asked_for: int | None
    outcomes: dict[str, int]
    unfinished: int
    rows: int
    best: list[Best]
    notes: list[str]

    @property
    def finished(self) -> int:
        """Trials with an outcome."""
        return sum(self.outcomes.values())

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self) | {"finished": self.finished}


def open_study(folder: Path) -> tuple[StudySpec, Record]:
    """Spec and record of a study directory.

    Raises:
        UserError: no study there.
        StorageError: its ledger is damaged.
    """
    if not (folder / "ledger" / "events.jsonl").is_file():
        raise UserError(f"{folder}: no study there (no ledger/events.jsonl); give the folder of `run --storage`")
    record = read_ledger(folder / "ledger")
    return validated(StudySpec, record.header["spec"], f"{folder}: ledger header"), record


def status(folder: Path, asked_for: int | None = None) -> Status:
    """The study in `folder`. Raises as `open_study`."""
    spec, record = open_study(folder)
    finished = record.finished
    outcomes: dict[str, int] = {name: sum(trial.status == name for trial in finished) for name in OUTCOMES}
    bests = []
    vanilla = record.baselines.get("vanilla", {})
    for method in spec.methods:
        found = best_trial(record, spec, method)
        if found is not None:
            trial, row = found
            bests.append(
                Best(
                    method, trial.number, trial.trial_id, row["update"], trial.config["learning_rate"], row[OBJECTIVE],
                    row["forget_ppl"], vanilla.get("approximate_ppl_selection", float("nan")),
                )
            )  # fmt: skip
    bests.sort(key=lambda best: best.score)
    return Status(
        spec.name,
        str(folder),
        asked_for,
        outcomes,
        unfinished=len(record.trials) - len(finished),
        rows=sum(len(trial.rows) for trial in record.trials.values()),
        best=bests,
        notes=[str(note.get("text", note)) for note in record.notes],
    )

"""Confirmation: scores of the best configurations over new seeds, beside what was claimed.

The score the study chose a configuration by is optimistic: the lowest of many noisy numbers is low
partly by luck. The reporting half takes out the luck of the documents, new seeds that of data order
and labels. So the mean here is over new seeds and on the reporting half, with a 90 % t-interval
(Student 1908): mean +- t(0.95, n - 1) * SD / sqrt(n).

The interval is for one configuration, one model and one domain, and for the seeds that ended with a
score: how many did not stands beside it. Intervals of several configurations hold one by one, not
all at once.
"""

import csv
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ray_unlearn.analysis.statistics.paired_difference import ALPHA, t_interval
from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.spec.hyperparameters import Hyperparameters
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.store.attack_file import AttackedModel, read_attacks
from ray_unlearn.store.failure_reasons import OutcomeCounts
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.schema import HALVES, Row, is_as_trained, row_key, strength_of
from ray_unlearn.store.score import OBJECTIVE, Configuration, ScoreRule
from ray_unlearn.store.status import open_study

CONFIDENCE = 1 - ALPHA
REPORTED = f"score_{HALVES[1]}"
ENDED_WITHOUT_SCORE = "no_finite_score"
OUT_OF_REACH = "target_out_of_reach"
OUTSIDE = "outside_the_constraints"
UNFINISHED = "unfinished"


@dataclass(frozen=True)
class SeedInterval:
    """A mean with its t-interval; SD and interval are None for fewer than two values."""

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Confirmed:
    """One configuration: what the study claimed, and what new seeds say.

    Scores in nats per token, lower is better.
    """

    method: str
    trial: int
    """Number of the trial that the study found it by."""
    trial_id: str
    hyperparameters: dict[str, Any]
    strength: float
    """Of the row it was found by. At another one than 1, each new seed is calibrated anew."""
    claimed_selection: float
    """The score it was chosen by."""
    claimed_reporting: float | None
    scores: dict[int, float]
    """By new seed, on the reporting half."""
    interval: SeedInterval
    without_score: dict[str, int]
    """New seeds that have no score, by outcome."""
    attacks: dict[str, SeedInterval] = field(default_factory=dict)
    """The share undone by each attack and setting, over the new seeds that were attacked."""
    repeats: tuple[tuple[int, int, float], ...] = ()
    """Number, update and strength of the confirming study's rows that have the scores."""

    @property
    def seeds(self) -> int:
        """New seeds asked for."""
        return len(self.scores) + sum(self.without_score.values())

    @property
    def optimism(self) -> float | None:
        """Mean over the new seeds minus the score that the study chose by, nats/token.

        It holds the winner's curse and the difference between the halves.
        """
        return None if self.interval.mean is None else self.interval.mean - self.claimed_selection


@dataclass(frozen=True)
class Confirmation:
    """All configurations, best claim first."""

    study: str
    folder: str
    configurations: tuple[Confirmed, ...]
    notes: tuple[str, ...]
    reasons: dict[str, int] = field(default_factory=dict)
    """Why trials with new seeds have no result, by reason, the commonest first."""

    def as_json(self) -> dict[str, Any]:
        """For scripts; every number is finite or None."""
        lines = [
            asdict(c) | {"seeds": c.seeds, "optimism": c.optimism} for c in self.configurations
        ]
        about = {
            "study": self.study,
            "folder": self.folder,
            "confidence": CONFIDENCE,
            "score": REPORTED,
        }
        more = {"notes": list(self.notes), "reasons": self.reasons}
        return about | {"configurations": lines} | more


def interval_of(values: list[float]) -> SeedInterval:
    """Mean, SD (n - 1) and two-sided 90 % t-interval of `values`, taken as independent draws."""
    if len(values) < 2:
        return SeedInterval(len(values), values[0] if values else None, None, None, None)
    found = t_interval(values)
    return SeedInterval(
        len(values), statistics.fmean(values), statistics.stdev(values), found.low, found.high
    )


def attack_intervals(models: Sequence[AttackedModel]) -> dict[str, SeedInterval]:
    """The share undone by each attack and setting, over the seeds of one configuration.

    Seeds that had forgotten next to nothing have no share and are left out.

    Args:
        models: of one configuration, attacked alike.

    Returns:
        By `attack: setting`.
    """
    shares: dict[str, list[float]] = {}
    for model in models:
        for one in model.outcomes:
            found = shares.setdefault(f"{one.attack}: {one.setting}", [])
            if (share := one.undone()) is not None:
                found.append(share)
    return {name: interval_of(values) for name, values in shares.items()}


def confirmation(study: Path, confirm: Path) -> Confirmation:
    """Compare what one study claimed with what another measured over new seeds.

    The study in `confirm` may still run.

    Raises:
        UserError: no study there, or `confirm` is no confirmation of `study`.
        StorageError: a ledger is damaged.
    """
    spec, record = open_study(study)
    confirm_spec, confirm_record = open_study(confirm)
    if confirm_spec.search.sampler != "listed":
        raise UserError(
            f"{confirm}: is no confirmation (its sampler is {confirm_spec.search.sampler}, not "
            "listed)"
        )
    found = [
        _confirmed(_claim(spec, record, method, wanted, confirm), confirm_spec, confirm_record)
        for method, points in confirm_spec.search.points.items()
        for wanted in (confirm_spec.spaces[method].resolve(dict(point)) for point in points)
    ]
    attacked = [model for model in read_attacks(study) if model.confirmation == confirm.name]
    found = [_with_attacks(c, attacked) for c in found]
    found.sort(key=lambda c: (c.claimed_selection, c.trial))
    reasons = OutcomeCounts(confirm_record.finished).failures.counts
    return Confirmation(spec.name, confirm.name, tuple(found), tuple(_notes(found)), reasons)


def write_confirmation(found: Confirmation, folder: Path) -> list[Path]:
    """Write `confirm.json` and `confirm.csv` (one line per configuration) into `folder`.

    Returns both paths.

    Raises:
        StorageError: they cannot be written.
    """
    lines = [_line(c) for c in found.configurations]
    try:
        text = json.dumps(found.as_json(), indent=1, allow_nan=False)
        write_whole(folder / "confirm.json", f"{text}\n".encode())
        with open(folder / "confirm.csv", "w", newline="", encoding="utf-8") as file:
            columns = dict.fromkeys(name for line in lines for name in line)
            table = csv.DictWriter(file, fieldnames=list(columns))
            table.writeheader()
            table.writerows(lines)
        return [folder / "confirm.json", folder / "confirm.csv"]
    except OSError as error:
        raise StorageError(f"{folder}: the confirmation cannot be written: {error}") from None


def _with_attacks(c: Confirmed, attacked: Sequence[AttackedModel]) -> Confirmed:
    own = [model for model in attacked if (model.number, model.update, model.strength) in c.repeats]
    return replace(c, attacks=attack_intervals(own))


def _claim(
    spec: StudySpec, record: Record, method: str, wanted: Hyperparameters, confirm: Path
) -> Configuration:
    """The study's best row of this configuration."""
    values, rule = wanted.model_dump(exclude={"steps"}), ScoreRule.of(record, spec)
    same = [
        Configuration(trial, row)
        for trial in record.finished
        if trial.method == method
        and all(trial.config[name] == value for name, value in values.items())
        for row in rule.candidates(trial)
        if row["update"] == wanted.steps
    ]
    if not same:
        raise UserError(
            f"{confirm}: a configuration of {method} is none of the study's: is it of another "
            "study?"
        )
    return min(same, key=lambda c: (c.row[OBJECTIVE], c.trial.number))


def _confirmed(claim: Configuration, spec: StudySpec, record: Record) -> Confirmed:
    method, wanted = claim.trial.method, claim.hyperparameters
    trials = {
        int(trial.config["seed"]): trial
        for trial in record.trials.values()
        if trial.method == method
        and all(trial.config[name] == value for name, value in wanted.items())
    }
    scores: dict[int, float] = {}
    without: dict[str, int] = {}
    repeats = []
    for seed in spec.search.trial_seeds:
        trial = trials.get(seed)
        outcome = _outcome(trial, ScoreRule.of(record, spec), claim.calibrated)
        if trial is None or isinstance(outcome, str):
            without[str(outcome)] = without.get(str(outcome), 0) + 1
        else:
            scores[seed] = float(outcome[REPORTED])
            repeats.append((trial.number, *row_key(outcome)))
    return Confirmed(
        method=method,
        trial=claim.trial.number,
        trial_id=claim.trial.trial_id,
        hyperparameters=wanted,
        strength=strength_of(claim.row),
        claimed_selection=float(claim.row[OBJECTIVE]),
        claimed_reporting=_finite(claim.row),
        scores=scores,
        interval=interval_of(list(scores.values())),
        without_score=without,
        repeats=tuple(repeats),
    )


def _outcome(trial: Trial | None, rule: ScoreRule, calibrated: bool) -> Row | str:
    """The row with the score on the reporting half, or why there is none.

    It is that of the row that meets the target if the claim was such a row, else of the row as
    trained.
    """
    if trial is None or trial.status is None:
        return UNFINISHED
    kind = rule.meets_target if calibrated or _only_target(rule) else is_as_trained
    row = next((row for row in rule.candidates(trial) if kind(row)), None)
    if row is not None and _finite(row) is not None:
        return row
    if trial.status != "complete":
        return trial.status
    if rule.outside(trial):
        return OUTSIDE
    return OUT_OF_REACH if kind == rule.meets_target and row is None else ENDED_WITHOUT_SCORE


def _only_target(rule: ScoreRule) -> bool:
    return rule.spec.evaluation.strength == "target"


def _finite(row: Row) -> float | None:
    score = float(row[REPORTED])
    return score if math.isfinite(score) else None


def _notes(found: list[Confirmed]) -> list[str]:
    notes = []
    for c in found:
        if c.without_score:
            outcomes = ", ".join(f"{count} {outcome}" for outcome, count in c.without_score.items())
            notes.append(
                f"{c.method}, trial {c.trial_id}: {outcomes} of {c.seeds} new seeds; the interval "
                "is for the other "
                f"{len(c.scores)} alone"
            )
    return notes


def _line(c: Confirmed) -> dict[str, Any]:
    line: dict[str, Any] = {
        "method": c.method,
        "trial": c.trial,
        "trial_id": c.trial_id,
    } | c.hyperparameters
    line |= {
        "strength": c.strength,
        "claimed_selection": c.claimed_selection,
        "claimed_reporting": c.claimed_reporting,
        "seeds": c.seeds,
    }
    line |= asdict(c.interval) | {"optimism": c.optimism}
    line |= {"without_score": sum(c.without_score.values())}
    for name, interval in c.attacks.items():
        line |= {f"undone ({name}): {key}": value for key, value in asdict(interval).items()}
    return line

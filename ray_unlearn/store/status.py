"""The status of a study, derived from its files alone.

Reading it is safe while the study is running, and long after.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.strict import validated
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.best_so_far import BestSoFar, best_so_far
from ray_unlearn.store.event import TrialEnded, TrialReopened
from ray_unlearn.store.failure_reasons import OutcomeCounts, none_succeeded
from ray_unlearn.store.follow import LedgerFollower
from ray_unlearn.store.lease import present_holder
from ray_unlearn.store.ledger import read_ledger
from ray_unlearn.store.live import Live, Sign, age_s, read_live, sign_of_life
from ray_unlearn.store.location import check_no_file, copied
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.schema import AS_TRAINED, Row, strength_of
from ray_unlearn.store.score import OBJECTIVE, ScoreRule


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
    strength: float = AS_TRAINED
    tasks: dict[str, float] = field(default_factory=dict)
    """Columns of tasks that its row has (`evaluation.tasks`)."""

    @property
    def where(self) -> str:
        """Its update, and its strength where that is not 1."""
        return f"{self.update}" + ("" if self.strength == 1 else f" at {self.strength:.3g}")


@dataclass(frozen=True)
class Status:
    """Counts and bests of one study, and its driver's last report."""

    name: str
    folder: str
    """The study's folder, or the address of a remote study."""
    asked_for: int | None
    """Trials of the whole study when its last run began; None for ledgers that do not record it."""
    outcomes: dict[str, int]
    unfinished: int
    rows: int
    best: list[Best]
    notes: list[str]
    live: Live | None = None
    age_s: float | None = None
    """Seconds since the driver's last sign of life."""
    problem: str = ""
    """Why the files cannot be read now, so that the rest is from an earlier look; else empty."""
    score_rule: str = "best_row"
    """The rule that chooses the row which scores a trial (see `store.score`)."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Number of trials without a result by reason, the commonest first."""
    feasible: str = ""
    """How many trials are within the constraints, or how near the nearest is; empty without."""
    course: BestSoFar = field(default_factory=BestSoFar)
    """The best score so far by trials, and the level that it should reach."""
    starting: str = ""
    """The process that has taken the study and has not reported yet; empty without."""

    @property
    def without_result(self) -> int:
        """Number of trials that failed, diverged or ran out of memory."""
        return sum(self.reasons.values())

    @property
    def none_succeeded(self) -> bool:
        """Whether trials have ended, and all of them without a result."""
        return none_succeeded(self.outcomes)

    @property
    def finished(self) -> int:
        """Number of trials with an outcome."""
        return sum(self.outcomes.values())

    @property
    def driver(self) -> Sign:
        """Whether the study is running, by its driver's sign of life."""
        return "starting" if self.starting else sign_of_life(self.live, self.age_s)

    @property
    def over(self) -> bool:
        """Whether there is nothing to wait for.

        The run has ended or, if its driver left no report, all its trials have.
        """
        return (self.driver == "ended" and not self.starting) or (
            self.driver == "unknown" and self.finished == self.asked_for
        )

    def as_json(self) -> dict[str, Any]:
        """The status as plain values, for scripts."""
        return asdict(self) | {"finished": self.finished, "driver": self.driver}


class Tally:
    """Outcomes and the best of each method, counted as trials end.

    At 10,000 trials it would take too long to go through all of them at every look.
    """

    def __init__(self, rule: ScoreRule) -> None:
        self._rule = rule
        self._counted: dict[int, tuple[Trial, Row | None]] = {}
        self._course: tuple[int, BestSoFar] | None = None
        """With the number of baselines that it knew."""
        self._best: dict[str, tuple[Trial, Row]] = {}
        self._counts = OutcomeCounts()
        self._feasible = 0
        self._nearest: tuple[float, int, str] | None = None
        """Violation and number of the infeasible trial that is the least outside, and in words."""

    def add(self, trial: Trial) -> None:
        """Count a trial that has ended; a second time has no effect."""
        if trial.number in self._counted:
            return
        row = self._rule.row(trial)
        self._counted[trial.number] = trial, row
        self._course = None
        self._counts.add(trial)
        if row is None:
            self._look_outside(trial)
            return
        self._feasible += 1
        known = self._best.get(trial.method)
        if known is None or (row[OBJECTIVE], trial.number) < (known[1][OBJECTIVE], known[0].number):
            self._best[trial.method] = (trial, row)

    def _look_outside(self, trial: Trial) -> None:
        row = self._rule.nearest_row(trial) if self._rule.objective.constraints else None
        if row is None:
            return
        found = self._rule.violation(row), trial.number, self._rule.outside(trial)
        self._nearest = found if self._nearest is None else min(self._nearest, found)

    @property
    def feasible(self) -> str:
        """How many trials are within the constraints; of none, which is the nearest and how near.

        Empty for a study without constraints, and before a trial has ended.
        """
        if not self._rule.objective.constraints or not self.finished:
            return ""
        if self._feasible:
            return f"{self._feasible} of {self.finished} trials within the constraints"
        nearest = ""
        if self._nearest is not None:
            nearest = f"; nearest is trial {self._nearest[1]}: {self._nearest[2]}"
        return f"none of {self.finished} trials is within the constraints{nearest}"

    @property
    def course(self) -> BestSoFar:
        """The best score so far, made anew when a trial has ended."""
        baselines = len(self._rule.baselines)
        if self._course is None or self._course[0] != baselines:
            self._course = baselines, best_so_far(self._counted, self._rule)
        return self._course[1]

    @property
    def outcomes(self) -> dict[str, int]:
        """Trials by outcome; all outcomes are named."""
        return self._counts.by_outcome

    @property
    def reasons(self) -> dict[str, int]:
        """Why trials have no result, the commonest first."""
        return self._counts.failures.counts

    @property
    def finished(self) -> int:
        """Trials with an outcome."""
        return len(self._counted)

    @property
    def ranked(self) -> list[tuple[Trial, Row]]:
        """The best trial of each method and its row, lowest score first.

        Among equals the trial with the lower number comes first.
        """
        return sorted(self._best.values(), key=lambda pair: (pair[1][OBJECTIVE], pair[0].number))


def open_study(folder: Path) -> tuple[StudySpec, Record]:
    """Spec and record of a study directory.

    Raises:
        UserError: no study there.
        StorageError: its ledger is damaged.
    """
    _check_there(folder)
    record = read_ledger(folder / "ledger")
    return _spec(folder, record), record


def status(folder: Path) -> Status:
    """The status of the study in `folder`.

    Raises:
        UserError: no study there.
        StorageError: its ledger is damaged.
    """
    return Follower(folder).poll()


@contextmanager
def followed(location: str | Path) -> Iterator["Follower"]:
    """A study for repeated looks, in a folder or an object store.

    Raises:
        UserError: not a location.
        StorageError: the store cannot be read.
    """
    with copied(location) as copy:
        if isinstance(copy, Path):
            yield Follower(copy)
        else:
            yield Follower(copy.folder, copy.refresh, name=str(location))


def _nothing() -> None:
    """The refresh of local files, which need none."""


class Follower:
    """The status of a study for repeated looks.

    Args:
        folder: a study directory, or a copy of one.
        refresh: called before each look to bring a copy up to date. An error is a problem of that
            look and does not end the following.
        name: the location of a copy's study, for people; default: the folder.
        environment: its monotonic clock measures the age of the driver's sign of life; unlike the
            time of day it never jumps.
    """

    def __init__(
        self,
        folder: Path,
        refresh: Callable[[], object] = _nothing,
        *,
        name: str = "",
        environment: Environment = REAL,
    ) -> None:
        self._folder = folder
        self._name = name or str(folder)
        self._refresh = refresh
        self._environment = environment
        self._ledger = LedgerFollower(folder / "ledger")
        self._spec: StudySpec | None = None
        self._record: Record | None = None
        self._tally: Tally | None = None
        self._live: Live | None = None
        self._written = 0.0
        """When `_live` was written, by the monotonic clock."""

    @property
    def record(self) -> Record:
        """All that the ledger said at the last look."""
        assert self._record is not None, "nothing was read yet"
        return self._record

    @property
    def rule(self) -> ScoreRule:
        """The study's rule, with its spec."""
        assert self._spec is not None, "nothing was read yet"
        return ScoreRule.of(self.record, self._spec)

    def poll(self) -> Status:
        """The study as it is now.

        Raises:
            UserError: at the first call, as in `open_study`; later calls return what was known and
                the problem.
        """
        problem = ""
        try:
            self._refresh()
            self._read_ledger()
        except (UserError, OSError) as error:
            if self._record is None:
                raise
            problem = str(error)
        self._read_live()
        return self._status(problem)

    def _read_ledger(self) -> None:
        if self._spec is None:
            _check_there(self._folder)
        record, events = self._ledger.poll()
        if self._spec is None:
            self._spec = _spec(self._folder, record)
        if (
            self._tally is None
            or events is None
            or any(isinstance(event, TrialReopened) for event in events)
        ):
            self._tally = Tally(ScoreRule.of(record, self._spec))
            for trial in record.finished:
                self._tally.add(trial)
        else:
            for event in events:
                if isinstance(event, TrialEnded):
                    self._tally.add(record.trials[event.number])
        self._record = record

    def _read_live(self) -> None:
        """Read the driver's report; only the first one's age relies on two machines' clocks."""
        live = read_live(self._folder)
        if live is None or live == self._live:
            return
        self._written = self._environment.monotonic() - (
            age_s(live, self._environment.now()) if self._live is None else 0.0
        )
        self._live = live

    def _status(self, problem: str) -> Status:
        spec, record, tally, live = self._spec, self._record, self._tally, self._live
        assert spec is not None
        assert record is not None
        assert tally is not None
        asked = spec.evaluation.tasks
        target = record.baselines.get("vanilla", {}).get("approximate_ppl_selection", float("nan"))
        bests = [
            Best(
                trial.method, trial.number, trial.trial_id, row["update"],
                trial.config["learning_rate"], row[OBJECTIVE],
                row.get("forget_ppl", float("nan")), target, strength_of(row),
                {name: row[name] for one in asked for name in one.columns if name in row},
            )
            for trial, row in tally.ranked
        ]  # fmt: skip
        return Status(
            spec.name,
            self._name,
            record.sessions[-1].total if record.sessions else None,
            dict(tally.outcomes),
            unfinished=len(record.trials) - tally.finished,
            rows=sum(len(trial.rows) for trial in record.trials.values()),
            best=bests,
            notes=list(record.notes),
            live=live,
            age_s=None if live is None else self._environment.monotonic() - self._written,
            problem=problem,
            score_rule=spec.objective.score_rule,
            reasons=tally.reasons,
            feasible=tally.feasible,
            course=tally.course,
            starting=self._starting(),
        )

    def _starting(self) -> str:
        """Who holds the study since the last report, while that does not say that it runs."""
        live = self._live
        holder = present_holder(self._folder / "ledger", self._environment)
        if holder is None or (live is not None and live.running):
            return ""
        who = holder.host, holder.pid
        if live is not None and who == (live.host, live.pid):
            ended = datetime.fromisoformat(live.time).timestamp()
            if holder.started < ended:  # it is about to give the study back
                return ""
        return f"{holder.host} (process {holder.pid})"


def _check_there(folder: Path) -> None:
    check_no_file(folder)
    if not (folder / "ledger" / "events.jsonl").is_file():
        model = (
            "; it is a model: measure it as `model.source` of a study, with `ray-unlearn plan`"
            if (folder / "config.json").is_file()
            else ""
        )
        raise UserError(
            f"{folder}: no study there (no ledger/events.jsonl); give the folder of `run --storage`"
            f"{model}"
        )


def _spec(folder: Path, record: Record) -> StudySpec:
    """The spec that the study began with, with the number of trials that it has by now."""
    spec = validated(StudySpec, record.header.spec, f"{folder}: ledger header")
    if record.trials_per_method is None:
        return spec
    search = spec.search.model_copy(update={"trials_per_method": record.trials_per_method})
    return spec.model_copy(update={"search": search})

"""Early stopping as a pure function of the ledger.

So a resumed study has the same rungs, and every verdict can be derived again.

asha    Li et al. 2020 (arXiv 1810.05934), stopping variant: at the rungs
        `grace_updates * reduction_factor^k` a trial goes on only if it is among the best
        1/reduction_factor of the trials that have reached that rung so far. Trials differ in their
        evaluated updates: a trial is at a rung with its first evaluation from there on.
median  Golovin et al. 2017 (Vizier), section 3.2: a trial stops at an update if its best score
        by then is worse than the median, over finished trials, of the mean of their scores up to
        that update.

past_best  only the rule for free steps below.
forecast   a trial stops once the evaluations to come are below the best score of its method so far
        with a probability of less than 5 %, by surfaces fitted to the trials that have ended and
        by what its own rows say of its seed (decision 38).

ASHA and the median rule compare trials of one method only, since methods get equal numbers of
trials. A trial that is within the study's constraints is better than one that is not; of two that
are not, the one that is less outside (Deb 2000, doi 10.1016/S0045-7825(99)00389-8).

The score is U-shaped in updates: first too little is forgotten, then too much. With free steps,
where each row is a configuration, two things follow. A trial is compared by its best score so far,
which later rows cannot take away. And a trial that has forgotten more than retraining would, with
its score rising at two evaluations in a row, has passed its best row. It is stopped as `past its
best`, because otherwise the rungs would keep the very trials that have nothing left to find. With
sampled steps the score at the update itself counts, and there is no such rule: a decaying learning
rate may still bring the trial back. Nor is there one where calibrated rows count, since at another
strength a later state may be better; trials are then compared by their rows as trained alone.
"""

import math
import statistics
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable
from itertools import count, islice, pairwise, takewhile
from typing import TYPE_CHECKING

from ray_unlearn.spec.search_space import SearchSpace
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.schema import COLUMNS, Row, is_as_trained
from ray_unlearn.store.score import NOWHERE, OBJECTIVE, ScoreRule

if TYPE_CHECKING:
    from ray_unlearn.execution.trial_curves import MethodSurfaces

assert COLUMNS[OBJECTIVE].direction == "minimize", "worse means higher throughout this module"

FINISHED_FOR_MEDIAN = 3
"""Fewest finished trials of which the median is not one trial's luck."""


HARDLY = 0.05
"""Probability of a better row below which a trial is not worth going on with."""

EVERY_UPDATE = 0
"""Place of a finished trial's best score among those by update, which begin at 1."""

Standing = tuple[float, float]
"""How far outside the constraints, then the score; lower is better (`ScoreRule.standing`)."""


class _Peers:
    """The trials of a record that others of their method are compared with.

    The values of a finished trial no longer change (only a repair reopens one, and no study runs
    then), so they are computed once: a verdict costs the same after 10 trials and after 10,000.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self._seen = 0
        self._running: list[Trial] = []
        self._finished: defaultdict[str, list[Trial]] = defaultdict(list)
        self._values: defaultdict[tuple[str, int], list[Standing]] = defaultdict(list)
        self._valued: defaultdict[tuple[str, int], int] = defaultdict(int)

    def look(self) -> None:
        """Read what is new in the record."""
        trials = self.record.trials
        if len(trials) > self._seen:
            self._running += islice(trials.values(), self._seen, None)
            self._seen = len(trials)
        for trial in self._running:
            if trial.status is not None:
                self._finished[trial.method].append(trial)
        self._running = [trial for trial in self._running if trial.status is None]

    def running(self, method: str, but: int) -> list[Trial]:
        """Trials of a method without an outcome, except number `but`."""
        return [trial for trial in self._running if trial.method == method and trial.number != but]

    def ended(self, method: str) -> list[Trial]:
        """Trials of a method with an outcome that says something of it, by number."""
        ended = (trial for trial in self._finished[method] if trial.status != "failed")
        return sorted(ended, key=lambda trial: trial.number)

    def finished_values(
        self, method: str, at: int, value: Callable[[Trial], Standing | None]
    ) -> list[Standing]:
        """`value` of each finished trial of a method that has one, rising.

        It must always be the same function for one `at`.
        """
        key = (method, at)
        for trial in self._finished[method][self._valued[key] :]:
            known = value(trial)
            if known is not None:
                insort(self._values[key], known)
        self._valued[key] = len(self._finished[method])
        return self._values[key]


class Pruner:
    """The study's early stopping rule."""

    def __init__(self, spec: StudySpec, surfaces: "MethodSurfaces | None" = None) -> None:
        """The rule of a study.

        Args:
            spec: of the study.
            surfaces: those that its sampler fits, for the forecast; it fits its own without them.
        """
        self._spec = spec
        self._rule = spec.search.scheduler
        self._peers: _Peers | None = None
        self._surfaces = surfaces

    def verdict(self, record: Record, number: int, row: Row) -> str | None:
        """Why trial `number` should stop at `row`, or None to go on.

        `row` may be in the record already or not yet. The trial has no outcome yet. It is never
        stopped at its last evaluation (nothing is left to save), nor before `grace_updates`, nor at
        a row that it has passed already: a retry after a worker died replays such rows, and by now
        more trials may have reached that rung. Nor is it stopped at a calibrated row.
        """
        trial = record.trials[number]
        assert trial.status is None, f"trial {number} has ended: {trial.status}"
        update = row["update"]
        if (
            self._rule.type == "none"
            or not is_as_trained(row)
            or update < self._rule.grace_updates
            or update >= trial.config["steps"]
        ):
            return None
        if any(_is_after(known, update) for known in trial.rows):
            return None
        rows = sorted(
            (known for known in trial.rows if known["update"] < update and is_as_trained(known)),
            key=lambda known: known["update"],
        )
        rows.append(row)
        space = self._spec.spaces[trial.method]
        rule = ScoreRule.of(record, self._spec)
        as_trained_only = self._spec.evaluation.strength == "trained"
        if space.free_steps and as_trained_only:
            reason = _past_its_best(rows, space, rule)
            if reason:
                return reason
        if self._rule.type == "past_best":
            return None
        if self._peers is None or self._peers.record is not record:
            self._peers = _Peers(record)
        self._peers.look()
        if self._rule.type == "forecast":
            return self._forecast(trial, rows, self._peers, rule)
        return (
            self._asha(trial, rows, self._peers, rule)
            if self._rule.type == "asha"
            else _median(trial, rows, self._peers, rule)
        )

    def _forecast(
        self, trial: Trial, rows: list[Row], peers: _Peers, rule: ScoreRule
    ) -> str | None:
        if self._surfaces is None:
            from ray_unlearn.execution.trial_curves import MethodSurfaces  # scipy takes seconds

            self._surfaces = MethodSurfaces(self._spec, rule.baselines)

        def lowest(peer: Trial) -> Standing | None:
            return min(
                (_standing(row, rule) for row in rule.configuration_rows(peer)), default=None
            )

        update = rows[-1]["update"]
        others = peers.finished_values(trial.method, EVERY_UPDATE, lowest)[:1]
        running = [t for t in peers.running(trial.method, trial.number) if t.rows]
        others += [rule.standing(t.rows, t, max(row["update"] for row in t.rows)) for t in running]
        best = min([rule.standing(rows, trial, update), *others])
        chance = self._surfaces.chance_below(trial, rows, peers.ended(trial.method), best[1])
        if chance is None or chance >= HARDLY:
            return None
        return (
            f"forecast: a row better than {_in_words(best, '')} has a probability of {chance:.1%} "
            f"after update {update}"
        )

    def _asha(self, trial: Trial, rows: list[Row], peers: _Peers, rule: ScoreRule) -> str | None:
        rung = self._rung_reached(rows)
        if rung is None:
            return None

        def at_rung(peer: Trial) -> Standing | None:
            at = _first_update_from(peer.rows, rung)
            return None if at is None else rule.standing(peer.rows, peer, at)

        update = rows[-1]["update"]
        own = rule.standing(rows, trial, update)
        finished = peers.finished_values(trial.method, rung, at_rung)
        running = [
            other
            for peer in peers.running(trial.method, trial.number)
            if (other := at_rung(peer)) is not None
        ]
        reached = len(finished) + len(running) + 1
        kept = max(1, reached // self._rule.reduction_factor)
        if bisect_left(finished, own) + sum(other < own for other in running) < kept:
            return None
        return (
            f"asha: {_in_words(own)} at update {update} is not among the best {kept} of {reached}"
        )

    def _rung_reached(self, rows: list[Row]) -> int | None:
        """The highest rung of which the last of `rows` is the first evaluation, if any."""
        update = rows[-1]["update"]
        before = max((row["update"] for row in rows[:-1]), default=0)
        rungs = (self._rule.grace_updates * self._rule.reduction_factor**k for k in count())
        return max(
            (rung for rung in takewhile(lambda rung: rung <= update, rungs) if rung > before),
            default=None,
        )


def _median(trial: Trial, rows: list[Row], peers: _Peers, rule: ScoreRule) -> str | None:
    update = rows[-1]["update"]

    def mean(peer: Trial) -> Standing | None:
        known = [
            _standing(r, rule) for r in peer.rows if r["update"] <= update and is_as_trained(r)
        ]
        reached = any(row["update"] >= update for row in peer.rows)
        return _mean(known) if known and reached and peer.status != "failed" else None

    means = peers.finished_values(trial.method, update, mean)
    best = min(_standing(row, rule) for row in rows)
    if len(means) < FINISHED_FOR_MEDIAN or best <= (median := _middle(means)):
        return None
    return (
        f"median: best {_in_words(best)} by update {update} is above {_in_words(median, '')}, the "
        f"median of {len(means)} trials"
    )


def _mean(standings: list[Standing]) -> Standing:
    """The mean over the feasible rows; of a trial that has none yet over all of them."""
    if NOWHERE in standings:
        return NOWHERE
    feasible = [one for one in standings if one[0] == 0.0] or standings
    violations, scores = zip(*feasible, strict=True)
    return statistics.fmean(violations), statistics.fmean(scores)


def _middle(rising: list[Standing]) -> Standing:
    """The median of standings; of a feasible trial and one that is not, the latter."""
    low, high = rising[(len(rising) - 1) // 2], rising[len(rising) // 2]
    if (low[0] == 0.0) != (high[0] == 0.0):
        return high
    return statistics.median((low[0], high[0])), statistics.median((low[1], high[1]))


def _past_its_best(rows: list[Row], space: SearchSpace, rule: ScoreRule) -> str | None:
    """The reason why a trial has passed its best row, or None.

    It has if the last two rows are over-unlearned and each is worse than the row before it: further
    outside the constraints, or of a higher score. With the rule `stop_rule` it has if a row has
    reached the target, as that row scores the trial. Over-unlearned means a forget nll at or above
    log ppl_0(A), the vanilla model's on the approximate set. Only rows that are configurations
    count, and one of them must be feasible, so that a trial stopped here always has a score.
    """
    rows = [row for row in rows if row["update"] >= space.fewest_steps]
    standings = [_standing(row, rule) for row in rows]
    target = rule.target_nll
    if rule.name == "stop_rule":
        crossed = (
            row["update"]
            for row, (violation, _) in zip(rows, standings, strict=True)
            if row["forget_nll"] >= target and violation == 0.0
        )
        reached = next(crossed, None)
        return None if reached is None else f"past its best: the target was reached at {reached}"
    if math.isnan(target) or len(rows) < 3:
        return None
    if not all(
        late > early and row["forget_nll"] >= target
        for row, (early, late) in zip(rows[-2:], pairwise(standings[-3:]), strict=True)
    ):
        return None
    best, row = min(zip(standings, rows, strict=True), key=lambda pair: pair[0])
    if best[0] > 0.0:
        return None
    return (
        f"past its best: {_in_words(best)} at update {row['update']}, "
        f"{_in_words(standings[-1], '')} and rising now"
    )


def _is_after(row: Row, update: int) -> bool:
    """Whether a row came after the verdict on the row as trained of `update`."""
    return bool(row["update"] > update or (row["update"] == update and not is_as_trained(row)))


def _first_update_from(rows: list[Row], rung: int) -> int | None:
    return min((row["update"] for row in rows if row["update"] >= rung), default=None)


def _standing(row: Row, rule: ScoreRule) -> Standing:
    """Violation and score of one row; infinities, the worst, if the score is not finite."""
    score = float(row[OBJECTIVE])
    return (rule.violation(row), score) if math.isfinite(score) else NOWHERE


def _in_words(standing: Standing, score: str = "score ") -> str:
    """`score 0.12`, or by how much the constraints are violated."""
    violation, value = standing
    return f"{score}{value:.4g}" if violation in (0.0, math.inf) else f"violation {violation:.3g}"

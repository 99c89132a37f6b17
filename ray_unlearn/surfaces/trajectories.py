"""What unlearning did to each set of text, at each evaluation of one group's trials.

The score is an absolute value and a minimum of these quantities, which are smooth.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.surfaces.axes import Axis

Array = NDArray[np.float64]

COMPONENTS = ("forget_change", "retain_change", "general_change")
"""Columns of a trial table's rows: NLL less the vanilla model's, nats/token, the last two on the
reporting half."""
RUINED = 3.0
"""Nats/token; a model changed by more is ruined, and what training it further does not matter."""
MOST_CHANGE = 30.0
"""Nats/token; more is not told apart."""


@dataclass(frozen=True)
class ScoreOfChanges:
    """How a score is made of the changes (`store.row_score`), nats/token.

    weights: of forget gap, retain and general.
    chosen_by, valued_by: change of the forget NLL that meets the target of the selection half,
        which chooses the update, and of the reporting half, which values it.
    """

    weights: tuple[float, float, float]
    chosen_by: float
    valued_by: float

    def of(self, changes: Array, target: float) -> Array:
        """Scores [...] of changes [3, ...] against a target."""
        forget, retain, general = changes
        return self.gap(forget, target) + self.losses(retain, general)

    def gap(self, forget: Array, target: float) -> Array:
        """The part of the score [...] that changes [...] of the forget NLL make."""
        return np.asarray(self.weights[0] * np.abs(forget - target))

    def losses(self, retain: Array, general: Array) -> Array:
        """The part of the score [...] that changes [...] of the other two make."""
        _, kept, known = self.weights
        return np.asarray(kept / 2 * np.maximum(retain, 0) + known / 2 * np.maximum(general, 0))

    def deployed(self, changes: Array, axis: int = -1) -> Array:
        """Scores [...] of changes [3, ..., t] at the update that the selection half chooses.

        `axis` is that of the updates in the scores, without the leading 3.
        """
        forget, retain, general = changes
        return self.deployed_of(self.gaps(forget), self.losses(retain, general), axis)

    def gaps(self, forget: Array) -> tuple[Array, Array]:
        """`gap` [...] against the target that chooses the update, and the one that values it."""
        return self.gap(forget, self.chosen_by), self.gap(forget, self.valued_by)

    @staticmethod
    def deployed_of(gaps: tuple[Array, Array], losses: Array, axis: int) -> Array:
        """`deployed` from `gaps` and `losses`, where some of them serve several times."""
        chosen, valued = gaps
        choice = np.expand_dims((chosen + losses).argmin(axis), axis)
        found = np.take_along_axis(valued, choice, axis) + np.take_along_axis(losses, choice, axis)
        return np.asarray(found.squeeze(axis))


@dataclass(frozen=True)
class Trajectories:
    """The evaluations of the trials of one method in one group, as trained.

    trial: index [r] of each evaluation's trial among the group's points.
    effort: log10 [r] of the sum of the learning rates up to it.
    changes: [r, 3] as `COMPONENTS`; not finite where the model is ruined.
    updates: [t] at which a trial may be deployed; empty where `steps` was searched.
    rate: learning rate where it was not searched.
    per_step: sum of the learning rates over (learning rate x updates); 1 on a constant one.
    score: how the score is made of the changes.
    """

    trial: NDArray[np.int_]
    effort: Array
    changes: Array
    updates: Array
    rate: float
    per_step: float
    score: ScoreOfChanges

    def of(self, trials: NDArray[np.int_]) -> "Trajectories":
        """Those of some trials [m], numbered in their order."""
        place = np.full(int(max(self.trial.max(initial=-1), trials.max(initial=-1))) + 1, -1)
        place[trials] = np.arange(len(trials))
        number = place[self.trial]
        kept = number >= 0
        return Trajectories(
            number[kept],
            self.effort[kept],
            self.changes[kept],
            self.updates,
            self.rate,
            self.per_step,
            self.score,
        )

    def efforts(self, points: Array, axes: tuple[Axis, ...]) -> Array:
        """log10 [m, t] of the sum of learning rates at points [m, d] after each update."""
        at = {axis.name: j for j, axis in enumerate(axes)}
        rate: Array = np.full(len(points), self.rate)
        if "learning_rate" in at:
            rate = axes[at["learning_rate"]].from_unit(points[:, at["learning_rate"]])
        if "steps" in at:
            updates = axes[at["steps"]].from_unit(points[:, at["steps"]])[:, None]
        else:
            updates = np.broadcast_to(self.updates, (len(points), len(self.updates)))
        return np.asarray(np.log10(rate[:, None] * updates * self.per_step))

    def range_of_effort(self, axes: tuple[Axis, ...]) -> tuple[float, float]:
        """Least and greatest log10 of the sum of learning rates in the space."""
        ends = np.array([[0.0] * len(axes), [1.0] * len(axes)])
        found = self.efforts(ends, axes)
        return float(found.min()), float(found.max())


def thinned_rows(trial: NDArray[np.int_], ruined: NDArray[np.bool_], most: int) -> NDArray[np.int_]:
    """Indices of at most `most` evaluations that stand for all, given in order of effort per trial.

    Of the evaluations of a ruined model the first says all there is to say. The others of a trial
    lie close on one smooth curve: an even choice of them does, its last one always.
    """
    order = np.lexsort((np.arange(len(trial)), trial))
    kept: list[NDArray[np.int_]] = []
    runs = np.split(order, np.flatnonzero(np.diff(trial[order])) + 1) if len(order) else []
    whole = []
    for rows in runs:
        bad = np.flatnonzero(ruined[rows])
        whole.append(rows[: bad[0] + 1] if len(bad) else rows)
    each = max(2, most // max(1, len(whole)))
    for rows in whole:
        count = min(len(rows), each)
        kept.append(rows[np.unique(np.round(np.linspace(0, len(rows) - 1, count)).astype(int))])
    return np.sort(np.concatenate(kept)) if kept else np.empty(0, dtype=int)

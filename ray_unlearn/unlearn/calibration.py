"""Which trained states of a trial are also evaluated at the strength that meets the target.

A trial streams by, and its states are not stored. So the choice is made at each evaluated update,
from what is known then:

    the last one                        always
    the first that reaches the target   where two states may be calibrated; its strength is below 1
    the first within reach              where three may: linearly, strength 2 would do

The last two are the evaluated updates on either side of the target where the grid is coarse, and
near it where it is fine. How many may be follows from what they cost (`most_calibrated`).
"""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.schema import AS_TRAINED, Row, finite
from ray_unlearn.store.target import ForgetTarget
from ray_unlearn.unlearn.data import EVALUATED
from ray_unlearn.unlearn.evaluate import evaluate, forget_nll
from ray_unlearn.unlearn.meter import Meter
from ray_unlearn.unlearn.methods import terms
from ray_unlearn.unlearn.screening import Screening
from ray_unlearn.unlearn.strength import put_back, trained_weights
from ray_unlearn.unlearn.target_strength import MOST_STRENGTH, Calibrated, strength_for
from ray_unlearn.unlearn.workspace import Workspace

COST_SHARE = 0.15
"""Of a trial's time that calibration may take, if one state at least is calibrated."""
MOST_CALIBRATED = 3
"""States of one trial."""
USUAL_PASSES = 3
"""Over the forget set, before the target is met."""
OUT_OF_REACH = 4


class Calibration:
    """What is known of one trial's rows, and what is to be calibrated.

    Args:
        target: of the study.
        first: the first update whose row could be deployed; earlier states are not calibrated.
        last: the trial's last update.
        most: how many states may be calibrated.
        forget_nlls: of the rows as trained that are recorded already, by update, nats/token.
        known: updates whose calibrated row is recorded already.
    """

    def __init__(
        self,
        target: ForgetTarget,
        first: int,
        last: int,
        most: int = MOST_CALIBRATED,
        forget_nlls: Mapping[int, float] | None = None,
        known: Iterable[int] = (),
    ) -> None:
        self.target = target
        self._first = first
        self._last = last
        self._most = most
        self._forget_nlls = dict(forget_nlls or {})
        self._known = set(known)

    def take(self, row: Row) -> None:
        """A row as trained."""
        self._forget_nlls[row["update"]] = row["forget_nll"]

    def trained_nll(self, update: int) -> float:
        """Forget NLL of the row as trained, nats/token."""
        return self._forget_nlls[update]

    def wants(self, update: int) -> bool:
        """Whether the state after this update is still to be calibrated.

        Its row as trained is known.
        """
        if update in self._known or update < self._first:
            return False
        if update == self._last:
            return True
        before = [
            self._rank(nll)
            for earlier, nll in self._forget_nlls.items()
            if self._first <= earlier < update
        ]
        rank = self._rank(self._forget_nlls[update])
        return rank <= self._most and rank < min(before, default=OUT_OF_REACH)

    def done(self, update: int) -> None:
        """The calibrated row of this update is recorded."""
        self._known.add(update)

    @property
    def known(self) -> tuple[int, ...]:
        """Updates whose calibrated row is recorded."""
        return tuple(sorted(self._known))

    def _rank(self, nll: float) -> int:
        """How many states must be allowed for the first one like this to be among them."""
        vanilla, wanted = self.target.vanilla_nll, self.target.nll
        if nll >= wanted:
            return 2
        within_reach = vanilla + MOST_STRENGTH * (nll - vanilla) >= wanted
        return 3 if within_reach else OUT_OF_REACH


def calibration_of(
    workspace: Workspace,
    config: TrialConfig,
    first: int,
    target: ForgetTarget,
    known: Iterable[tuple[int, float, float]] = (),
) -> Calibration:
    """The calibration of one trial.

    Args:
        workspace: where it runs.
        config: the trial.
        first: the first update whose row could be deployed (`SearchSpace.first_candidate`).
        target: of the study.
        known: update, strength and forget NLL of the rows that are recorded already.
    """
    known = tuple(known)
    return Calibration(
        target,
        first,
        config.steps,
        most_calibrated(workspace, config),
        {update: nll for update, strength, nll in known if strength == AS_TRAINED},
        (update for update, strength, _ in known if strength != AS_TRAINED),
    )


def most_calibrated(workspace: Workspace, config: TrialConfig) -> int:
    """How many states of a trial may be calibrated, 1 to 3.

    As many as take `COST_SHARE` of its time, by the tokens that pass through the model; a backward
    pass counts as two forward ones. This is a function of data and configuration alone, so that it
    is the same on every machine.
    """

    def tokens(split: str) -> int:
        every = np.arange(len(workspace.data.splits[split]))
        return int(workspace.document_lengths(split, every).sum())

    forget, row = tokens("forget"), sum(tokens(split) for split in EVALUATED.values())
    update = 3 * sum(
        term.batch_size * tokens(term.split) / len(workspace.data.splits[term.split])
        for term in terms(config)
    )
    trial = config.steps * update + len(config.evaluate_at) * row
    affordable = COST_SHARE * trial / (row + USUAL_PASSES * forget)
    return int(min(max(affordable, 1), MOST_CALIBRATED))


def calibrated_row(
    workspace: Workspace,
    meter: Meter,
    calibration: Calibration,
    *,
    last: bool,
    screening: Screening | None = None,
) -> Iterator[Row]:
    """Yield the row of the state just made at the strength that meets the target.

    There is none if no strength meets it, or if it is 1: then the row as trained stands for itself.
    While the row is out the policy has the mixed weights, so that they can be saved; afterwards it
    has the trained ones again, bit for bit. A generator that is dropped leaves them mixed: the next
    trial begins with a reset. A collective over the lane's ranks.
    """
    policy = workspace.policy
    trained = trained_weights(policy.parameters)
    meter.restart_clock()

    def nll_at(strength: float) -> float:
        policy.mix(trained, strength)
        return forget_nll(workspace)

    found = strength_for(nll_at, calibration.trained_nll(meter.update), calibration.target)
    if isinstance(found, Calibrated) and found.strength != AS_TRAINED:
        metrics = evaluate(workspace, last=last, screening=screening)
        row = meter.row(metrics, found.strength)
        if finite(row):
            yield row
            calibration.done(meter.update)
    put_back(policy.parameters, trained)

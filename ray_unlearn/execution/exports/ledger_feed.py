"""Observers fed from a study's storage: from any machine, while it runs and long after.

A run feeds its own observers as rows arrive (`recorder`). This feeds the same observers by looking
at the ledger, so what they write to may be slow, or down: no lane and no driver waits for it.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from ray_unlearn.execution.recorder import Observer
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.score import ScoreRule
from ray_unlearn.store.status import Follower, Status

_log = logging.getLogger(__name__)


class Tracker(Observer, Protocol):
    """An observer that writes a study's runs to a service or a file.

    `on_trial` brings a trial's run up to date with all of its rows, whatever the run has already.
    """

    def close(self) -> None:
        """Finish what is open; trials without an outcome may go on later."""


class LedgerFeed:
    """Feeder of trackers with what a study's ledger has.

    Args:
        follower: reads the study.
        make: a tracker for the study's rule, by name; called once the ledger has been read, and
            again at the next look if it fails.
        say: called with what goes wrong, once each.
    """

    def __init__(
        self,
        follower: Follower,
        make: Sequence[tuple[str, Callable[[ScoreRule], Tracker]]],
        say: Callable[[str], None],
    ) -> None:
        self._follower = follower
        self._fed = [_FedTracker(name, one, say) for name, one in make]

    @property
    def problems(self) -> list[str]:
        """What the last look could not bring to its tracker, one sentence each."""
        return [one.problem for one in self._fed if one.problem]

    def poll(self) -> Status:
        """Look at the study once, and tell the trackers what is new.

        Raises:
            UserError: at the first look, no study there.
        """
        found = self._follower.poll()
        for one in self._fed:
            one.tell(self._follower.record, self._follower.rule)
        return found

    def close(self) -> None:
        """Close the trackers."""
        for one in self._fed:
            one.close()


class _FedTracker:
    """A tracker, and what it was told."""

    def __init__(
        self, name: str, make: Callable[[ScoreRule], Tracker], say: Callable[[str], None]
    ) -> None:
        self._name = name
        self._make = make
        self._say = say
        self._said: set[str] = set()
        self._tracker: Tracker | None = None
        self._told: dict[int, tuple[int, str | None]] = {}
        """Rows and outcome by number of the trial."""
        self.problem = ""

    def tell(self, record: Record, rule: ScoreRule) -> None:
        """Bring the tracker up to date; where it fails, the next call tries again."""
        trial: Trial | None = None
        try:
            if self._tracker is None:
                self._tracker = self._make(rule)
            for _, trial in sorted(record.trials.items()):
                self._tell(self._tracker, trial)
            self.problem = ""
        except Exception as error:  # a service that is down must not cost the others their rows
            if trial is not None:
                self._told.pop(trial.number, None)
            self._fail(error)

    def close(self) -> None:
        """Close the tracker, if it was made."""
        try:
            if self._tracker is not None:
                self._tracker.close()
        except Exception as error:  # as above
            self._fail(error)

    def _tell(self, tracker: Tracker, trial: Trial) -> None:
        now = len(trial.rows), trial.status
        before = self._told.get(trial.number)
        if before == now:
            return
        if before is None or before[1] is not None or before[0] > now[0]:
            tracker.on_trial(trial)  # new, opened again, or repaired
        else:
            for row in trial.rows[before[0] :]:
                tracker.on_row(trial, row)
        if trial.status is not None:
            tracker.on_outcome(trial)
        self._told[trial.number] = now

    def _fail(self, error: Exception) -> None:
        _log.debug("%s", self._name, exc_info=True)
        said = " ".join(str(error).split()) or repr(error)
        self.problem = f"{self._name}: {said[:300]}"
        if self.problem not in self._said and len(self._said) < 10:
            self._said.add(self.problem)
            self._say(f"{self.problem}; nothing is lost, and the study does not wait for it")

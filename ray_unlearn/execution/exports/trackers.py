"""The trackers by name, and sending a study to them."""

import os
import select
import sys
from collections.abc import Callable, Sequence
from functools import partial

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.execution.exports.ledger_feed import LedgerFeed, Tracker
from ray_unlearn.execution.exports.mlflow_log import MlflowTracker
from ray_unlearn.execution.exports.wandb_log import WandbTracker
from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.store.score import ScoreRule
from ray_unlearn.store.status import followed
from ray_unlearn.store.storage import storage_at
from ray_unlearn.store.working_copy import header_digest_of
from ray_unlearn.unlearn.tracker_extras import missing_trackers

TRACKERS: dict[str, Callable[[ScoreRule, str, str], Tracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}
Say = Callable[[str], None]


def send_to_trackers(
    location: str,
    names: Sequence[str],
    say: Say,
    every_s: float,
    *,
    once: bool = False,
    beside: bool = False,
    environment: Environment = REAL,
) -> None:
    """Send a study to trackers, and what is new as long as its run lasts.

    Args:
        location: a folder or an address.
        names: of `TRACKERS`.
        say: called with each line of progress.
        every_s: seconds between two looks.
        once: look once, whether or not the run has ended.
        beside: the run's driver has started this process: it ends when stdin does.
        environment: its clock and pauses.

    Raises:
        UserError: no study there, or a tracker is not installed.
        StorageError: the study cannot be read, or one that has ended could not be sent.
    """
    if missing := missing_trackers(names, "--to"):
        raise UserError(missing)
    study_id = header_digest_of(storage_at(location))[:32]
    with followed(location) as follower:
        made = [(name, partial(_made, name, study_id, location)) for name in names]
        feed = LedgerFeed(follower, made, say)
        try:
            last = once
            while True:
                found = feed.poll()
                if last or (found.over and not beside):
                    break
                if beside:
                    last = _driver_gone(every_s)
                else:
                    environment.sleep(every_s)
        finally:
            feed.close()
    if feed.problems:
        raise StorageError(f"not everything was sent: {'; '.join(feed.problems)}")
    if not beside:
        say(f"sent: {found.finished} trials, {found.rows} rows to {', '.join(names)}")


def _made(name: str, study_id: str, location: str, rule: ScoreRule) -> Tracker:
    return TRACKERS[name](rule, study_id, location)


def _driver_gone(every_s: float) -> bool:
    """Wait for the next look; True once the driver has closed our stdin, or is dead."""
    ready, _, _ = select.select([sys.stdin], [], [], every_s)
    return bool(ready) and os.read(sys.stdin.fileno(), 1) == b""

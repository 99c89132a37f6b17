"""What managers of jobs send twice is one wish (for Ctrl-C see test_study_records)."""

import signal

import pytest

from ray_unlearn.execution import interrupt
from ray_unlearn.execution.interrupt import Interrupt


def test_sigterm_that_is_sent_twice_is_one_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    with Interrupt(lambda _: None) as wish:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)  # Slurm at a time limit; KubeRay's stop, then its pod's
        signal.raise_signal(signal.SIGTERM)
        assert wish.requested
        monkeypatch.setattr(interrupt, "ONE_REQUEST_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)

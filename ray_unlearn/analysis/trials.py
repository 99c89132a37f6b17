"""One line per trial: the unit of every claim. Made from `Results`, whatever they were read from."""

from dataclasses import dataclass

import pandas as pd

from ray_unlearn.analysis.axes import Axis
from ray_unlearn.spec.guidelines import ScoreInfo


@dataclass(frozen=True)
class TrialTable:
    """All trials of a report.

    trials: one line per trial, columns
        trial            unique number over all studies (0, 1, ...)
        study, domain, model, group    `group` is what claims about transfer hold one of out: domain, or model and domain
        method           "" where the table has none
        seed             float, NaN where unknown
        status           outcome (`results.schema.OUTCOMES`; "complete" for foreign tables that do not say)
        infeasible       bool: diverged, out of memory or without a finite score at its checkpoint
        drawn            "space" (quasi-random, random, grid), "adaptive" or "unknown"
        update           of the deployable checkpoint (NaN where steps are unknown)
        crossed          True/False: forget ppl reached the target at the checkpoint; None where it cannot be told
        score            at the checkpoint, reporting half where there are halves; lower is better; NaN if infeasible
        score_selection  the same on the half that may be used for choosing (equal to `score` without halves)
        and one column per hyperparameter.
    rows: the evaluation rows with `trial`, `update`, `score`, `score_selection`, `forget_nll` and, where known,
        `forget_gap`, `utility_loss`, `learning_rate_sum`, `target_nll`; by trial and update.
    axes: by method, the hyperparameters that vary, in a fixed order.
    score: name, direction (scores here are turned so that lower is better), tolerance.
    """

    trials: pd.DataFrame
    rows: pd.DataFrame
    axes: dict[str, tuple[Axis, ...]]
    score: ScoreInfo

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods with trials, in the order of `axes`."""
        return tuple(self.axes)

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups in the order of their first trial."""
        return tuple(dict.fromkeys(self.trials["group"]))

    def of(self, method: str, group: str | None = None) -> pd.DataFrame:
        """Trials of a method, in one group or in all."""
        chosen = self.trials["method"] == method
        if group is not None:
            chosen &= self.trials["group"] == group
        return self.trials[chosen]

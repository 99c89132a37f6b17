"""SearchSpec: how many trials a study has, who chooses them, and which are stopped early."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from ray_unlearn.spec.bounds import (
    MOST_TRIALS,
    MOST_UPDATES,
    Seed,
)
from ray_unlearn.spec.search_space import Scalar
from ray_unlearn.spec.strict import Strict

Points = dict[str, tuple[dict[str, Scalar], ...]]
"""By method, listed configurations: values of the sampled parameters whose conditions hold."""


class SchedulerSpec(Strict):
    """Early stopping of a method's trials.

    The types are none, `past_best`, ASHA (Li et al. 2020), the median rule (Golovin et al. 2017)
    and `forecast`, each within one method. `past_best` stops a trial only where, with free steps,
    it has passed its best row: no trial is compared with another, so the trials stay a random
    sample of the space. The other three include it. `forecast` stops a trial whose evaluations to
    come will hardly be better than the best one so far, by surfaces of what the score is made of.
    """

    type: Literal["none", "past_best", "asha", "median", "forecast"] = "none"
    reduction_factor: int = Field(
        3, ge=2, le=MOST_TRIALS, description="ASHA keeps the best 1/reduction_factor at each rung"
    )
    grace_updates: int = Field(
        1, ge=1, le=MOST_UPDATES, description="no trial is stopped before this update"
    )


class SearchSpec(Strict):
    """How many trials and who chooses them."""

    trials_per_method: int | None = Field(
        None, ge=1, le=MOST_TRIALS, description="required unless the sampler is grid or listed"
    )
    sampler: Literal["tpe", "qmc", "random", "grid", "nsga2", "gp", "surface", "listed"] = Field(
        "tpe",
        description="who chooses configurations (docs/search.md); `surface` by what the score is "
        "made of, at every evaluation",
    )
    quasi_random_share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="fraction of each method's trials drawn quasi-randomly (QMC), the first ones",
    )
    scheduler: SchedulerSpec = SchedulerSpec()
    seed: Seed = Field(0, description="of the samplers")
    trial_seeds: tuple[Seed, ...] = Field(
        (0,),
        min_length=1,
        max_length=MOST_TRIALS,
        description="data order and labels; trials take them in turn",
    )
    full_space_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of the trials of a narrowed method, evenly spread, drawn from "
        "`full_spaces`",
    )
    warm_start: Points = Field(
        default_factory=dict, description="by method, the points of its first trials"
    )
    points: Points = Field(
        default_factory=dict,
        description="sampler `listed`: by method, all its points; each runs once per trial seed",
    )

    @model_validator(mode="after")
    def _number_of_trials(self) -> Self:
        whole = self.sampler in ("grid", "listed")
        if not whole and self.trials_per_method is None:
            raise ValueError("`trials_per_method` is required unless `sampler: grid` or `listed`")
        if whole and self.trials_per_method is not None:
            raise ValueError(
                f"`sampler: {self.sampler}` runs all its points; remove `trials_per_method`"
            )
        if whole and (self.full_space_share or self.warm_start):
            raise ValueError(
                f"`sampler: {self.sampler}` runs all its points; remove `full_space_share` and "
                "`warm_start`"
            )
        if (self.sampler == "listed") != bool(self.points):
            raise ValueError("`points` and `sampler: listed` need each other; give both or neither")
        if self.sampler == "listed" and len(set(self.trial_seeds)) < len(self.trial_seeds):
            raise ValueError(
                "trial_seeds: a seed is named twice; keep one, or `sampler: listed` runs a trial "
                "twice"
            )
        return self

    def full_space_trials(self, method: str, trials: int) -> int:
        """The number of a narrowed method's first `trials` trials drawn from its full space.

        After the warm start it is every 1/`full_space_share`-th trial: a function of the index
        alone, so that the places stay the same when a study is resumed or extended.
        """
        after = max(0, trials - len(self.warm_start.get(method, ())))
        return math.floor(after * self.full_space_share + 1e-9)

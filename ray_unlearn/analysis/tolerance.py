"""The tolerance tau: how far from the best score still counts as good.

A difference that retraining alone would make does not count.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.spec.errors import UserError
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import HALVES, Row
from ray_unlearn.store.target import half_targets

DEFAULT = 0.1
"""nats/token: a tenth of a nat is 10 % in perplexity, the tolerance of the verdict for
forgetting."""
REPORTING = HALVES[1]
LEAST_RETRAINED = 3
LEAST_REPEATS = 5
"""Degrees of freedom from which a standard deviation between seeds is taken for one (its own error
is then 32 %)."""


def tolerance_of(
    studies: Sequence[StudyResults],
    trials: pd.DataFrame,
    hyperparameters: tuple[str, ...],
    given: float | None,
) -> tuple[float, str]:
    """tau in units of the score, and where it comes from in words.

    In this order: the number given; one SD across retrained models, else a default, and at least
    the target's standard error (studies of our own); one SD between seeds of equal
    configurations, then a tenth of the interquartile range of scores (foreign tables alone).

    Args:
        studies: our own studies.
        trials: `method`, `group`, `score`, `seed` and hyperparameters.
        hyperparameters: names of columns.
        given: the user's number.

    Raises:
        UserError: `given` is not a number above 0.
    """
    if given is not None:
        if not (math.isfinite(given) and given > 0):
            raise UserError(
                f"tolerance must be a number above 0, in units of the score; got {given:g}"
            )
        return given, "given by the user"
    if studies and all(study.is_weighted for study in studies):
        return _at_least_the_target(studies, *_of_studies(studies))
    if studies and (known := _retrained(studies)) is not None:
        return known
    return _from_scores(trials, hyperparameters)


def _of_studies(studies: Sequence[StudyResults]) -> tuple[float, str]:
    return _retrained(studies) or (
        DEFAULT,
        f"the program's default, {DEFAULT} nats/token: no study measured {LEAST_RETRAINED} "
        "retrained models of different seeds",
    )


def _retrained(studies: Sequence[StudyResults]) -> tuple[float, str] | None:
    found = [(study, sd) for study in studies if (sd := retrained_sd(study)) is not None]
    tau = _root_mean_square([sd for _, sd in found])
    if tau > 0:
        counts = sorted({len(retrained_scores(study)) for study, _ in found})
        models = " or ".join(map(str, counts))
        return tau, (
            f"one SD of the score across {models} models retrained from different "
            f"seeds{_pooled(len(found))}"
        )
    return None


def _at_least_the_target(
    studies: Sequence[StudyResults], tau: float, source: str
) -> tuple[float, str]:
    """The tolerance, at least as large as the target's standard error.

    A target that is off by its standard error reverses the order of two configurations on either
    side of it whose scores differ by less.
    """
    errors = [se for study in studies if not math.isnan(se := target_se(study))]
    se = _root_mean_square(errors)
    if se <= tau:
        return tau, source
    return se, (
        f"the standard error of the target over the unseen documents{_pooled(len(errors))}, which "
        f"is more than {source} ({tau:.2g})"
    )


def target_se(study: StudyResults) -> float:
    """Standard error of the target (reporting half), nats/token; NaN where it is not known."""
    vanilla = study.baseline("vanilla")
    targets = None if vanilla is None else half_targets(vanilla)
    return math.nan if targets is None else targets[1].se


def _root_mean_square(values: Sequence[float]) -> float:
    return math.sqrt(sum(value**2 for value in values) / len(values)) if values else 0.0


def _pooled(studies: int) -> str:
    return "" if studies == 1 else f", root mean square over {studies} studies"


def retrained_scores(study: StudyResults) -> list[float]:
    """Scores of the exactly retrained models, as if they were results of trials.

    On the reporting half, with the weights of the study's scores, nats/token.
    """
    vanilla = study.baseline("vanilla")
    if vanilla is None:
        return []
    names = [str(name) for name in study.baselines.index if str(name).startswith("exact_retrain")]
    scores = [_score(study, study.baselines.loc[[name]].iloc[0], vanilla) for name in names]
    return [score for score in scores if math.isfinite(score)]


def vanilla_score(study: StudyResults) -> float:
    """Score (reporting half) of doing nothing.

    NaN where the baselines are not known, or the vanilla model is outside the constraints.
    """
    vanilla = study.baseline("vanilla")
    if vanilla is None or study.rule.broken(_as_a_row(study, vanilla, vanilla)):
        return math.nan
    return _score(study, vanilla, vanilla)


def vanilla_gap(study: StudyResults) -> float:
    """Forget gap (reporting half) of doing nothing; NaN where the baselines are not known."""
    vanilla = study.baseline("vanilla")
    if vanilla is None:
        return math.nan
    return float(_as_a_row(study, vanilla, vanilla)[f"forget_gap_{REPORTING}"])


def retrained_sd(study: StudyResults) -> float | None:
    """SD (ddof 1) of `retrained_scores`; None below three models."""
    scores = retrained_scores(study)
    return float(np.std(scores, ddof=1)) if len(scores) >= LEAST_RETRAINED else None


def _score(study: StudyResults, model: pd.Series, vanilla: pd.Series) -> float:
    return float(_as_a_row(study, model, vanilla)[f"score_{REPORTING}"])


def _as_a_row(study: StudyResults, model: pd.Series, vanilla: pd.Series) -> Row:
    """A baseline's metrics with the scores that a trial's row of these metrics would have."""
    row, reference = ({str(k): float(v) for k, v in m.items()} for m in (model, vanilla))
    return scored(row, Baselines(reference), study.weights, study.rule)


def _from_scores(trials: pd.DataFrame, hyperparameters: tuple[str, ...]) -> tuple[float, str]:
    finite = trials[~trials["infeasible"]]
    places = ["group", "method"]
    alike = finite.groupby([*places, *hyperparameters], dropna=False)["score"]
    squares = float(((finite["score"] - alike.transform("mean")) ** 2).sum())
    freedom = len(finite) - alike.ngroups
    if hyperparameters and freedom >= LEAST_REPEATS and 0 < squares < math.inf:
        return math.sqrt(squares / freedom), (
            f"one SD of the score between trials of equal hyperparameters ({freedom} degrees of "
            "freedom)"
        )
    scores = finite.groupby(places)["score"]
    spread = float((scores.quantile(0.75) - scores.quantile(0.25)).median()) if len(finite) else 0.0
    if 0 < spread < math.inf:  # squares and differences of scores near 1e308 are not finite
        return spread / 10, (
            "the program's default, a tenth of the scores' interquartile range (median over "
            "groups and methods): no "
            "tolerance was given and no configuration was run often enough to see the noise"
        )
    size = float(finite["score"].abs().max()) if len(finite) else 0.0
    return max(
        1e-3 * size, 1e-9
    ), "nominal, a thousandth of the greatest score: the scores hardly vary"

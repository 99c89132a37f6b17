"""The variance of a score, split into domain, trained model, configuration, unlearning seed, rest.

A random-effects model, every factor a sample of its kind:

    score = mean + domain + model in domain + configuration + configuration x group + seed

Estimates are Henderson's method I (Biometrics 9, 1953; Searle, Casella and McCulloch, Variance
Components, 1992, ch. 5): sums of squares of level means are set equal to their expectations. They
are unbiased for unbalanced data and cost one pass over it. Intervals are test-inversion bootstrap
intervals (Carpenter, JRSS B 61, 1999) under normal effects: a standard deviation is in the interval
if the estimate seen lies in the middle 90 % of what it gives, the others at their estimates. With
three domains they are wide, as they must be.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from ray_unlearn.analysis.statistics.configurations import configuration_labels
from ray_unlearn.analysis.statistics.interaction import winsorised
from ray_unlearn.analysis.trained_models import trained_models

Codes = NDArray[np.intp]
Values = NDArray[np.float64]

DRAWS = 500
AT_ONCE = 100
"""Simulations in memory at a time."""
TAIL = 0.05
STEPS = 40
"""Halvings when an end of an interval is sought."""
FEWEST_TRIALS = 8
REST = "left"


@dataclass(frozen=True)
class VarianceComponent:
    """One source: its standard deviation in units of the score, and its fraction of the variance.

    `low` and `high` are the 90 % interval of the standard deviation.
    """

    sd: float
    low: float
    high: float
    share: float


@dataclass(frozen=True)
class VarianceSplit:
    """Components of a method's scores; None where the trials cannot tell one from the others."""

    n_trials: int
    domain: VarianceComponent | None
    model: VarianceComponent | None
    """Trained models of one domain."""
    seed: VarianceComponent | None
    """Unlearning seeds of one configuration in one group."""
    configuration: VarianceComponent | None
    """What a configuration does in all groups alike."""
    left: VarianceComponent | None
    """What it does otherwise in one group than in another, and the seed where that is not known."""


def variance_split(
    trials: pd.DataFrame,
    hyperparameters: tuple[str, ...],
    nothing: Mapping[str, float],
    seed: int = 0,
) -> VarianceSplit | None:
    """The split of one method's scores.

    Scores worse than doing nothing, and trials without one, count as doing nothing; where that is
    not known, scores are cut above (`winsorised`), and a group that is mostly ruined is left out.

    Args:
        trials: `TrialTable.trials` of a method, not chosen by an adaptive sampler.
        hyperparameters: columns that make a configuration.
        nothing: by group, the score of doing nothing.
        seed: of the simulations for the intervals.

    Returns:
        None with fewer than `FEWEST_TRIALS` trials, or where nothing can be told apart.
    """
    trials = _capped(trials, nothing)
    setting = configuration_labels(trials, hyperparameters)
    run = trials["group"] + "\0" + setting
    # A run again from the same seed is the same run; without a seed it is taken for another one.
    again = run + "\0" + trials["seed"].astype(str)
    keep = ~again.duplicated() | trials["seed"].isna()
    trials, setting, run = trials[keep], setting[keep], run[keep]
    n, settings, runs = len(trials), setting.nunique(), run.nunique()
    if n < FEWEST_TRIALS:
        return None
    factors: dict[str, Codes] = {}
    if trials["domain"].nunique() > 1:
        factors["domain"] = _codes(trials["domain"])
    if trained_models(trials) > 1:
        factors["model"] = _codes(trials["group"])
    repeated = runs < n
    if 1 < settings < n:
        factors["configuration"] = _codes(setting)
        if repeated and settings < runs:
            factors[REST] = _codes(run)
    if not factors:
        return None
    found = components(trials["score"].to_numpy(dtype=float), factors, seed)
    if repeated and "configuration" in factors:
        found["seed"] = found.pop("")
    else:
        found[REST] = found.pop("")
    return VarianceSplit(n, *map(found.get, ("domain", "model", "seed", "configuration", REST)))


def components(
    scores: Values, factors: Mapping[str, Codes], seed: int = 0, draws: int = DRAWS
) -> dict[str, VarianceComponent]:
    """Variance components by factor, and of what no factor explains under "".

    Args:
        scores: [n].
        factors: the level of each score, [n] numbers from 0 on; at least one factor has levels
            with several scores, and no factor is a function of another one and back.
        seed: of the simulations.
        draws: number of simulations, in hundreds (`AT_ONCE`).
    """
    levels = {**factors, "": np.arange(len(scores))}
    codes = list(levels.values())
    counts = [[_counts(rows, columns) for columns in codes] for rows in codes]
    inverse = np.linalg.pinv(_expectations(counts))
    seen = [[row[-1] @ scores[:, None]] for row in counts]
    estimates = inverse @ _squares(seen, counts)[0, :, 0, 0]
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws // AT_ONCE):
        effects = [rng.standard_normal((own.max() + 1, AT_ONCE)) for own in codes]
        sums = [[table @ one for table, one in zip(row, effects, strict=True)] for row in counts]
        drawn.append(np.einsum("kf,dfij->dkij", inverse, _squares(sums, counts)))
    forms = np.concatenate(drawn)
    sds = np.sqrt(np.maximum(estimates, 0.0))
    total = float(np.sum(sds**2)) or 1.0
    return {
        name: VarianceComponent(
            float(sds[k]), *_interval(forms[:, k], sds, k, estimates[k]), float(sds[k] ** 2) / total
        )
        for k, name in enumerate(levels)
    }


def _counts(rows: Codes, columns: Codes) -> csr_array:
    """How many scores have a level of one factor and a level of another, [rows, columns]."""
    return coo_array((np.ones(len(rows)), (rows, columns))).tocsr()


def _squares(sums: list[list[Values]], counts: list[list[csr_array]]) -> Values:
    """Sums over levels of products of level sums, over their sizes, less those of all.

    Args:
        sums: by factor (F), and within it by what is summed (k): [levels, draws].
        counts: as `_counts`, by factor and factor.

    Returns:
        [draws, F, k, k].
    """
    found = []
    for own, row in zip(sums, counts, strict=True):
        sizes = row[0].sum(axis=1)
        stacked = np.moveaxis(np.stack(own), 2, 0)  # [draws, k, levels]
        whole = stacked.sum(axis=2)
        scaled = stacked / np.sqrt(sizes)
        products = scaled @ scaled.transpose(0, 2, 1)
        found.append(products - whole[:, :, None] * whole[:, None, :] / sizes.sum())
    return np.stack(found, axis=1)


def _expectations(counts: list[list[csr_array]]) -> Values:
    """Expected `_squares` [F] per unit of variance of each factor [F]."""

    def expected(table: csr_array) -> float:
        of_level = table.power(2).sum(axis=1) / table.sum(axis=1)
        return float(of_level.sum() - np.sum(table.sum(axis=0) ** 2) / table.sum())

    return np.array([[expected(table) for table in row] for row in counts])


def _interval(forms: Values, sds: Values, k: int, estimate: float) -> tuple[float, float]:
    """Standard deviations of factor k at which the estimate seen is in neither tail.

    Args:
        forms: [draws, F, F]: an estimate is the quadratic form of the standard deviations.
        sds: [F], of all factors.
        k: which one.
        estimate: of its variance, as seen (it may be negative).
    """
    others = np.delete(sds, k)
    square = forms[:, k, k]
    cross = 2 * np.delete(forms[:, k], k, axis=1) @ others
    rest = np.einsum("dij,i,j->d", np.delete(np.delete(forms, k, 1), k, 2), others, others)

    def at_most(sd: float) -> float:
        return float(np.mean(square * sd**2 + cross * sd + rest <= estimate))

    top = float(np.sqrt(np.sum(sds**2))) or 1.0
    while at_most(top) > TAIL and top < 1e6 * (sds.max() or 1.0):
        top *= 2

    def end(share: float) -> float:
        low, high = 0.0, top
        if at_most(0.0) <= share:
            return 0.0
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if at_most(middle) > share else (low, middle)
        return high

    return end(1 - TAIL), end(TAIL)


def _capped(trials: pd.DataFrame, nothing: Mapping[str, float]) -> pd.DataFrame:
    """Trials with a finite score each; groups that are mostly ruined are left out."""
    parts = [trials.iloc[:0]]
    for group, own in trials.groupby("group", sort=True):
        scores = own["score"].to_numpy(dtype=float)
        scores = np.where(np.isfinite(scores), scores, np.inf)
        limit = nothing.get(str(group), math.inf)
        if math.isfinite(limit):
            parts.append(own.assign(score=np.minimum(scores, limit)))
        elif math.isfinite(float(np.quantile(scores, 0.4, method="lower"))):
            parts.append(own.assign(score=winsorised(scores)))
    return pd.concat(parts)


def _codes(column: pd.Series) -> Codes:
    return pd.factorize(column, sort=True)[0].astype(np.intp)

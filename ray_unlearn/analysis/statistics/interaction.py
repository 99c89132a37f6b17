"""Whether learning rate and steps trade off: a response to log lr + kappa log steps alone.

kappa = 1 is "lr x steps is what counts"; kappa = 0 says that steps do nothing. Per group a
penalised cubic spline of that one variable (P-splines, Eilers and Marx 1996), one kappa for all
groups, profiled over a grid: a single-index model (Haerdle, Hall and Ichimura 1993). Beside it a
fit of both variables that contains the first, compared on held-out trials.

Robustness. Scores are U-shaped in effort with a heavy tail behind, so the response is winsorised
per group: how bad a ruined model is says nothing here. Trials stopped past their best leave rows
missing at high effort; which rows are missing follows from rows that are there, so a regression of
the rows that exist is not misled as one of the best or last rows would be.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm
from scipy.stats import t as student

from ray_unlearn.analysis.statistics.single_index import (
    FOLDS,
    GRID_STEP,
    FloatArray,
    GroupRows,
    held_out_errors,
    log_error,
    loss_by_trial,
    lowest_kappas,
    smoothing_penalties,
)

KAPPA_STEPS = (-0.5, 2.5)
KAPPA_WEIGHT = (-2.5, 2.5)
EQUIVALENT = (0.8, 1.25)
MIN_TRIALS, MIN_DISTINCT, MIN_TRIALS_OF_GROUP = 12, 3, 6
CURVE_FREEDOM = 4
"""Degrees of freedom of a group's fitted curve, about."""


@dataclass(frozen=True)
class Interaction:
    """How learning rate and a second quantity trade off.

    Errors are in units of the (winsorised) response.
    """

    kappa: float
    kappa_interval: tuple[float, float]
    """90 %, expanded percentiles over resampled trials (within groups)."""
    interval_at_bound: bool
    """The interval touches the range of kappa that was searched: no finite edge there."""
    rmse_one: float
    """Error of the one-variable fit on trials held out (10 folds; kappa estimated without them)."""
    rmse_two: float
    """Error of the two-variable fit on the same trials (kappa and its freedom chosen without
    them)."""
    one_as_good: bool
    """The one-variable fit loses at most one standard error of the paired differences of squared
    error, by trial."""
    equivalent: bool
    """90 % interval inside [0.8, 1.25] and `one_as_good`: only then is the product what counts."""
    n_trials: int
    n_rows: int


def learning_rate_by_steps(
    rows: pd.DataFrame, seed: int, bootstraps: int = 200, winsorise: bool = True
) -> Interaction | None:
    """Learning rate against steps.

    Args:
        rows: `trial`, `group`, `learning_rate`, `update`, `response`; lower is better. Where
            `learning_rate_sum` is given, the mean learning rate until `update` replaces
            `learning_rate`: exact for kappa = 1 under any schedule. A response of +inf (diverged)
            counts as the worst, NaN (not evaluated) is left out.
        seed: of folds and bootstrap.
        bootstraps: resamples of the trials within their groups.
        winsorise: False for a response without a tail: `clipped_forget_nll`, which rises
            throughout, so that a cut made for valleys would take off what is to be seen.

    Returns:
        None where fewer than 12 trials, 3 distinct updates or 3 distinct learning rates are left,
        counting groups of at least 6 trials, or the response is constant.
    """
    rate = _floats(rows["learning_rate"])
    if "learning_rate_sum" in rows:
        mean = _floats(rows["learning_rate_sum"]) / _floats(rows["update"])
        rate = np.where(np.isfinite(mean), mean, rate)
    return _interaction(_groups(rows, rate, "update", winsorise), KAPPA_STEPS, seed, bootstraps)


def weight_interaction(
    rows: pd.DataFrame, seed: int, weight: str = "w_r", bootstraps: int = 200
) -> Interaction | None:
    """Learning rate against a mixing weight, one row per trial (the row that scores it).

    Columns as `learning_rate_by_steps`, `weight` in place of `update`.

    kappa = 0: no trade-off, the best learning rate is the same at every weight. kappa = -1: the
    best learning rate grows with the weight. Searched within [-2.5, 2.5].
    """
    groups = _groups(rows, _floats(rows["learning_rate"]), weight, winsorise=True)
    return _interaction(groups, KAPPA_WEIGHT, seed, bootstraps)


def clipped_forget_nll(rows: pd.DataFrame, margin: float = 0.5) -> pd.Series:
    """`forget_nll` cut `margin` nats above `target_nll`: all ruined models are alike."""
    return rows["forget_nll"].clip(upper=rows["target_nll"] + margin)


def winsorised(response: FloatArray) -> FloatArray:
    """The response [n] cut above at q40 + 2.5 (q40 - q05).

    The cut stands still while up to 60 % of the rows are ruined.
    """
    low, middle = np.quantile(response, (0.05, 0.4), method="lower")
    return (
        np.minimum(response, middle + 2.5 * (middle - low))
        if np.isfinite(middle)
        else np.zeros(len(response))
    )


def _interaction(
    groups: list[GroupRows], bounds: tuple[float, float], seed: int, bootstraps: int
) -> Interaction | None:
    rates, others = (
        np.concatenate([getattr(g, name) for g in groups] or [[]]) for name in ("rate", "other")
    )
    n_trials = sum(g.n_trials for g in groups)
    if (
        n_trials < MIN_TRIALS
        or min(len(np.unique(rates.round(9))), len(np.unique(others.round(9)))) < MIN_DISTINCT
    ):
        return None
    rng = np.random.default_rng(seed)
    kappas: FloatArray = np.linspace(
        *bounds, round((bounds[1] - bounds[0]) / GRID_STEP) + 1, dtype=np.float64
    )
    folds = [rng.permutation(g.n_trials) % FOLDS for g in groups]
    resampled = [
        rng.multinomial(g.n_trials, np.full(g.n_trials, 1 / g.n_trials), bootstraps) for g in groups
    ]

    smoothing = smoothing_penalties(groups, folds, kappas[::4])
    # One pass over the grid for all weightings of the trials: all of them once, without each fold,
    # and the resamples.
    weights = [
        np.vstack([np.ones(g.n_trials), fold != np.arange(FOLDS)[:, None], drawn]).astype(float)
        for g, fold, drawn in zip(groups, folds, resampled, strict=True)
    ]
    criterion, n = np.zeros((len(kappas), 1 + FOLDS + bootstraps)), np.zeros(1 + FOLDS + bootstraps)
    for group, weight, penalty in zip(groups, weights, smoothing, strict=True):
        criterion += np.array([log_error(group, kappa, weight, penalty) for kappa in kappas])
        n += weight[:, group.trial].sum(axis=1)
    estimates = lowest_kappas(kappas, np.exp(criterion / n))
    kappa, of_folds, drawn_kappas = estimates[0], estimates[1 : 1 + FOLDS], estimates[1 + FOLDS :]
    low, high = (float(edge) for edge in np.quantile(drawn_kappas, _levels(n_trials, len(groups))))
    held_out = [
        held_out_errors(group, fold, of_folds, penalty)
        for group, fold, penalty in zip(groups, folds, smoothing, strict=True)
    ]
    loss = np.concatenate(
        [loss_by_trial(g, one, two) for g, (one, two) in zip(groups, held_out, strict=True)]
    )
    as_good = bool(loss.mean() <= loss.std(ddof=1) / np.sqrt(len(loss)))
    rmse_one, rmse_two = (
        float(np.sqrt(np.concatenate(errors).mean())) for errors in zip(*held_out, strict=True)
    )
    return Interaction(
        kappa=float(kappa),
        kappa_interval=(low, high),
        interval_at_bound=bool(low < bounds[0] + GRID_STEP / 2 or high > bounds[1] - GRID_STEP / 2),
        rmse_one=rmse_one,
        rmse_two=rmse_two,
        one_as_good=as_good,
        equivalent=as_good and low >= EQUIVALENT[0] and high <= EQUIVALENT[1],
        n_trials=n_trials,
        n_rows=len(rates),
    )


def _levels(n_trials: int, groups: int) -> tuple[float, float]:
    """Quantiles of the resampled kappas between which a 90 % interval lies.

    Percentiles of a bootstrap are too narrow where trials are few: expanded percentile interval
    (Hesterberg 2015, "What teachers should know about the bootstrap", section 4.4), with what each
    group's curve takes from the degrees of freedom.
    """
    left = max(n_trials - CURVE_FREEDOM * groups, 2)
    level = float(norm.cdf(math.sqrt(n_trials / left) * student.ppf(0.05, left)))
    return level, 1 - level


def _groups(rows: pd.DataFrame, rate: FloatArray, other: str, winsorise: bool) -> list[GroupRows]:
    """Usable rows by group and trial.

    Groups of too few trials or with a constant response are left out.
    """
    table = pd.DataFrame(
        {"group": rows["group"].to_numpy(), "trial": rows["trial"].to_numpy(), "rate": rate}
    )
    table["other"], table["response"] = _floats(rows[other]), _floats(rows["response"])
    positive = table["rate"].between(0, np.inf, "neither") & table["other"].between(
        0, np.inf, "neither"
    )
    table = table[positive & (table["response"] > -np.inf)]  # NaN is not greater, +inf is
    table = table.sort_values(["group", "trial", "other", "rate", "response"])
    found = []
    for _, part in table.groupby("group", sort=True, observed=True):
        trial = part["trial"].ne(part["trial"].shift()).cumsum().to_numpy(dtype=np.int64) - 1
        response = part["response"].to_numpy()
        if winsorise:
            response = winsorised(response)
        if trial[-1] + 1 >= MIN_TRIALS_OF_GROUP and np.ptp(response) > 0:
            response = response - response.mean()
            found.append(
                GroupRows(
                    np.log(part["rate"].to_numpy()),
                    np.log(part["other"].to_numpy()),
                    response,
                    trial,
                )
            )
    return found


def _floats(column: pd.Series) -> FloatArray:
    return column.to_numpy(dtype=float, na_value=np.nan)

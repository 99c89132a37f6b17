"""Do learning rate and steps trade off: is the response a function of log lr + kappa log steps
alone?

kappa = 1 is "lr x steps is what counts"; kappa = 0 says that steps do nothing. Per group a
penalised cubic spline of that one variable (P-splines, Eilers and Marx 1996), one kappa for all
groups, profiled over a grid: a single-index model (Haerdle, Hall and Ichimura 1993). Beside it a
fit of both variables that contains the first, compared on held-out trials.

Robustness. Scores are U-shaped in effort with a heavy tail behind, so the response is winsorised
per group: how bad a ruined model is says nothing here. Trials stopped past their best leave rows
missing at high effort; which rows are missing follows from rows that are there, so a regression of
the rows that exist is not misled as one of the best or last rows would be.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import BSpline

FloatArray = NDArray[np.float64]
KAPPA_STEPS = (-0.5, 2.5)
KAPPA_WEIGHT = (-2.5, 2.5)
EQUIVALENT = (0.8, 1.25)
GRID_STEP = 0.05
MIN_TRIALS, MIN_DISTINCT, MIN_TRIALS_OF_GROUP = 12, 3, 6
FOLDS = 10
SPLINE_BASES = 16
"""Of the one-variable fit: the penalty decides how many act. Twelve blur a cliff so much that kappa
shifts by half an SD."""
_SECOND = np.diff(np.eye(SPLINE_BASES), n=2, axis=0)
ROUGHNESS: FloatArray = _SECOND.T @ _SECOND + 1e-8 * np.eye(SPLINE_BASES)
"""Squared second differences of the coefficients; the trace of ridge is for knot intervals without
rows."""
PAIR_BASES = (7, 4)
"""Of the two-variable fit: along the learning rate, along the other."""
SMOOTHING = 10.0 ** np.arange(-5.0, 1.1, 1.0)
"""Penalties per row on squared second differences of the spline's coefficients, from wiggly to
straight."""
DEVIATION = 10.0 ** np.arange(-5.0, -0.9, 1.0)
"""Ridge per row on the departure of the two-variable fit from the one-variable one; no departure is
tried as well."""


@dataclass(frozen=True)
class Interaction:
    """How learning rate and a second quantity trade off. Errors in units of the (winsorised)
    response."""

    kappa: float
    kappa_interval: tuple[float, float]
    """90 %, percentiles over resampled trials (within groups)."""
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
    """Learning rate against a mixing weight, one row per trial (its checkpoint); columns as above,
    `weight` for `update`.

    kappa = 0: no trade-off, the best learning rate is the same at every weight. kappa = -1: the
    best learning rate grows with the weight. Searched within [-2.5, 2.5].
    """
    groups = _groups(rows, _floats(rows["learning_rate"]), weight, winsorise=True)
    return _interaction(groups, KAPPA_WEIGHT, seed, bootstraps)


def clipped_forget_nll(rows: pd.DataFrame, margin: float = 0.5) -> pd.Series:
    """`forget_nll` cut `margin` nats above `target_nll`: a response in which all ruined models are
    alike."""
    return rows["forget_nll"].clip(upper=rows["target_nll"] + margin)


def winsorised(response: FloatArray) -> FloatArray:
    """The response [n] cut above at q40 + 2.5 (q40 - q05): the cut stands still while up to 60 % of
    rows are ruined."""
    low, middle = np.quantile(response, (0.05, 0.4), method="lower")
    return (
        np.minimum(response, middle + 2.5 * (middle - low))
        if np.isfinite(middle)
        else np.zeros(len(response))
    )


@dataclass(frozen=True)
class _Group:
    """Rows of one group by trial: log learning rate, log of the other, response [n]; trial as 0 ...
    n_trials-1 [n]."""

    rate: FloatArray
    other: FloatArray
    response: FloatArray
    trial: NDArray[np.int64]

    @property
    def n_trials(self) -> int:
        return int(self.trial[-1]) + 1


def _interaction(
    groups: list[_Group], bounds: tuple[float, float], seed: int, bootstraps: int
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

    smoothing = _smoothing(groups, folds, kappas[::4])
    # One pass over the grid for all weightings of the trials: all of them once, without each fold,
    # and the resamples.
    weights = [
        np.vstack([np.ones(g.n_trials), fold != np.arange(FOLDS)[:, None], drawn]).astype(float)
        for g, fold, drawn in zip(groups, folds, resampled, strict=True)
    ]
    criterion, n = np.zeros((len(kappas), 1 + FOLDS + bootstraps)), np.zeros(1 + FOLDS + bootstraps)
    for group, weight, penalty in zip(groups, weights, smoothing, strict=True):
        criterion += np.array([_log_error(group, kappa, weight, penalty) for kappa in kappas])
        n += weight[:, group.trial].sum(axis=1)
    estimates = _lowest(kappas, np.exp(criterion / n))
    kappa, of_folds, drawn_kappas = estimates[0], estimates[1 : 1 + FOLDS], estimates[1 + FOLDS :]
    low, high = (float(edge) for edge in np.quantile(drawn_kappas, (0.05, 0.95)))
    held_out = [
        _held_out(group, fold, of_folds, penalty)
        for group, fold, penalty in zip(groups, folds, smoothing, strict=True)
    ]
    loss = np.concatenate(
        [_loss_by_trial(g, one, two) for g, (one, two) in zip(groups, held_out, strict=True)]
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


def _groups(rows: pd.DataFrame, rate: FloatArray, other: str, winsorise: bool) -> list[_Group]:
    """Usable rows by group and trial; groups of too few trials or with a constant response are left
    out."""
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
                _Group(
                    np.log(part["rate"].to_numpy()),
                    np.log(part["other"].to_numpy()),
                    response,
                    trial,
                )
            )
    return found


def _floats(column: pd.Series) -> FloatArray:
    return column.to_numpy(dtype=float, na_value=np.nan)


def _spline(x: FloatArray, n_bases: int) -> FloatArray:
    """B-splines [n, n_bases] on evenly spaced knots over the range of x [n]; cubic where there are
    four or more."""
    degree = min(3, n_bases - 1)
    low, width = x.min(), max(np.ptp(x), 1e-12)
    intervals = n_bases - degree
    knots = np.arange(-degree, intervals + degree + 1) / intervals
    # The last knot interval is closed on the left only.
    inside = np.clip((x - low) / width, 0.0, 1.0 - 1e-12)
    return BSpline.design_matrix(inside, knots, degree).toarray()


def _moments(group: _Group, kappa: float) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Sums by trial for the one-variable fit: B'B [T, p, p], B'y [T, p], y'y [T], rows [T]."""
    basis = _spline(group.rate + kappa * group.other, SPLINE_BASES)
    first = np.flatnonzero(np.diff(group.trial, prepend=-1))
    y = group.response
    return (
        np.add.reduceat(basis[:, :, None] * basis[:, None, :], first),
        np.add.reduceat(basis * y[:, None], first),
        np.add.reduceat(y * y, first),
        np.diff(first, append=len(y)).astype(float),
    )


def _squares(
    gram: FloatArray, cross: FloatArray, total: FloatArray, coefficients: FloatArray
) -> FloatArray:
    """Sum of squared errors of `coefficients` [..., p] on rows with these moments."""
    fitted = np.einsum("...i,...ij,...j->...", coefficients, gram, coefficients)
    return np.maximum(total - 2 * (coefficients * cross).sum(-1) + fitted, 0.0)


def _weighted(weights: FloatArray, moments: FloatArray) -> FloatArray:
    """Moments [T, ...] summed over trials with weights [b, T]: [b, ...]."""
    return np.tensordot(weights, moments, axes=1)


def _smoothing(
    groups: list[_Group], folds: list[NDArray[np.int64]], kappas: FloatArray
) -> list[float]:
    """Penalty of each group: least error on held-out trials, at the kappa where that error is least
    over all groups.

    By trial and not by generalised cross-validation over rows: rows of a trial share its other
    hyperparameters.
    """
    errors = np.empty((len(groups), len(kappas), len(SMOOTHING)))
    for g, (group, fold) in enumerate(zip(groups, folds, strict=True)):
        out = (fold == np.arange(FOLDS)[:, None]).astype(float)
        for k, kappa in enumerate(kappas):
            gram, cross, total, n = _moments(group, kappa)
            held = [_weighted(out, moment)[:, None] for moment in (gram, cross, total, n)]
            trained = [
                moment.sum(axis=0) - part
                for moment, part in zip((gram, cross, total, n), held, strict=True)
            ]
            penalty = SMOOTHING[:, None, None] * trained[3][..., None, None] * ROUGHNESS
            right = np.broadcast_to(trained[1], penalty.shape[:-1])
            coefficients = np.linalg.solve(trained[0] + penalty, right[..., None])[..., 0]
            errors[g, k] = _squares(held[0], held[1], held[2], coefficients).sum(axis=0)
    rows = np.array([len(group.response) for group in groups])
    best = np.argmin((rows[:, None] * _log(errors.min(axis=2) / rows[:, None])).sum(axis=0))
    return [float(SMOOTHING[i]) for i in errors[:, best].argmin(axis=1)]


def _log_error(group: _Group, kappa: float, weights: FloatArray, smoothing: float) -> FloatArray:
    """n log(mean squared error) of the one-variable fit under each weighting of the trials [b, T]:
    [b]."""
    gram, cross, total, n = (_weighted(weights, moment) for moment in _moments(group, kappa))
    penalty = smoothing * n[:, None, None] * ROUGHNESS
    coefficients = np.asarray(
        np.linalg.solve(gram + penalty, cross[..., None])[..., 0], dtype=np.float64
    )
    return np.multiply(n, _log(_squares(gram, cross, total, coefficients) / n))


def _log(mean_squares: FloatArray) -> FloatArray:
    return np.log(np.maximum(mean_squares, 1e-12))


def _lowest(kappas: FloatArray, criterion: FloatArray) -> FloatArray:
    """Where each column of the criterion [kappas, b] is least: the vertex of the parabola around
    the least one [b].

    A mean squared error is closer to a parabola than its logarithm, which has a cusp where the fit
    is good.
    """
    best = criterion.argmin(axis=0)
    inner = np.clip(best, 1, len(kappas) - 2)
    before, at, after = (
        np.take_along_axis(criterion, (inner + i)[None], axis=0)[0] for i in (-1, 0, 1)
    )
    curvature = before - 2 * at + after
    shift = np.where(
        curvature > 0, 0.5 * (before - after) / np.where(curvature > 0, curvature, 1.0), 0.0
    )
    return np.where(
        best == inner, kappas[inner] + GRID_STEP * np.clip(shift, -0.5, 0.5), kappas[best]
    )


def _held_out(
    group: _Group, fold: NDArray[np.int64], kappas: FloatArray, smoothing: float
) -> tuple[FloatArray, FloatArray]:
    """Squared errors [n] on held-out trials of the one-variable and the two-variable fit; `kappas`
    by fold.

    The two-variable fit adds a tensor product of splines with a ridge; the ridge for a fold is
    chosen on other folds.
    """
    shape = (PAIR_BASES[0], min(PAIR_BASES[1], len(np.unique(group.other))))
    pair = _spline(group.rate, shape[0])[:, :, None] * _spline(group.other, shape[1])[:, None, :]
    surface = pair.reshape(len(group.response), -1)
    p, q = SPLINE_BASES, surface.shape[1]
    row_fold = fold[group.trial]
    errors = np.empty((1 + len(DEVIATION), len(group.response)))
    for j in np.unique(row_fold):
        out = row_fold == j
        one = _spline(group.rate + kappas[j] * group.other, p)
        for i, ridge in enumerate((None, *DEVIATION)):
            basis = one if ridge is None else np.hstack([one, surface])
            penalty = np.zeros((basis.shape[1], basis.shape[1]))
            penalty[:p, :p] = smoothing * ROUGHNESS
            if ridge is not None:
                penalty[p:, p:] = ridge * np.eye(q)
            trained = basis[~out]
            gram = trained.T @ trained + len(trained) * penalty
            coefficients = np.linalg.solve(gram, trained.T @ group.response[~out])
            errors[i, out] = (group.response[out] - basis[out] @ coefficients) ** 2
    chosen = np.array([errors[:, row_fold != j].sum(axis=1).argmin() for j in range(FOLDS)])
    return errors[0], errors[chosen[row_fold], np.arange(errors.shape[1])]


def _loss_by_trial(group: _Group, one: FloatArray, two: FloatArray) -> FloatArray:
    """By trial [T], what the one-variable fit loses in squared error, in units of the group's mean
    squared error."""
    return np.bincount(group.trial, weights=one - two) / max(float(one.mean()), 1e-12)
